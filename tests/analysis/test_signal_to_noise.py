"""signal_to_noise, against NumPy; and how its result prints, plots and is read back."""

import json

import keras
import matplotlib
import numpy as np
import pytest

from keras_weightnoise import (
    SignalToNoiseResult,
    VariationalWeightNoise,
    signal_to_noise,
    strip_weight_noise,
)

matplotlib.use("Agg")
pytestmark = pytest.mark.any_version

layers = keras.layers


def variational():
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((4,))], name="m")
    for name, low in (("a", -1.0), ("b", -4.0)):
        layer = VariationalWeightNoise(layers.Dense(5, name=name), examples=8, name=name)
        model.add(layer)
        layer.noise.trainable_variables[0].assign(
            rng.uniform(low - 1, low, layer.layer.kernel.shape)
        )
    model.add(layers.Dense(2, name="c"))
    return model


def ratios(model):
    pairs = [pair for layer in model.layers[:2] for pair in layer.stddevs()]
    return [np.abs(mean) / np.asarray(stddev) for mean, stddev in pairs]


def test_the_ratios():
    model = variational()
    model.layers[0].layer.kernel.assign(np.eye(4, 5))  # With zeros.
    ((kernel, stddev),) = model.layers[1].stddevs()
    kernel.assign(np.vstack([1.05 * stddev[:1], 0.95 * stddev[1:2], kernel[2:]]))
    result = signal_to_noise(model)
    assert [row.name for row in result.rows] == ["a/a/kernel", "b/b/kernel"]
    for row, each in zip(result.rows, ratios(model), strict=True):
        assert row.shape == each.shape
        assert row.weights == each.size == sum(row.counts)
        expected = np.quantile(each, [0.05, 0.25, 0.5, 0.75, 0.95])
        np.testing.assert_allclose(row.quantiles, expected, rtol=1e-5)
        assert row.below_one == np.mean(each < 1.0)
    stddevs = [np.asarray(s) for layer in model.layers[:2] for _, s in layer.stddevs()]
    np.testing.assert_allclose(
        [r.mean_stddev for r in result.rows], list(map(np.mean, stddevs)), rtol=1e-5
    )
    everything = np.concatenate([each.ravel() for each in ratios(model)])
    np.testing.assert_allclose(result.overall.quantiles[2], np.median(everything), rtol=1e-5)
    assert result.overall.counts[0] == 16  # The zeros.
    edges = 10.0 ** (np.arange(-40, 41) / 10)
    inside = np.histogram(everything[everything > 0.0], edges)[0]
    np.testing.assert_array_equal(np.array(result.overall.counts)[1:], inside[1:])


def test_selected_and_stripped():
    model = variational()
    plain, stddevs = strip_weight_noise(model, return_stddevs=True)
    whole = signal_to_noise(plain, stddevs=stddevs)
    assert whole.overall == signal_to_noise(model).overall
    assert [row.name for row in whole.rows] == ["a/kernel", "b/kernel"]
    for arguments in ({"variables": "^b/"}, {"exclude": "^a/"}):
        assert signal_to_noise(plain, stddevs=stddevs, **arguments).rows == whole.rows[1:]
    for each, variables, message in (
        (plain, None, "has no learned standard deviations"),
        (model, "^c/", "that is selected has standard deviations"),
        (model, "bias", "that is selected has standard deviations"),
    ):
        with pytest.raises(ValueError, match=message):
            signal_to_noise(each, variables=variables)


def test_a_sigma_of_nothing_and_a_mean_of_nothing():
    model = variational()
    layer = model.layers[0]
    layer.noise.trainable_variables[0].assign(np.full((4, 5), -200.0))
    layer.layer.kernel.assign(np.eye(4, 5))
    row = signal_to_noise(model).rows[0]
    assert row.quantiles[2] == 0.0
    assert row.quantiles[4] > 1e38
    assert (row.counts[0], row.counts[-1]) == (16, 4)


def test_the_result(tmp_path):
    result = signal_to_noise(variational())
    lines = str(result).splitlines()
    assert lines[0] == "Signal to noise |mu| / sigma of 45 weights"
    assert lines[1].split() == [
        "variable",
        "weights",
        "mean",
        "sigma",
        "5",
        "%",
        "median",
        "95",
        "%",
        "below",
        "1",
    ]
    # The lowest median first, and all together last.
    assert [line.split()[0] for line in lines[2:]] == ["a/a/kernel", "b/b/kernel", "all"]
    assert "with a higher median" in result.table(1)
    assert "<table>" in result._repr_html_()
    frame = result.to_dataframe()
    assert list(frame["variable"]) == ["a/a/kernel", "b/b/kernel"]
    np.testing.assert_allclose(frame["50 %"], [row.quantiles[2] for row in result.rows])
    result.to_json(tmp_path / "result.json")
    assert SignalToNoiseResult.from_json(tmp_path / "result.json") == result
    assert json.loads(result.to_json())["type"] == "SignalToNoiseResult"
    ax = result.plot()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "all",
        "a/a/kernel",
        "b/b/kernel",
    ]
    assert len(result.plot(top=1).get_legend().get_texts()) == 2
    with pytest.raises(ValueError, match="Invalid `top`"):
        result.plot(top=0)

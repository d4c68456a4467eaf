"""choose_magnitude: the winner against all that was tried, what can be its metric, and its result."""

import functools

import keras
import matplotlib
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import (
    WeightNoiseEnsemble,
    calibration_report,
    fit_temperature,
    noises,
    scale_temperature,
)
from keras_weightnoise.analysis.choose_magnitude import choose_magnitude
from keras_weightnoise.analysis.magnitude_result import MagnitudeResult

pytestmark = pytest.mark.any_version

matplotlib.use("Agg")
L = keras.layers
X = np.eye(4, dtype="float32")
Y = np.array([0, 1, 2, 0])
SURE = np.where(np.eye(4), 0.9997, 0.0001)
choose = functools.partial(choose_magnitude, points=4, refinements=1, verbose=0)


def overconfident(noise=0.1):
    """An ensemble that is wrong in one case of four, and less sure of itself the larger its magnitude.

    Its predictions are a formula: what is tested is the search.
    """
    model = keras.Sequential([keras.Input((4,)), L.Dense(4, use_bias=False)])
    ensemble = WeightNoiseEnsemble(model, noise, members=2)

    def predict(x, **options):
        return scale_temperature(plain(x), 1.0 + ensemble.magnitude)

    def plain(x, **options):
        batches = x if isinstance(x, tf.data.Dataset) else [(x, None)]
        return SURE[np.concatenate([np.argmax(each, axis=1) for each, _ in batches])]

    ensemble.predict = predict
    model.predict = plain
    return ensemble


def test_the_winner_is_the_best_of_what_was_tried():
    ensemble = overconfident()
    result = choose(ensemble, (X, Y), low=0.1, high=100.0, refinements=3)
    tried = {row.magnitude: row.metrics for row in result.rows}
    assert list(tried) == sorted(tried)
    assert len(tried) == 4 + 2 * 3
    assert {0.1, 1.0, 10.0, 100.0} <= {round(m, 6) for m in tried}
    best = min(tried, key=lambda m: tried[m]["nll"])
    assert result.magnitude == ensemble.magnitude == best
    # What was graded is what the ensemble predicts.
    report = calibration_report(Y, ensemble.predict(X))
    assert tried[best] == {name: getattr(report, name) for name in tried[best]}
    assert result.clean["nll"] == calibration_report(Y, SURE).nll
    # A decade was halved three times about the temperature that is best.
    assert best == pytest.approx(fit_temperature(Y, SURE) - 1.0, rel=10**0.125 - 1.0)
    at = list(tried).index(best)
    np.testing.assert_allclose(np.diff(np.log10(list(tried)))[at - 1 : at + 1], 0.125, rtol=1e-6)


@pytest.mark.slow
def test_of_an_ensemble():
    model = keras.Sequential([keras.Input((4,)), L.Dense(4, activation="softmax")])
    model.layers[0].kernel.assign(10.0 * X)
    ensemble = WeightNoiseEnsemble(model, noises.Uniform(0.3), members=8)
    result = choose(ensemble, (X, Y), low=0.1, high=100.0)
    assert 1.0 < ensemble.magnitude == result.magnitude < 100.0
    report = calibration_report(Y, ensemble.predict(X, verbose=0))
    (chosen,) = (row.metrics for row in result.rows if row.magnitude == result.magnitude)
    assert chosen["nll"] == pytest.approx(report.nll)
    assert result.clean["nll"] == pytest.approx(
        calibration_report(Y, model.predict(X, verbose=0)).nll
    )


@pytest.mark.parametrize(
    ("metric", "mode", "name"),
    [
        ("accuracy", "auto", "accuracy"),
        ("ece", "auto", "ece"),
        (keras.losses.sparse_categorical_crossentropy, "auto", "sparse_categorical_crossentropy"),
        (lambda y, p: -np.square(p[0, 0] - 0.9), "max", "<lambda>"),
    ],
)
def test_metrics(metric, mode, name):
    ensemble = overconfident()
    result = choose(ensemble, (X, Y), metric=metric, mode=mode, low=0.1, high=30.0)
    values = {0.0: result.clean[name]} | {row.magnitude: row.metrics[name] for row in result.rows}
    best = (max if name in ("accuracy", "<lambda>") else min)(values.values())
    # Of equals, the least noise.
    assert result.magnitude == min(m for m, value in values.items() if value == best)
    if name == "accuracy":
        assert result.magnitude == 0.0


def test_regression():
    ensemble = overconfident()
    result = choose(ensemble, (X, SURE), metric=keras.losses.mean_squared_error)
    assert list(result.clean) == ["mean_squared_error"]
    assert ensemble.magnitude == result.magnitude == 0.0
    assert len(result.plot()) == 1
    matplotlib.pyplot.close("all")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return X[2 * i : 2 * i + 2], Y[2 * i : 2 * i + 2]


@pytest.mark.parametrize("kind", ["shuffled dataset", "py_dataset", "generator", "steps"])
def test_batches(kind):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(4).batch(3)
    if kind == "py_dataset":
        data = Batches()
    elif kind == "generator":
        data = (batch for batch in [(X[:3], Y[:3]), (X[3:], Y[3:])])
    elif kind == "steps":
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).repeat()
    found = choose(overconfident(), data, high=30.0, steps=1 if kind == "steps" else None)
    expected = choose(overconfident(), (X, Y), high=30.0)
    assert found.magnitude == expected.magnitude > 0.0
    assert found.clean["nll"] == pytest.approx(expected.clean["nll"], rel=1e-5)


def test_steps_of_arrays():
    found = choose(overconfident(), (X, Y), high=30.0, batch_size=3, steps=1)
    assert found.clean["accuracy"] == 1.0


@pytest.mark.parametrize(("low", "high", "end"), [(0.001, 0.01, "high"), (50.0, 60.0, "low")])
def test_the_best_at_an_end(low, high, end):
    with pytest.warns(UserWarning, match=f"Expected `{end}`") as caught:
        result = choose(overconfident(), (X, Y), low=low, high=high, points=2)
    assert caught[0].filename == __file__
    assert result.magnitude in (low, high)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("when", [1, 3])
def test_interrupts_and_errors(when, error):
    ensemble = overconfident(0.25)
    predict, calls = ensemble.predict, []

    def watched(*args, **kwargs):
        calls.append(ensemble.magnitude)
        if len(calls) == when:
            raise error
        return predict(*args, **kwargs)

    ensemble.predict = watched
    if error is KeyboardInterrupt and when == 3:
        with pytest.warns(UserWarning, match="2 rows") as caught:
            result = choose(ensemble, (X, Y), low=1.0, high=8.0)
        assert caught[0].filename == __file__
        assert not result.complete
        assert "INCOMPLETE" in str(result)
        assert ensemble.magnitude == result.magnitude == calls[1]
    else:
        with pytest.raises(error):
            choose(ensemble, (X, Y))
        assert ensemble.magnitude == 0.25


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ensemble": 3}, TypeError, "Invalid `ensemble`"),
        ({"ensemble": "several"}, ValueError, r"a single noise.*magnitudes \(0.1, 0.2\)"),
        ({"metric": "loss"}, ValueError, "Invalid `metric`.*'nll'.*Received: metric='loss'"),
        ({"mode": "up"}, ValueError, "Invalid `mode`"),
        ({"low": 0.0}, ValueError, "Invalid `low`"),
        ({"high": "a"}, TypeError, "Invalid `high`"),
        ({"low": 1.0, "high": 1.0}, ValueError, "Invalid `high`"),
        ({"points": 1}, ValueError, "Invalid `points`"),
        ({"refinements": -1}, ValueError, "Invalid `refinements`"),
        ({"data": X}, ValueError, "Invalid `data`"),
        ({"data": (X, Y, Y)}, ValueError, "Invalid `data`"),
        ({"data": (X, Y + 3)}, ValueError, "Invalid `y_true`"),
        ({"ensemble": "rate", "high": 2.0}, ValueError, "Invalid `rate`.*Received: rate=2.0"),
    ],
    ids=str,
)
def test_wrong_arguments(options, error, message):
    kinds = {"several": [("kernel", 0.1), (None, 0.2)], "rate": noises.DropConnect(0.1)}
    if options.get("ensemble") == "several":
        options["ensemble"] = overconfident(noises.Gaussian(0.1) + noises.Uniform(0.2))
    elif options.get("ensemble") == "rate":
        options["ensemble"] = overconfident(kinds["rate"])
    arguments = {"ensemble": overconfident(), "data": (X, Y)} | options
    ensemble = arguments["ensemble"]
    with pytest.raises(error, match=message):
        choose(**arguments)
    if isinstance(ensemble, WeightNoiseEnsemble):
        assert ensemble.magnitude in (0.1, (0.1, 0.2))


def test_result():
    result = choose(overconfident(), (X, Y), high=30.0)
    assert MagnitudeResult.from_json(result.to_json()) == result
    lines = str(result).splitlines()
    assert lines[0].startswith(f"The lowest nll is at a magnitude of {result.magnitude:.4g}: ")
    assert lines[1].split() == ["magnitude", "nll", "accuracy", "ece", "brier"]
    assert lines[2].split()[0] == "without"
    assert len(lines) == 3 + len(result.rows)
    frame = result.to_dataframe()
    assert frame.magnitude[0] == 0.0
    assert frame.nll.min() == frame.nll[frame.magnitude == result.magnitude].item()
    axes = result.plot(label="net")
    assert [ax.get_ylabel() for ax in axes] == ["nll", "accuracy", "ece"]
    assert axes[0].lines[2].get_xdata()[0] == result.magnitude > 0.0
    assert result.plot(axes=axes, label="again")[0] is axes[0]
    entries = [text.get_text() for text in axes[0].get_legend().texts]
    assert entries == ["net", "without noise", "chosen", "again"]
    with pytest.raises(ValueError, match="Invalid `metric`"):
        result.plot(["auc"])
    matplotlib.pyplot.close("all")

"""prune_weights, against the same by hand."""

import keras
import numpy as np
import pytest

from keras_weightnoise import (
    VariationalWeightNoise,
    WeightNoiseEnsemble,
    noises,
    prune_weights,
    strip_weight_noise,
)

layers = keras.layers
X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


def variational(**kwargs):
    """Two layers with learned standard deviations that are no two alike, and one without."""
    rng = np.random.default_rng(1)
    wrapped = [
        VariationalWeightNoise(layers.Dense(6, **kwargs), examples=8, name=name) for name in "ab"
    ]
    model = keras.Sequential([keras.Input((4,)), *wrapped, layers.Dense(2, name="c")], name="m")
    for layer in wrapped:
        layer.noise.trainable_variables[0].assign(rng.uniform(-4.0, 1.0, layer.layer.kernel.shape))
    return model


def kernels(model):
    return [np.array(v) for v in model.variables if v.name == "kernel"]


def by_hand(model, fraction, scores):
    """The kernels with the lowest scores at 0."""
    limit = np.sort(np.concatenate([s.ravel() for s in scores]))[
        round(fraction * sum(s.size for s in scores))
    ]
    return [np.where(s < limit, 0.0, w) for s, w in zip(scores, kernels(model), strict=False)]


def ratios(model):
    return [np.abs(m) / s for layer in model.layers[:2] for m, s in layer.stddevs()]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.75])
def test_by_signal_to_noise(fraction, inplace):
    model = variational()
    before = model.get_weights()
    expected = by_hand(model, fraction, [np.asarray(r) for r in ratios(model)])
    pruned = prune_weights(model, fraction, inplace=inplace)
    assert (pruned is model) == inplace
    for actual, wanted in zip(kernels(pruned), expected, strict=False):
        np.testing.assert_array_equal(actual, wanted)
    np.testing.assert_array_equal(kernels(pruned)[2], before[-2])  # It has no sigma.
    for layer in pruned.layers[:2]:
        ((mean, stddev),) = layer.stddevs()
        assert np.all((np.asarray(stddev) < 1e-17) == (np.asarray(mean) == 0.0))
    assert np.isfinite(float(pruned.layers[0].kl_divergence()))
    if not inplace:
        for a, b in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_is_pruned_has_no_noise_either():
    model = prune_weights(variational(), 1.0)
    ensemble = WeightNoiseEnsemble(model, noises.Learned(), members=2)
    np.testing.assert_allclose(ensemble.predict_members(X), [model(X)] * 2, atol=1e-15)


@pytest.mark.slow
def test_a_stripped_model():
    model = variational()
    plain, stddevs = strip_weight_noise(model, return_stddevs=True)
    expected = kernels(prune_weights(model, 0.5))
    for pruned in (
        strip_weight_noise(prune_weights(model, 0.5)),
        prune_weights(plain, 0.5, stddevs=stddevs),
        prune_weights(plain, 0.5, stddevs=stddevs, inplace=True),
    ):
        for actual, wanted in zip(kernels(pruned), expected, strict=True):
            np.testing.assert_array_equal(actual, wanted)


def test_by_weight():
    model = variational()
    expected = by_hand(model, 0.5, [np.abs(w) for w in kernels(model)])
    pruned = prune_weights(model, 0.5, by="weight")
    for actual, wanted in zip(kernels(pruned), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    gone = [np.asarray(layer.stddevs()[0][1]) < 1e-17 for layer in pruned.layers[:2]]
    np.testing.assert_array_equal(gone[0], expected[0] == 0.0)


def test_selected_frozen_and_half_precision():
    model = variational(dtype="bfloat16")
    model.trainable = False
    pruned = prune_weights(model, 0.5, variables="^b/")
    assert [np.count_nonzero(w == 0.0) for w in kernels(pruned)] == [0, 18, 0]
    assert [v.dtype for v in pruned.variables] == [v.dtype for v in model.variables]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fraction": 1.5}, ValueError, r"Invalid `fraction`.*\[0, 1\].*fraction=1.5"),
        ({"fraction": -0.5}, ValueError, r"Invalid `fraction`"),
        ({"fraction": "half"}, TypeError, r"Invalid `fraction`"),
        ({"by": "size"}, ValueError, r"Invalid `by`.*Received: by='size'"),
        ({"inplace": 1}, TypeError, r"Invalid `inplace`"),
        ({"variables": "nowhere"}, ValueError, r"`variables` matches no eligible"),
        ({"variables": "^c/"}, ValueError, r"that is selected has standard deviations"),
        ({"model": keras.Sequential([layers.Dense(2)])}, ValueError, r"no variables to prune"),
        ({"model": 3}, TypeError, r"Invalid `model`"),
        ({"stddevs": [3]}, TypeError, r"Invalid `stddevs`.*Expected pairs"),
        ({"stddevs": [(keras.Variable(1.0), 1.0)]}, ValueError, r"Invalid `stddevs`.*none of them"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        prune_weights(**{"model": variational(), "fraction": 0.5, **arguments})


def test_standard_deviations_that_are_missing_or_of_another_shape():
    plain, stddevs = strip_weight_noise(variational(), return_stddevs=True)
    with pytest.raises(ValueError, match=r"'m' has no learned standard deviations.*return_stddevs"):
        prune_weights(plain, 0.5)
    ((variable, stddev), *_) = stddevs
    with pytest.raises(
        ValueError, match=r"Expected those of '.*kernel' to have its shape \(4, 6\)"
    ):
        prune_weights(plain, 0.5, stddevs=[(variable, stddev[:1])])

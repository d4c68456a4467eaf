"""ParametricNoise: its formula, its gradients, that it is always on, and what becomes of alpha.

`test_keras_conformance.py` has what Keras asks of it.
"""

import functools

import fits
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import (
    GaussianWeightNoise,
    ParametricNoise,
    noisy_call,
    perturb_weights,
    strip_weight_noise,
)
from keras_weightnoise._random import drawing, laws
from keras_weightnoise._random.generator import make_key
from keras_weightnoise._weights import selection

layers = keras.layers
X = tf.constant(np.random.default_rng(0).normal(size=(8, 4)), "float32")
Y = tf.ones((8, 2))


def parametric(layer=None, x=X, alpha=-0.4, **kwargs):
    """A wrapped layer, built. An alpha below 0 is what training may come to."""
    layer = ParametricNoise(layers.Dense(2) if layer is None else layer, **{"seed": 1, **kwargs})
    layer(x)
    for _, each in layer.alphas():
        each.assign(alpha)
    return layer


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"initial_alpha": 0.0}, ValueError, r"Invalid `initial_alpha`.*> 0.*initial_alpha=0.0"),
        ({"initial_alpha": "0.1"}, TypeError, r"Invalid `initial_alpha`"),
        ({"estimator": "other"}, ValueError, r"Invalid `estimator`"),
        ({"seed": -1}, ValueError, r"Invalid `seed`"),
        ({"layer": None}, ValueError, r"isn't a supported layer type"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ParametricNoise(**{"layer": layers.Dense(2), **arguments})


def test_begins_with_the_published_alpha():
    layer = ParametricNoise(layers.Dense(2))
    with pytest.raises(ValueError, match="Expected a built layer"):
        layer.alphas()
    layer(X)
    ((variable, alpha),) = layer.alphas()
    assert variable is layer.layer.kernel
    assert (alpha.name, float(alpha), alpha.trainable) == ("kernel_alpha", 0.25, True)


def test_noise_and_gradients_are_those_by_hand():
    layer = parametric()
    w, alpha = layer.layer.kernel, layer.noise.trainable_variables[0]
    (target,) = selection.select(layer.layer, "kernels")
    spread = np.std(w)
    np.testing.assert_allclose(layer.stddevs()[0][1], 0.4 * spread, rtol=1e-6)
    # The first draw was for the call that built it.
    for step, training in enumerate((True, False, None), 1):
        (n,) = drawing.draw(laws.NORMAL, make_key(1, step), [target.start], [(4, 2)])
        with tf.GradientTape() as tape:
            outputs = layer(X, training=training)
            loss = tf.reduce_sum(outputs**2)
        noisy = w - 0.4 * spread * n
        np.testing.assert_allclose(outputs, X @ noisy + layer.layer.bias, rtol=1e-5, atol=1e-6)
        by_kernel = tf.transpose(X) @ (2.0 * outputs)
        actual = tape.gradient(loss, [w, alpha])
        np.testing.assert_allclose(actual[0], by_kernel, rtol=1e-4)  # None through std(W).
        np.testing.assert_allclose(actual[1], np.sum(by_kernel * n * spread), rtol=1e-4)


@pytest.mark.any_version
@pytest.mark.parametrize("estimator", ["shared", "flipout", "local_reparameterization"])
def test_outputs_have_the_variance_of_the_noise(estimator):
    layer = parametric(layers.Dense(5000), estimator=estimator)
    with tf.GradientTape() as tape:
        difference = layer(X[:2]) - layer.layer(X[:2])
        loss = tf.reduce_mean(difference**2)
    expected = np.sum(np.square(X[:2]), 1) * (0.4 * np.std(layer.layer.kernel)) ** 2
    np.testing.assert_allclose(np.var(difference, 1), expected, rtol=0.1)
    # The variance goes with the square of alpha.
    gradient = tape.gradient(loss, layer.noise.trainable_variables[0])
    np.testing.assert_allclose(gradient, 2.0 * np.mean(expected) / -0.4, rtol=0.1)


def test_each_kernel_has_its_own():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    layer = parametric(inner)
    names = [v.name for v in layer.noise.trainable_variables]
    assert len(set(names)) == 2, names
    assert all(name.endswith("kernel_alpha") for name in names)
    assert layer.get_weights()[: len(inner.weights)][0].shape == (4, 3)
    # With one of them at 0, the other is what is noisy.
    layer.noise.trainable_variables[0].assign(0.0)
    hidden = inner.layers[0](X)
    outputs = layer(X)
    assert np.any(outputs != inner(X))
    assert np.linalg.matrix_rank(np.column_stack([hidden, outputs]), tol=1e-4) == 3


def test_frozen_layers_are_noisy_and_alpha_stays():
    layer = parametric()
    layer.trainable = False
    first, second = layer(X, training=True), layer(X)
    assert np.any(first != second)
    assert not layer.trainable_variables
    layer.trainable, layer.layer.trainable = True, False
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(X) ** 2)
    assert tape.gradient(loss, layer.trainable_variables)[0] is not None


def test_variables_that_came_later():
    layer = parametric()
    layer.layer.enable_lora(1)
    with pytest.raises(ValueError, match=r"no learned standard deviations for .*wrapped last"):
        layer(X)


def test_training_saving_and_what_does_not_touch_alpha(tmp_path):
    model = keras.Sequential([keras.Input((4,)), parametric(alpha=0.25), layers.Dense(2)])
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["_alpha"])
    model.compile(optimizer, "mse", run_eagerly=True)
    layer = model.layers[0]
    alpha = layer.noise.trainable_variables[0]
    model.fit(tf.zeros_like(X), Y, verbose=0)  # No gradient reaches it, so decay alone would.
    assert float(alpha) == 0.25
    assert np.any(model.predict(X, verbose=0) != model.predict(X, verbose=0))
    model.fit(X, Y, verbose=0)
    assert float(alpha) != 0.25
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].initial_alpha == layer.initial_alpha
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(loaded.layers[0].layer(X), layer.layer(X))
    for chosen in (selection.select(model, None), selection.select(model, None, frozen=True)):
        assert {id(t.variable) for t in chosen} == {id(v) for v in model.weights if v is not alpha}
    plain = strip_weight_noise(model)
    np.testing.assert_array_equal(plain(X), model.layers[1](layer.layer(X)))
    noisy = perturb_weights(model, 1.0, exclude="bias")
    assert noisy.layers[0].noise.get_weights() == layer.noise.get_weights()
    assert np.any(noisy_call(model, 1.0, X, seed=1, step=1) != model(X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorFlow's own.
@pytest.mark.parametrize(
    "wrap", [ParametricNoise, functools.partial(GaussianWeightNoise, stddev=0.1)]
)
def test_calls_outside_of_replicas(wrap):
    """As in a `fit` on several devices, which calls a model that is to be built with `training=False`."""
    with fits.strategy().scope():
        layer = wrap(layers.Dense(2), seed=1)
        outputs = layer(X, training=True)
    other = wrap(layers.Dense(2), seed=1)
    other.build(X.shape)
    other.set_weights(layer.get_weights())
    np.testing.assert_allclose(outputs, other(X, training=True), rtol=1e-5)
    assert np.any(outputs != layer.layer(X))


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_precision(policy):
    layer = parametric(layers.Dense(2, dtype=policy), alpha=0.25)
    with tf.GradientTape() as tape:
        outputs = layer(X)
        loss = tf.reduce_sum(tf.cast(outputs, "float32"))
    assert outputs.dtype == layer.compute_dtype
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert all(np.all(np.isfinite(g)) and g.dtype == layer.variable_dtype for g in gradients)

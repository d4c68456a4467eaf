"""NoisyDense: its formula, its draws, held and redrawn, and what Keras does with it."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src import testing

from keras_weightnoise import NoisyDense
from keras_weightnoise._random import drawing, laws
from keras_weightnoise._random.generator import make_key
from keras_weightnoise._weights import selection

X = tf.constant(np.random.default_rng(0).normal(size=(6, 4)), "float32")


def built(units=3, x=X, **kwargs):
    layer = NoisyDense(units, **{"seed": 1, **kwargs})
    layer(x)
    return layer


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"units": 0}, ValueError, r"Invalid `units`.*Received: units=0"),
        ({"units": 2.0}, TypeError, r"Invalid `units`"),
        ({"use_bias": 1}, TypeError, r"Invalid `use_bias`"),
        ({"factorised": None}, TypeError, r"Invalid `factorised`"),
        ({"initial_stddev": 0.0}, ValueError, r"Invalid `initial_stddev`.*> 0"),
        ({"initial_stddev": "0.5"}, TypeError, r"Invalid `initial_stddev`"),
        ({"hold": "episode"}, TypeError, r"Invalid `hold`"),
        ({"seed": -1}, ValueError, r"Invalid `seed`"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        NoisyDense(**{"units": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "limit", "size"),
    [
        ({}, 1 / 20, 0.5 / 20),
        ({"initial_stddev": 0.1}, 1 / 20, 0.1 / 20),
        ({"factorised": False}, math.sqrt(3 / 400), 0.017),
        ({"factorised": False, "initial_stddev": 0.1}, math.sqrt(3 / 400), 0.1),
    ],
)
def test_initial_weights_are_the_published(arguments, limit, size):
    layer = built(200, tf.ones((1, 400)), **arguments)
    for mean in (layer.kernel, layer.bias):
        assert 0.9 * limit < np.max(np.abs(mean)) <= limit
        assert abs(np.mean(mean)) < 0.2 * limit
    for sigma in (layer.kernel_sigma, layer.bias_sigma):
        np.testing.assert_allclose(sigma, np.full(sigma.shape, size), rtol=1e-6)
        assert sigma.name.endswith("_sigma")  # What weight decay is told to leave out.


@pytest.mark.parametrize("factorised", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
def test_outputs_and_gradients_are_those_by_hand(factorised, use_bias):
    layer = built(factorised=factorised, use_bias=use_bias, activation="tanh")
    shapes = [(4,), (3,)] if factorised else [(4, 3), (3,)]
    for step in range(2):
        key = make_key(1, step)
        noise = drawing.draw(laws.NORMAL, key, drawing.offsets(shapes), shapes)
        if factorised:
            u, v = (np.sign(n) * np.sqrt(np.abs(n)) for n in noise)
            noise = np.outer(u, v), v

        def by_hand(noise=noise):
            y = X @ (layer.kernel + layer.kernel_sigma * noise[0])
            return tf.tanh(y + (layer.bias + layer.bias_sigma * noise[1] if use_bias else 0.0))

        results = []
        for function in (by_hand, lambda: layer(X, training=True)):
            with tf.GradientTape() as tape:
                outputs = function()
            results.append([outputs, *tape.gradient(outputs, layer.trainable_variables)])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    clean = tf.tanh(X @ layer.kernel + (layer.bias if use_bias else 0.0))
    for training in (False, None):
        np.testing.assert_allclose(layer(X, training=training), clean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_held_until_it_is_redrawn(compiled):
    layer = built(hold=True)

    def act():
        return layer(X, training=True)

    def step():
        layer.redraw()
        return act()

    if compiled:
        act, step = tf.function(act), tf.function(step)
    first = act()
    np.testing.assert_array_equal(act(), first)
    second = step()
    assert np.any(second != first)
    np.testing.assert_array_equal(act(), second)
    free = built(hold=False)
    assert np.any(free(X, training=True) != free(X, training=True))


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_precision(policy):
    layer = built(dtype=policy)
    with tf.GradientTape() as tape:
        outputs = layer(X, training=True)
    assert outputs.dtype == layer.compute_dtype
    assert all(
        g.dtype == layer.variable_dtype for g in tape.gradient(outputs, layer.trainable_variables)
    )


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_save_load(jit_compile, tmp_path):
    model = keras.Sequential([keras.Input((4,)), NoisyDense(3, "relu"), NoisyDense(1, seed=2)])
    model.compile("adam", "mse", jit_compile=jit_compile)
    before = model.get_weights()
    model.fit(X, tf.ones((6, 1)), verbose=0)
    assert all(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), model(X))
    assert loaded.layers[0].get_config() == model.layers[0].get_config()


def test_other_noise_is_for_the_means_alone():
    targets = selection.select(built(), None)
    assert [t.variable.name for t in targets] == ["kernel", "bias"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")  # By Keras's test itself.
def test_passes_the_test_of_keras():
    testing.TestCase().run_layer_test(
        NoisyDense,
        {"units": 3, "activation": "relu"},
        input_shape=(2, 5, 4),
        expected_output_shape=(2, 5, 3),
        expected_num_trainable_weights=4,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=1,
        expected_num_losses=0,
        supports_masking=True,
    )

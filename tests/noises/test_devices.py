"""Devices that are a polynomial: one's own, and those of resistive memory."""

import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import noises as N

pytestmark = pytest.mark.any_version

SAMPLES = 200_000


def read(noise, values):
    """What is read of each of these weights, of which the largest is 1, many times."""
    rng = np.random.default_rng(0)
    w = np.repeat(np.float64(values)[:, None], SAMPLES, axis=1)
    draws = [tf.constant(rng.normal(size=w.shape)) for _ in noise.draws]
    return noise.perturb(tf.constant(w), draws, tf.constant(0.5, tf.float64), (0,)).numpy()


VALUES = np.array([-1.0, -0.6, -0.01, 0.0, 0.2, 0.9])


@pytest.mark.parametrize("coefficients", [[0.1], [0.01, 0.2], [0.05, 0.1, -0.03, 0.02]], ids=str)
def test_polynomial(coefficients):
    x = read(N.Polynomial(coefficients), VALUES)
    sizes = 0.5 * sum(c * np.abs(VALUES) ** i for i, c in enumerate(coefficients))
    np.testing.assert_allclose(x.std(axis=1), sizes, rtol=0.01)
    np.testing.assert_allclose(x.mean(axis=1), VALUES, atol=5 * sizes.max() / SAMPLES**0.5)


def test_polynomial_is_relative_to_the_largest():
    w, n = tf.constant([[1.0, -4.0, 2.0]]), tf.constant([[1.0, 1.0, -2.0]])
    noisy = N.Polynomial([0.1, 1.0]).perturb(w, [n], tf.constant(0.5), (0,))
    # 0.5 * 4 * n * (0.1 + |w| / 4).
    np.testing.assert_allclose(noisy, [[1 + 0.7, -4 + 2.2, 2 - 2.4]], rtol=1e-6)


# From the papers' figures, as fitted by CrossSim: in microsiemens, the lowest power first.
PRESETS = {
    "wan2022": (0.0, 39.26, [1.053, 0.2374, -1.167e-2, 1.536e-4]),
    "milo2021": (50.0, 225.0, [4.782321, -0.009107]),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_of_resistive_memory(preset):
    least, most, coefficients = PRESETS[preset]
    rng = np.random.default_rng(1)

    def cell(x):
        g = least + x * (most - least)
        error = 0.5 * sum(c * g**i for i, c in enumerate(coefficients))
        return np.maximum(g + error * rng.normal(size=SAMPLES), 0.0)

    x = read(N.ReRAM(preset), VALUES)
    for value, actual in zip(VALUES, x, strict=True):
        expected = (cell(max(value, 0)) - cell(max(-value, 0))) / (most - least)
        assert np.std(actual) == pytest.approx(np.std(expected), rel=0.01)
        assert np.mean(actual) == pytest.approx(np.mean(expected), abs=6e-4)


@pytest.mark.parametrize("noise", [N.Polynomial([0.1, 0.1]), N.ReRAM()], ids=str)
def test_a_variable_of_zeros_stays_so(noise):
    zeros = tf.zeros((3, 4))
    draws = [tf.ones((3, 4)) for _ in noise.draws]
    np.testing.assert_array_equal(noise.perturb(zeros, draws, tf.constant(1.0), (0,)), zeros)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((lambda x=x: N.Polynomial(x), "coefficients") for x in ([], None, 0.1, ["a"], "12")),
        (lambda: N.Polynomial([float("nan")]), "coefficients"),
        (lambda: N.Polynomial([0.1], scale=-1), "scale"),
        (lambda: N.ReRAM("hermes"), "preset"),
        (lambda: N.ReRAM(scale="1"), "scale"),
        (lambda: N.ReRAM(persistent=1), "persistent"),
    ],
)
def test_bad_arguments(make, name):
    with pytest.raises((ValueError, TypeError), match=rf"Invalid `{name}`.*Received: {name}="):
        make()


def test_shapes_are_known_in_graphs_of_many_variables():
    # One graph of the formula serves all small variables; what comes next asks for shapes of its own.
    @tf.function(autograph=False)
    def apply():
        for shape in [(3, 4), (5, 4), (6,), ()]:
            draws = [tf.ones(shape)] * 2
            assert N.ReRAM().perturb(tf.ones(shape), draws, tf.constant(1.0), ()).shape == shape

    apply()

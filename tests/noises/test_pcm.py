"""Phase-change memory against its formula, cell by cell, and as noise like any other."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import layer_sensitivity, noises, perturbed_weights, robustness_sweep
from keras_weightnoise._weights.perturbation import perturb
from keras_weightnoise._weights.selection import Target

pytestmark = pytest.mark.any_version

YEAR = 31_536_000.0


def cell(x, time, n, programming=1.0, drift=1.0, read=1.0):
    """One cell as the docstring has it, in microsiemens: what is programmed, and what is read."""
    g = 25.0 * x
    g = max(0.0, g + programming * (0.26348 + 1.9650 * x - 1.1731 * x**2) * n[0])
    programmed = g
    log = np.log(max(x, 1e-7))
    mu = np.clip(-0.0155 * log + 0.0244, 0.049, 0.1)
    sigma = np.clip(-0.0125 * log - 0.0059, 0.008, 0.045)
    g = g * ((time + 20) / 20) ** (-drift * abs(mu + sigma * n[1]))
    q = min(0.0088 / max((programmed / 25) ** 0.65, 0.001), 0.2)
    reads = np.sqrt(np.log((time + 20 + 250e-9) / (2 * 250e-9)))
    return programmed, max(0.0, g * (1 + read * q * reads * n[2]))


def reference(w, time, draws, compensation=None, **factors):
    most = np.max(np.abs(w))
    programmed, left = np.zeros_like(w), np.zeros_like(w)
    for i in np.ndindex(w.shape):
        n = [draw[i] for draw in draws]
        plus = cell(max(w[i], 0) / most, time, n[:3], **factors)
        minus = cell(max(-w[i], 0) / most, time, n[3:], **factors)
        programmed[i], left[i] = np.subtract(plus, minus) * most / 25
    if compensation:
        left *= np.sum(np.abs(programmed)) / np.sum(np.abs(left))
    return left


@pytest.mark.slow
@pytest.mark.any_version
@pytest.mark.parametrize(
    ("shape", "time"),
    [((7, 9), time) for time in (0.0, 1.0, 3600.0, YEAR)]
    + [((150, 60), time) for time in (0.0, YEAR)],  # In one kernel, which is compiled.
)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"compensation": "global"},
        {"programming": 0.0},
        {"drift": 0.5, "read": 0.0},
        {"programming": 2.0, "drift": 0.0, "read": 3.0},
    ],
    ids=str,
)
def test_formula(shape, time, settings):
    rng = np.random.default_rng(int(time) % 7)
    w = rng.normal(size=shape)
    w[0, :4] = 0, 1e-6, -3e-3, 0
    draws = [rng.normal(size=shape) for _ in range(6)]
    noise = noises.PCM(time, **settings)
    assert [str(draw.law) for draw in noise.draws] == ["normal"] * 6
    for dtype, tolerance in (("float64", 1e-9), ("float32", 3e-6)):
        arguments = tf.constant(w, dtype), [tf.constant(n, dtype) for n in draws]
        result = noise.perturb(*arguments, tf.constant(time, dtype), (0,))
        expected = reference(w, time, draws, **settings)
        np.testing.assert_allclose(result, expected, rtol=10 * tolerance, atol=tolerance)


def noisy(noise, w, step=0, chip=0, seed=1):
    target = Target(types.SimpleNamespace(shape=w.shape), None, 0, (0,))
    where = {"seed": seed, "step": step, "chip": chip, "magnitudes": noise.magnitudes_at(step)}
    return perturb(noise, [target], [tf.constant(w)], **where)[0].numpy()


def test_a_variable_of_zeros_stays_so():
    zeros = np.zeros((30, 40), "float32")
    for compensation in (None, "global"):
        np.testing.assert_array_equal(noisy(noises.PCM(compensation=compensation), zeros), zeros)


def test_at_time_zero_a_chip_is_noisy():
    w = np.random.default_rng(0).normal(size=(30, 40)).astype("float32")
    ramp = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 1.0)
    for noise in (noises.PCM(0.0), noises.PCM(ramp), noises.Gaussian(0.0) + noises.PCM(0.0)):
        assert np.mean(noisy(noise, w) != w) > 0.99


def test_compensation_keeps_the_sum():
    w = np.random.default_rng(0).normal(size=(300, 400)).astype("float32")
    aged = noisy(noises.PCM(YEAR), w)
    assert np.sum(np.abs(aged)) < 0.6 * np.sum(np.abs(w))
    kept = noisy(noises.PCM(YEAR, compensation="global"), w)
    programmed = noisy(noises.PCM(0.0, read=0.0), w)
    np.testing.assert_allclose(np.sum(np.abs(kept)), np.sum(np.abs(programmed)), rtol=1e-5)
    ratio = np.sum(np.abs(kept)) / np.sum(np.abs(aged))
    np.testing.assert_allclose(kept, ratio * aged, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_reads_of_one_chip():
    w = np.random.default_rng(0).normal(size=(100, 100)).astype("float32")
    one = noises.PCM(3600.0, one_chip=True)
    silent = noises.PCM(3600.0, one_chip=True, read=0.0)
    # Only the read noise is new, in training and, where each draw has its number, elsewhere.
    for other in ({"step": 1}, {"step": 1, "chip": 1}):
        np.testing.assert_array_equal(noisy(silent, w), noisy(silent, w, **other))
        assert np.mean(noisy(one, w) != noisy(one, w, **other)) > 0.99
        assert (
            np.mean(noisy(noises.PCM(read=0.0), w) != noisy(noises.PCM(read=0.0), w, **other)) > 0.9
        )
    assert np.mean(noisy(silent, w) != noisy(silent, w, seed=2)) > 0.9
    # Reads and chip do not share numbers.
    chip = noisy(silent, w) - w
    reads = noisy(noises.PCM(3600.0, one_chip=True, programming=0.0, drift=0.0), w) - w
    assert abs(np.corrcoef(chip.ravel(), reads.ravel())[0, 1]) < 5 / np.sqrt(w.size)


def model():
    layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    net = keras.Sequential(layers)
    net.compile(loss="mse")
    return net


@pytest.mark.slow
@pytest.mark.any_version
def test_a_drift_curve():
    net = model()
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    data = (x, net.predict(x, verbose=0))
    times = (0, 3600, 86400, YEAR)
    curve = robustness_sweep(net, data, noise=noises.PCM(), magnitudes=times, draws=4, verbose=0)
    means = [
        np.mean([row.metrics["loss"] for row in curve.rows if row.magnitude == t]) for t in times
    ]
    assert curve.clean["loss"] == 0.0 < means[0] < means[1] < means[3]
    # Each draw is a chip, the same at all times: no two have one loss.
    assert len({row.metrics["loss"] for row in curve.rows}) == 16


def test_one_layer_at_a_time():
    net = model()
    x = np.ones((8, 4), "float32")
    data = (x, net.predict(x, verbose=0))
    result = layer_sensitivity(net, data, noises.PCM(0.0), draws=1, by="variable", verbose=0)
    losses = [row.metrics["loss"] for row in result.rows]
    # Biases are 0, and so is their noise: what is not looked at is clean, at time 0, too.
    assert sorted(loss > 0 for loss in losses) == [False, False, True, True]


@pytest.mark.slow
@pytest.mark.any_version
def test_redraws_are_chips_or_reads():
    net = model()
    kernel = net.layers[0].kernel
    for noise, same in ((noises.PCM(read=0.0), False), (noises.PCM(read=0.0, one_chip=True), True)):
        with perturbed_weights(net, noise, seed=1) as draws:
            first = kernel.numpy()
            draws.redraw()
            assert np.array_equal(first, kernel.numpy()) == same


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"time": -1}, "time"),
        ({"time": "1 h"}, "time"),
        *(({name: x}, name) for name in ("programming", "drift", "read") for x in (-1, "1", None)),
        ({"read": keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9)}, "read"),
        ({"compensation": "local"}, "compensation"),
        ({"one_chip": 1}, "one_chip"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, name):
    with pytest.raises(
        (ValueError, TypeError), match=f"Invalid `{name}`. Expected .* Received: {name}="
    ):
        noises.PCM(**arguments)

"""The noise of devices beside IBM's aihwkit, where that is installed: `pip install torch aihwkit==1.1.0`."""

import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import noises

pytestmark = pytest.mark.any_version

aihwkit_noise = pytest.importorskip("aihwkit.inference.noise.pcm")
torch = pytest.importorskip("torch")

SAMPLES = 200_000
VALUES = np.float32([-1.0, -0.7, -0.1, -1e-3, 0.0, 1e-3, 0.03, 0.2, 0.5, 1.0])


def theirs(time, **scales):
    """Weights that aihwkit reads from each of the values: programmed, then drifted and read."""
    model = aihwkit_noise.PCMLikeNoiseModel(g_max=25.0, **scales)
    cells, parameters = model.g_converter.convert_to_conductances(
        torch.tensor(np.repeat(VALUES[:, None], SAMPLES, axis=1))
    )
    read = []
    for target in cells:
        exponents = model.generate_drift_coefficients(target)
        programmed = model.apply_programming_noise_to_conductance(target)
        read.append(model.apply_drift_noise_to_conductance(programmed, exponents, time))
    return model.g_converter.convert_back_to_weights(read, parameters).numpy()


def ours(noise):
    rng = np.random.default_rng(0)
    w = np.repeat(VALUES[:, None], SAMPLES, axis=1)
    draws = [tf.constant(rng.normal(size=w.shape), tf.float32) for _ in noise.draws]
    (time,) = noise.magnitudes_at(0)
    return noise.perturb(tf.constant(w), draws, time, (0,)).numpy()


@pytest.mark.parametrize("time", [0.0, 1.0, 3600.0, 86_400.0, 31_536_000.0])
def test_mean_and_spread_of_phase_change_memory(time):
    torch.manual_seed(0)
    a, b = ours(noises.PCM(time)).astype("float64"), theirs(time).astype("float64")
    # Two per cent, or four standard errors where a mean is about 0.
    error = 4 * np.hypot(a.std(axis=1), b.std(axis=1)) / np.sqrt(SAMPLES)
    difference = np.abs(a.mean(axis=1) - b.mean(axis=1))
    assert np.all(difference <= np.maximum(0.02 * np.abs(b.mean(axis=1)), error))
    np.testing.assert_allclose(a.std(axis=1), b.std(axis=1), rtol=0.02)


@pytest.mark.parametrize("name", ["programming", "drift", "read"])
def test_factors_of_phase_change_memory(name):
    torch.manual_seed(0)
    factors = {"programming": 0.0, "drift": 0.0, "read": 0.0, name: 2.0}
    names = {"programming": "prog_noise_scale", "drift": "drift_scale", "read": "read_noise_scale"}
    a = ours(noises.PCM(3600.0, **factors))
    b = theirs(3600.0, **{names[key]: value for key, value in factors.items()})
    np.testing.assert_allclose(a.mean(axis=1), b.mean(axis=1), rtol=0.02, atol=1e-3)
    np.testing.assert_allclose(a.std(axis=1), b.std(axis=1), rtol=0.02, atol=1e-6)

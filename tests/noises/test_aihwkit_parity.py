"""The noise of devices beside IBM's aihwkit: its numbers, and itself where it is installed.

How to install it, and what made the numbers, `aihwkit_reference.py` says.
"""

import json

import aihwkit_reference
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import noises

pytestmark = pytest.mark.any_version

SAMPLES = 200_000
REFERENCE = json.loads(aihwkit_reference.FILE.read_text())
VALUES = np.float32(REFERENCE["values"])


@pytest.fixture(scope="module")
def normals():
    """Six normal numbers for each sample."""
    rng = np.random.default_rng(0)
    shape = len(VALUES), SAMPLES
    return [tf.constant(rng.standard_normal(shape, "float32")) for _ in range(6)]


def ours(case, normals):
    noise = eval(f"noises.{case}", {"noises": noises})
    w = tf.constant(np.repeat(VALUES[:, None], SAMPLES, axis=1))
    (magnitude,) = noise.magnitudes_at(0)
    perturbed = noise.perturb(w, normals[: len(noise.draws)], magnitude, (0,))
    return aihwkit_reference.moments(perturbed.numpy())


def assert_alike(a, b):
    # Two per cent, or four standard errors where a mean is about 0.
    error = 4 * np.hypot(a["std"], b["std"]) / np.sqrt(SAMPLES)
    difference = np.abs(a["mean"] - b["mean"])
    assert np.all(difference <= np.maximum(0.02 * np.abs(b["mean"]), error) + 1e-6)
    np.testing.assert_allclose(a["std"], b["std"], rtol=0.02, atol=1e-6)


def stored(case):
    return {key: np.array(each) for key, each in REFERENCE["cases"][case].items()}


@pytest.mark.parametrize("case", REFERENCE["cases"])
def test_mean_and_spread(case, normals):
    assert_alike(ours(case, normals), stored(case))


def test_the_numbers_are_aihwkits():
    pytest.importorskip("aihwkit")
    cases = dict(aihwkit_reference.theirs(SAMPLES))
    assert list(cases) == list(REFERENCE["cases"])
    for name, samples in cases.items():
        assert_alike(aihwkit_reference.moments(samples), stored(name))

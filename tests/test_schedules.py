"""Ramps, step by step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import noises
from keras_weightnoise.schedules import CosineRamp, LinearRamp

SHAPES = {LinearRamp: lambda t: t, CosineRamp: lambda t: (1 - np.cos(np.pi * t)) / 2}
SETTINGS = [
    (0.0, 0.1, 5, 10),
    (0.3, 0.1, 0, 7),
    (0.1, 0.3, 3, 1),
    (0.2, 0.2, 4, 4),
    (0.0, 1.0, 6, 0),
    (0.0, 0.1, 0, 0),
]


@pytest.fixture(autouse=True)
def _fresh():
    """In place of the one of all tests: these leave nothing behind, and there are many."""


def expected(shape, start, end, start_step, ramp_steps, step):
    if step >= start_step + ramp_steps:
        return end
    if step <= start_step:
        return start
    return start + (end - start) * shape((step - start_step) / ramp_steps)


@pytest.mark.parametrize("ramp", SHAPES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_every_step(ramp, settings):
    schedule = ramp(*settings)
    steps = range(25)
    values = np.array([schedule(step) for step in steps])
    reference = [expected(SHAPES[ramp], *settings, step) for step in steps]
    np.testing.assert_allclose(values, reference, atol=1e-7)
    start, end, start_step, ramp_steps = settings
    # Held values are exact: noise of magnitude 0 is none, and a constant one is constant.
    assert set(values[: start_step + (ramp_steps > 0)]) <= {np.float32(start)}
    assert set(values[start_step + ramp_steps :]) == {np.float32(end)}


@pytest.mark.parametrize("ramp", SHAPES)
def test_far_steps(ramp):
    # Of a length that float32 does not count to.
    schedule = ramp(0.0, 1.0, 2**24 + 1, 4)
    assert [float(schedule(tf.constant(2**24 + i, tf.int64))) for i in (1, 3, 5)] == [0, 0.5, 1]


@pytest.mark.parametrize("ramp", SHAPES)
@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_the_graph(ramp, dtype, jit_compile):
    schedule = ramp(0.0, 0.1, 5, 10)
    in_graph = tf.function(schedule.__call__, jit_compile=jit_compile)
    for step in (0, 5, 8, 15, 40):
        value = in_graph(tf.constant(step, dtype))
        assert value.dtype == tf.float32
        assert value.shape == ()
        np.testing.assert_allclose(value, schedule(step), atol=1e-8)


@pytest.mark.parametrize("ramp", SHAPES)
def test_round_trip(ramp):
    schedule = ramp(0.0, 0.1, start_step=5, ramp_steps=10, name="onset")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(copy) is ramp
    assert copy.get_config() == schedule.get_config()
    assert repr(copy) == f"{ramp.__name__}(start=0.0, end=0.1, start_step=5, ramp_steps=10)"


@pytest.mark.parametrize("ramp", SHAPES)
def test_serves_keras_as_a_learning_rate(ramp):
    optimizer = keras.optimizers.SGD(ramp(0.0, 1.0, 2, 4))
    variable = keras.Variable(0.0)
    moves = []
    for _ in range(8):
        before = float(variable.value)
        optimizer.apply([tf.constant(-1.0)], [variable])
        moves.append(float(variable.value) - before)
    assert np.argmax(np.array(moves) > 0) == 3
    assert moves[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["start", "end", "start_step", "ramp_steps"])
@pytest.mark.parametrize("ramp", SHAPES)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        (float("nan"), (ValueError, TypeError)),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
        (LinearRamp(0.0, 1.0, 0, 1), TypeError),
    ],
)
def test_bad_arguments(ramp, name, value, error):
    settings = {"start": 0.0, "end": 0.1, "start_step": 0, "ramp_steps": 10, name: value}
    with pytest.raises(error, match=rf"Invalid `{name}`\. Expected .*\. Received: {name}="):
        ramp(**settings)


@pytest.mark.parametrize("name", ["start_step", "ramp_steps"])
def test_steps_are_integers(name):
    settings = {"start": 0.0, "end": 0.1, "start_step": 0, "ramp_steps": 10, name: 1.5}
    with pytest.raises(TypeError, match=f"Invalid `{name}`"):
        LinearRamp(**settings)


def test_drives_a_noise():
    noise = noises.Gaussian(LinearRamp(0.0, 0.1, 5, 10))
    assert float(*noise.magnitudes_at(tf.constant(10, tf.int64))) == pytest.approx(0.05)

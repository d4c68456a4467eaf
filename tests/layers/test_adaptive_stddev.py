"""AdaptiveStddev: its distances, its rule, that it finds the target, and that it is saved."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from keras_weightnoise import AdaptiveStddev, noises, noisy_call
from keras_weightnoise._weights import selection

RNG = np.random.default_rng(0)
CLEAN, NOISY = RNG.normal(size=(2, 5, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": 0.0}, ValueError, r"Invalid `target`.*> 0.*Received: target=0.0"),
        ({"target": "0.1"}, TypeError, r"Invalid `target`.*Received: target='0.1'"),
        (
            {"target": keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)},
            TypeError,
            r"Invalid `target`.*no optimizer step",
        ),
        ({"distance": "mse"}, ValueError, r"Invalid `distance`.*'rms', 'kl'.*distance='mse'"),
        ({"initial_stddev": 0}, ValueError, r"Invalid `initial_stddev`"),
        ({"factor": 1.0}, ValueError, r"Invalid `factor`.*> 1.*Received: factor=1.0"),
        ({"factor": None}, TypeError, r"Invalid `factor`"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        AdaptiveStddev(**{"target": 0.1, "distance": "rms", **arguments})


def test_what_has_no_default():
    with pytest.raises(TypeError, match="distance"):
        AdaptiveStddev(0.1)
    with pytest.raises(TypeError, match="target"):
        AdaptiveStddev(distance="kl")


@pytest.mark.parametrize(
    ("distance", "clean", "noisy", "message"),
    [
        ("rms", (5, 1), (5,), r"in one shape. Received: clean.shape=\(5, 1\), noisy.shape=\(5,\)"),
        ("kl", (5, 1), (5, 1), r"several actions .*Received: clean.shape=\(5, 1\)"),
        ("kl", (), (), r"several actions"),
    ],
)
def test_bad_shapes(distance, clean, noisy, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveStddev(0.1, distance=distance).update(tf.ones(clean), tf.ones(noisy))


P, Q = special.softmax(CLEAN, -1), special.softmax(NOISY, -1)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        ("rms", np.sqrt(np.mean((CLEAN - NOISY) ** 2))),
        ("kl", np.mean(np.sum(P * np.log(P / Q), -1))),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_the_distance_and_the_rule(distance, expected, compiled):
    for target, factor in ((expected * 1.001, 1.5), (expected * 0.999, 1 / 1.5)):
        adaptive = AdaptiveStddev(target, distance=distance, initial_stddev=0.2, factor=1.5)
        update = tf.function(adaptive.update) if compiled else adaptive.update
        for count in (1, 2):
            np.testing.assert_allclose(update(CLEAN, NOISY), expected, rtol=1e-5)
            np.testing.assert_allclose(adaptive.stddev, 0.2 * factor**count, rtol=1e-6)


def test_kl_of_masked_actions_and_of_epsilon_greedy():
    masked = np.where([True, True, False], CLEAN, -np.inf)
    actual = AdaptiveStddev(0.1, distance="kl").update(
        masked, np.where([True, True, False], NOISY, -np.inf)
    )
    p, q = special.softmax(CLEAN[:, :2], -1), special.softmax(NOISY[:, :2], -1)
    np.testing.assert_allclose(actual, np.mean(np.sum(p * np.log(p / q), -1)), rtol=1e-5)
    # The greedy policy against epsilon-greedy, as the docstring has it.
    epsilon, n = 0.2, 4
    greedy = np.full(n, epsilon / n) + (1.0 - epsilon) * np.eye(n)[1]
    actual = AdaptiveStddev(0.1, distance="kl").update([50.0 * np.eye(n)[1]], np.log([greedy]))
    np.testing.assert_allclose(actual, -math.log(1.0 - epsilon + epsilon / n), rtol=1e-5)


def test_a_distance_that_is_no_number_makes_it_smaller():
    adaptive = AdaptiveStddev(0.1, distance="rms")
    adaptive.update(CLEAN, NOISY * np.nan)
    np.testing.assert_allclose(adaptive.stddev, 0.1 / 1.01, rtol=1e-6)


def test_a_target_that_changes():
    target = tf.Variable(100.0)
    adaptive = AdaptiveStddev(target, distance="rms", factor=2.0)
    update = tf.function(adaptive.update)
    update(CLEAN, NOISY)
    target.assign(1e-3)
    for _ in range(2):
        update(CLEAN, NOISY)
    np.testing.assert_allclose(adaptive.stddev, 0.05, rtol=1e-6)
    assert adaptive.get_config()["target"] == pytest.approx(1e-3)


class Agent(keras.Model):
    def __init__(self):
        super().__init__()
        self.policy = keras.layers.Dense(
            2, kernel_initializer=keras.initializers.RandomNormal(0, 1)
        )
        self.adaptive = AdaptiveStddev(0.3, distance="rms", factor=1.05)

    def call(self, x):
        return self.policy(x)


def test_it_finds_the_target_and_is_saved(tmp_path):
    agent, states = Agent(), tf.constant(RNG.normal(size=(256, 4)), "float32")
    agent(states)

    @tf.function
    def adapt():
        for episode in tf.range(150):
            noise = noises.Gaussian(agent.adaptive.stddev, relative_to="rms")
            noisy = noisy_call(
                agent.policy, noise, states, seed=1, step=episode, variables="kernels"
            )
            agent.adaptive.update(agent.policy(states), noisy)

    adapt()
    scale = np.sqrt(np.mean(np.square(agent.policy.kernel)))
    # In four dimensions: rms = stddev * scale * 2.
    np.testing.assert_allclose(agent.adaptive.stddev, 0.3 / scale / 2.0, rtol=0.3)

    stddev = float(agent.adaptive.stddev)
    assert [v.name for v in agent.trainable_variables] == ["kernel", "bias"]
    assert "stddev" not in [t.variable.name for t in selection.select(agent, None, frozen=True)]
    agent.save_weights(tmp_path / "agent.weights.h5")
    tf.train.Checkpoint(adaptive=agent.adaptive).write(str(tmp_path / "checkpoint"))
    other = Agent()
    other(states)
    other.load_weights(tmp_path / "agent.weights.h5")
    assert float(other.adaptive.stddev) == stddev
    again = AdaptiveStddev.from_config(agent.adaptive.get_config())
    tf.train.Checkpoint(adaptive=again).read(str(tmp_path / "checkpoint")).assert_consumed()
    assert float(again.stddev) == stddev

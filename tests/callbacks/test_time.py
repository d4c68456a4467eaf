"""What counts as a step, and which updates made by hand are warned of: in graphs and eagerly alike."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from fits import X, linear, strategy

from keras_weightnoise import WeightNoiseCallback, schedules

OPTIMIZERS = keras.optimizers
RAMP = schedules.LinearRamp(0.1, 1.3, start_step=0, ramp_steps=12)


class Steps(keras.Model):
    """Has two networks and a counter. `update` says what a step does with gradients of the first."""

    def __init__(self, update):
        super().__init__()
        self.first, self.second = (
            keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]) for _ in range(2)
        )
        self.second.set_weights(self.first.get_weights())
        self.batch = tf.Variable(0, trainable=False)
        self.update = update
        self.built = True

    def train_step(self, data):
        self.batch.assign_add(1)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.first(data) + self.second(data))
        weights = self.first.trainable_variables
        self.update(self, tape.gradient(loss, weights), weights)
        return {"objective": loss}


def apply(model, grads, weights):
    model.optimizer.apply(grads, weights)


def accumulate(model, grads, weights):
    def step():
        model.optimizer.apply(grads, weights)
        return True

    tf.cond(model.batch % 3 == 0, step, lambda: False)


def accumulate_in_keras(model, grads, weights):
    keras.ops.cond(
        model.batch % 3 == 0, lambda: helper(model.optimizer, grads, weights), lambda: None
    )


def helper(optimizer, grads, weights):
    optimizer.apply_gradients(zip(grads, weights, strict=True))


def hidden(model, grads, weights):
    HIDDEN[-1].apply(grads, weights)


def accumulate_hidden(model, grads, weights):
    def step():
        HIDDEN[-1].apply(grads, weights)
        return True

    tf.cond(model.batch % 3 == 0, step, lambda: False)


def by_hand(model, grads, weights):
    for v, g in zip(weights, grads, strict=True):
        v.assign_sub(0.1 * g)


def nothing(model, grads, weights):
    pass


def follow(model, grads, weights):
    model.optimizer.apply(grads, weights)
    for v, w in zip(model.second.weights, model.first.weights, strict=True):
        v.assign(0.9 * v + 0.1 * w)


def follow_sometimes(model, grads, weights):
    model.optimizer.apply(grads, weights)

    def copy():
        for v, w in zip(model.second.weights, model.first.weights, strict=True):
            v.assign(w)
        return True

    tf.cond(model.batch % 2 == 0, copy, lambda: False)


def clip(model, grads, weights):
    model.optimizer.apply(grads, weights)
    for v in weights:
        v.assign(tf.clip_by_value(v, -0.3, 0.3))


HIDDEN = []
# The steps taken before the last of twelve batches.
TAKEN = {
    apply: 11,
    accumulate: 3,
    accumulate_in_keras: 3,
    hidden: 11,
    accumulate_hidden: 3,
    by_hand: 11,
    nothing: 11,
}


def fit(update, noise, *, eager=False, scope=None):
    keras.utils.set_random_seed(0)
    HIDDEN.append(OPTIMIZERS.SGD(0.1))

    def make():
        model = Steps(update)
        model.compile(OPTIMIZERS.SGD(0.1), run_eagerly=eager)
        model.optimizer.build(model.first.trainable_variables)
        return model

    if scope is None:
        model = make()
    else:
        with scope.scope():
            model = make()
    data = tf.data.Dataset.from_tensors(X[:4]).repeat(12)
    return model, model.fit(data, verbose=0, shuffle=False, callbacks=[noise])


@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("update", TAKEN, ids=lambda update: update.__name__)
def test_graphs_and_eager_mode_count_alike(update, eager):
    noise = WeightNoiseCallback(RAMP, seed=1)
    _, history = fit(update, noise, eager=eager)
    expected = 0.1 * (TAKEN[update] + 1)
    assert history.history["weight_noise_stddev"] == pytest.approx([expected])


def test_a_ramp_from_zero_gets_going_by_hand_and_eagerly():
    class Either(keras.Model):
        """Its code mentions `apply`, but it updates by hand."""

        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self(data))
            weights = self.trainable_variables
            grads = tape.gradient(loss, weights)
            if self.name == "applies":
                self.optimizer.apply(grads, weights)
            for v, g in zip(weights, grads, strict=True):
                v.assign_sub(0.1 * g)
            return {"objective": loss}

    base = linear()
    model = Either(base.inputs, base.outputs)
    model.compile(run_eagerly=True)
    ramp = schedules.LinearRamp(0.0, 1.2, start_step=0, ramp_steps=12)
    data = tf.data.Dataset.from_tensors(X[:4]).repeat(4)
    history = model.fit(data, verbose=0, shuffle=False, callbacks=[WeightNoiseCallback(ramp)])
    assert history.history["weight_noise_stddev"] == pytest.approx([0.3])


@pytest.mark.slow
@pytest.mark.parametrize("update", [follow, follow_sometimes], ids=lambda update: update.__name__)
@pytest.mark.parametrize("mode", ["graph", "eager", "mirrored"])
def test_a_network_that_follows_by_hand_is_warned_of_once(update, mode):
    if mode == "mirrored" and update is follow_sometimes:
        pytest.skip("TensorFlow cannot assign mirrored variables in a branch.")
    scope = strategy() if mode == "mirrored" else None
    noise = WeightNoiseCallback(0.3, seed=1)
    with pytest.warns(UserWarning, match="assigns weights by hand") as caught:
        fit(update, noise, eager=mode == "eager", scope=scope)
    (message,) = [str(w.message) for w in caught if "by hand" in str(w.message)]
    assert message.count("of `second`") == 2
    assert "of `first`" not in message
    assert "non-trainable" in message
    assert "`exclude`" in message


@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("update", [follow, follow_sometimes], ids=lambda update: update.__name__)
def test_the_remedies(update, eager):
    """What is excluded follows a network that is clean, as without noise."""

    class Excluding(WeightNoiseCallback):
        def on_train_begin(self, logs=None):
            self.exclude = self.model.second
            super().on_train_begin(logs)

    plain, _ = fit(update, WeightNoiseCallback(0.0), eager=eager)
    noisy, _ = fit(update, Excluding(0.3, seed=1), eager=eager)
    for a, b in zip(noisy.second.get_weights(), plain.second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(
    "update", [by_hand, clip, accumulate, nothing], ids=lambda update: update.__name__
)
def test_no_false_alarm(update, eager):
    fit(update, WeightNoiseCallback(0.3, seed=1), eager=eager)  # Warnings are errors.

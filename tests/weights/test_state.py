"""The state of a model: what is found of it, and that it is put back."""

import types

import fits
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise._weights.state import Snapshot, kept_state, seed_variables, state_variables

layers = keras.layers
X = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")


class Memory:
    """An object of one's own, which holds a variable."""

    def __init__(self):
        self.buffer = tf.Variable(0.0)

    def __call__(self):
        self.buffer.assign_add(1.0)


class Module(tf.Module):
    def __init__(self):
        super().__init__()
        self.buffer = [tf.Variable(0.0)]


class Remembers(layers.Layer):
    """Keeps what Keras does not list: variables of TensorFlow's, in whatever holds them."""

    def __init__(self, memory, **kwargs):
        super().__init__(**kwargs)
        self.memory = memory

    def call(self, x):
        for each in held_by(self.memory):
            each.assign(each + tf.reduce_sum(x))
        return x


def held_by(memory):
    if isinstance(memory, dict):
        return memory["a"]
    if isinstance(memory, Memory):
        return [memory.buffer]
    return memory.buffer if isinstance(memory, Module | types.SimpleNamespace) else [memory]


class Averages(layers.Layer):
    """Keeps a running mean, a metric, and a seed."""

    def build(self, shape):
        self.mean = self.add_weight(shape=(shape[-1],), trainable=False)
        self.metric = keras.metrics.Mean()
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x):
        self.mean.assign(self.mean + tf.reduce_mean(x, [0, 1]))
        self.metric.update_state(x)
        return x + keras.random.normal((3,), seed=self.seeds)


# A layer, and the number of variables that a call with `training=True` changes.
LAYERS = {
    "LSTM": (lambda: layers.LSTM(3, stateful=True, return_sequences=True), 2),
    "GRU": (lambda: layers.GRU(3, stateful=True, return_sequences=True), 1),
    "RNN": (
        lambda: layers.RNN(
            [layers.LSTMCell(3), layers.GRUCell(3)], stateful=True, return_sequences=True
        ),
        3,
    ),
    "Bidirectional": (
        lambda: layers.Bidirectional(layers.LSTM(3, stateful=True, return_sequences=True)),
        4,
    ),
    "ConvLSTM1D": (
        lambda: keras.Sequential(
            [layers.Reshape((5, 3, 1)), layers.ConvLSTM1D(1, 2, stateful=True)]
        ),
        2,
    ),
    "BatchNormalization": (layers.BatchNormalization, 2),
    "Dropout": (lambda: layers.Dropout(0.5), 1),
    "frozen": (lambda: layers.LSTM(3, stateful=True, trainable=False, return_sequences=True), 2),
    "nested": (
        lambda: keras.Sequential([layers.ReLU(), keras.Sequential([layers.BatchNormalization()])]),
        2,
    ),
    "metric and seed": (Averages, 4),
    "keras.Variable": (lambda: Remembers(keras.Variable(0.0, trainable=False)), 1),
    "tf.Variable": (lambda: Remembers(tf.Variable(0.0)), 1),
    "dict": (lambda: Remembers({"a": [tf.Variable(0.0), tf.Variable(1.0)]}), 2),
    "object": (lambda: Remembers(Memory()), 1),
    "namespace": (lambda: Remembers(types.SimpleNamespace(buffer=[tf.Variable(0.0)])), 1),
    "tf.Module": (lambda: Remembers(Module()), 1),
}


def around(layer):
    """A model around a layer, called once."""
    model = keras.Sequential([keras.Input(batch_shape=(4, 5, 3)), layer])
    model.add(layers.Flatten())
    model.add(layers.Dense(1))
    model(X, training=True)
    return model


def numbers(model):
    return [np.array(v) for v in state_variables(model)]


@pytest.mark.parametrize(("make", "count"), LAYERS.values(), ids=LAYERS)
def test_what_a_call_changes_is_found_and_put_back(make, count):
    model = around(make())
    weights, before = model.get_weights(), numbers(model)
    with kept_state(model):
        model(X, training=True)
        now = numbers(model)
        assert sum(np.any(a != b) for a, b in zip(before, now, strict=True)) == count
    assert fits.same(before, numbers(model))
    assert fits.same(weights, model.get_weights())


@pytest.mark.slow
def test_metrics_of_a_compiled_model_are_put_back():
    model = around(layers.Dropout(0.5))
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(X, np.ones((4, 1)), batch_size=4, verbose=0)
    before = model.get_metrics_result()
    with kept_state(model):
        model.evaluate(X, np.zeros((4, 1)), batch_size=4, verbose=0)
        assert model.get_metrics_result() != before
    assert model.get_metrics_result() == before


@pytest.mark.slow
def test_what_training_learns_is_no_state():
    model = around(layers.BatchNormalization())
    model.compile(keras.optimizers.Adam(0.1), "mse")
    names = [v.name for v in state_variables(model)]
    model.trainable = False
    assert [v.name for v in state_variables(model)] == names
    model.trainable = True
    with kept_state(model):
        model.fit(X, np.ones((4, 1)), batch_size=4, verbose=0)
        weights = [v.numpy() for v in (*model.trainable_variables, *model.optimizer.variables)]
    after = [v.numpy() for v in (*model.trainable_variables, *model.optimizer.variables)]
    assert fits.same(weights, after)


@pytest.mark.slow
def test_seeds():
    model = around(Averages())
    model.add(layers.Dropout(0.5))
    assert len(seed_variables(model)) == 2


def test_an_error_and_an_interrupt_leave_the_state(monkeypatch):
    model = around(layers.LSTM(3, stateful=True, return_sequences=True))
    before = numbers(model)
    kind = type(model.variables[0])
    assign = kind.assign

    def interrupted(self, value):
        monkeypatch.setattr(kind, "assign", assign)
        raise KeyboardInterrupt

    def call():
        with kept_state(model):
            model(X)
            monkeypatch.setattr(kind, "assign", interrupted)
            raise ValueError

    with pytest.raises(KeyboardInterrupt):
        call()
    assert fits.same(before, numbers(model))


@pytest.mark.slow
def test_replicas():
    with fits.strategy().scope():
        model = keras.Sequential(
            [keras.Input((3,)), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(1)]
        )
        model.compile("sgd", "mse", metrics=["mae"])
    x, y = X[:, 0], np.ones((4, 1))
    model.fit(x, y, verbose=0)
    before = numbers(model)
    with kept_state(model):
        model.fit(x + 1, y, verbose=0)
        assert not fits.same(before, numbers(model))
    for a, b in zip(before, numbers(model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_snapshot_serves_many_times():
    variable = tf.Variable([1.0, 2.0])
    snapshot = Snapshot([variable])
    for value in (3.0, 4.0):
        variable.assign_add([value, value])
        snapshot.restore()
        np.testing.assert_array_equal(variable, [1.0, 2.0])

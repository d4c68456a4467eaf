"""What several tests share: models, data, and probes."""

import functools

import keras
import numpy as np
import tensorflow as tf

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.zeros((12, 1), "float32")


def batches(x=X, y=Y, size=4):
    """Data in batches, in their order. Of arrays, Keras would trace graphs that cut them, in every fit."""
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def mean_output(y_true, y_pred):
    """A loss that is linear in a linear model's weights: its gradient does not depend on them."""
    return keras.ops.mean(y_pred, axis=-1)


def linear(**dense):
    """Two kernels and two biases, none multiplied by another."""
    inputs = keras.Input((4,))
    outputs = keras.layers.Add()([keras.layers.Dense(2, **dense)(inputs) for _ in range(2)])
    return keras.Model(inputs, outputs)


class Mask(keras.layers.Layer):
    """Dropout of so many of five units, whose masks are the same under XLA, which Keras's are not."""

    def __init__(self, dropped=2):
        super().__init__()
        self.dropped = dropped
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, x, training=False):
        if not training:
            return x
        seed = tf.cast(self.seed_generator.next()[1], "int32")
        return x * tf.cast((tf.range(5) * 3 + seed) % 5 >= self.dropped, x.dtype)


class Weights(keras.callbacks.Callback):
    """Records the weights at every hook there is."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _look(self, *args, **kwargs):
        self.seen.append([w.copy() for w in self.model.get_weights()])

    on_train_begin = on_train_end = _look
    on_epoch_begin = on_epoch_end = _look
    on_train_batch_begin = on_train_batch_end = _look
    on_test_begin = on_test_batch_begin = on_test_batch_end = on_test_end = _look


def same(a, b):
    """Whether nested lists of arrays agree bit for bit."""
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b, equal_nan=True)


def watch(model, look):
    """Has `look` called before each evaluation, with its number. Returns the list of what it returned."""
    seen = []
    evaluate = model.evaluate

    def watched(*args, **kwargs):
        seen.append(look(len(seen)))
        return evaluate(*args, **kwargs)

    model.evaluate = watched
    return seen


@functools.cache
def strategy():
    """Two replicas. One for all tests: strategies share the numbers of their collective operations."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

"""What models are evaluated on: the batches Keras makes of arrays, made once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise.analysis._repeated_data import RepeatedData

N = 10
X = np.random.default_rng(0).normal(size=(N, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, N)
W = np.arange(N) / 5


class Seen(keras.Model):
    """Notes its batches."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.compile(run_eagerly=True)

    def test_step(self, data):
        self.seen.append(data)
        return {"objective": tf.zeros(())}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "options"),
    [
        ((X, Y), {}),
        ((X, Y), {"batch_size": 3}),
        ((X, Y), {"steps": 3}),
        ((X, Y, W), {"batch_size": 4, "steps": 2}),
        ((X.astype("float64"), Y.astype("uint8")), {}),
        ((X.astype("float16"), Y > 1), {}),
        (([X, {"again": X}], Y), {}),
        ((X, {"a": Y, "b": X}, W), {}),
        ((X, None, W), {}),
        ((tf.constant(X), Y), {"batch_size": 3}),
        (X, {"batch_size": 3}),
    ],
)
def test_batches_are_those_of_keras(data, options):
    ours, theirs = Seen(), Seen()
    repeated = RepeatedData("data", data, **options)
    for _ in range(2):
        ours.evaluate(**repeated.examples(), verbose=0)
        parts = dict(zip(("x", "y", "sample_weight"), data, strict=False))
        parts = parts if isinstance(data, tuple) else {"x": data}
        theirs.evaluate(**parts, **options, verbose=0)
    assert len(ours.seen) == len(theirs.seen) > 0
    for here, there in zip(ours.seen, theirs.seen, strict=True):
        keras.tree.assert_same_structure(here, there)
        for a, b in zip(keras.tree.flatten(here), keras.tree.flatten(there), strict=True):
            assert (a is b is None) or (a.dtype == b.dtype and np.array_equal(a, b))


def test_arrays_are_batched_once():
    """Keras does it in each call, for 50 ms: most of what small evaluations cost."""
    repeated = RepeatedData("data", (X, Y), None, None)
    assert repeated.examples()["x"] is repeated.examples()["x"] is repeated.inputs()["x"]
    assert isinstance(repeated.examples()["x"], tf.data.Dataset)


@pytest.mark.parametrize(
    "data",
    [
        X[:0],
        (X[:0], Y[:0]),
        ({"a": X[:0], "b": X[:0]}, Y[:0]),
        (tf.constant(X[:0]), Y[:0]),
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).take(0),
    ],
    ids=["x", "arrays", "dictionary", "tensor", "dataset"],
)
def test_nothing_is_an_error(data):
    """Keras has none, or says that a metric has not yet been built."""
    with pytest.raises(ValueError, match=r"`data` is empty\. Expected at least one"):
        RepeatedData("data", data)


def test_wrong_lengths_are_an_error_of_keras():
    with pytest.raises(ValueError, match="cardinality"):
        Seen().evaluate(**RepeatedData("data", (X, Y[:5])).examples(), verbose=0)

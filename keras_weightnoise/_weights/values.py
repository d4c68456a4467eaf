"""What variables hold."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Variable


def stored_values(variables: Sequence[Variable]) -> list[Tensor]:
    """The variables' values in the dtype they are stored in, also where reads are autocast."""
    values: list[Tensor] = without_autocast(
        function=lambda: [tf.convert_to_tensor(variable) for variable in variables]
    )
    return values


def widen(value: Tensor) -> Tensor:
    """A value in the dtype that noise is computed in: `float64` as it is, all others in `float32`."""
    return tf.cast(value, tf.float64 if value.dtype == tf.float64 else tf.float32)


def bit_pattern(value: Tensor) -> Tensor:
    """The bits of each element, as an integer: so NaN is like NaN, and 0 unlike -0."""
    integers = {1: tf.int8, 2: tf.int16, 4: tf.int32, 8: tf.int64}
    return tf.bitcast(value, integers[value.dtype.size])


def same_bits(a: Tensor, b: Tensor) -> Tensor:
    """Whether two tensors of one dtype are the same bit for bit."""
    return tf.reduce_all(tf.equal(bit_pattern(a), bit_pattern(b)))


def true_after(tensors: Sequence[Tensor]) -> Tensor:
    """A scalar that is true, and known when these tensors are there.

    It is computed from them. TensorFlow drops control dependencies from constants; and where it fuses an op
    with what comes later, such as a convolution with its bias, that op would have to wait for itself.
    """
    firsts = [tf.reshape(each, [-1])[:1] for each in tensors if each.dtype.is_floating]
    seen = tf.reduce_any([tf.reduce_any(first == first) for first in firsts])
    return tf.logical_or(seen, tf.logical_not(seen))


class _WithoutAutocast(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no types.
    """Calls a function outside of autocast: Keras suspends it for layers that opt out."""

    def call(self, *, function: Callable[[], Any]) -> Any:
        return function()


without_autocast = _WithoutAutocast(autocast=False, dtype="float32", name="weight_noise")

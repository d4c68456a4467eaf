"""What is made of the outputs of an ensemble's members, one after the other."""

from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise.models import _spread
from keras_weightnoise.models._members import Members


def mean(
    members: Members, inputs: Any, training: bool | None, magnitudes: Tensor
) -> tuple[Any, list[Tensor]]:
    """The mean over members, and the losses that layers add."""
    outputs, means, losses = members.fold(
        inputs, training, magnitudes, _spread.widen, _spread.update_mean
    )
    return keras.tree.pack_sequence_as(outputs, means), losses


def stack(members: Members, inputs: Any, magnitudes: Tensor) -> Any:
    """The outputs of all members, on the second axis."""

    def start(x: Tensor) -> Any:
        array = tf.TensorArray(x.dtype, members.count, element_shape=x.shape)
        return array.write(0, x)

    def update(array: Any, x: Tensor, count: Tensor) -> Any:
        return array.write(tf.cast(count - 1, tf.int32), x)

    outputs, arrays, _ = members.fold(inputs, None, magnitudes, start, update)
    stacked = [tf.experimental.numpy.swapaxes(array.stack(), 0, 1) for array in arrays]
    return keras.tree.pack_sequence_as(outputs, stacked)


def spread(members: Members, inputs: Any, magnitudes: Tensor) -> list[Any]:
    """What `_spread.summarize` makes of each output, in the structure of the outputs."""
    outputs, states, _ = members.fold(inputs, None, magnitudes, _spread.start, _spread.update)
    results = [_spread.summarize(state, members.count) for state in states]
    return [keras.tree.pack_sequence_as(outputs, list(each)) for each in zip(*results, strict=True)]

"""Parts of a batch."""

from typing import Any

import tensorflow as tf

from keras_weightnoise._types import Tensor


def part_of(data: Any, number: int, count: int) -> tuple[Any, Tensor]:
    """A part of a batch, as good as equal to the others, and its size, a scalar `float32` tensor.

    Of a batch of fewer examples than parts, some parts have none: they get one all the same, for there to be
    something to compute with, and the size 0. The last part has one.

    Args:
        data: What `train_step` gets: tensors in any structure, with the examples along the first axis.
        number: Which of the parts, from 0.
        count: How many parts there are.
    """
    leaves = [leaf for leaf in tf.nest.flatten(data) if leaf is not None]
    length = _length(leaves)
    begin, end = length * number // count, length * (number + 1) // count
    one = max(end, begin + 1) if isinstance(length, int) else tf.maximum(end, begin + 1)
    part = tf.nest.map_structure(lambda leaf: None if leaf is None else leaf[begin:one], data)
    return part, tf.cast(end - begin, tf.float32)


def _length(leaves: list[Any]) -> int | Tensor:
    for leaf in leaves:
        if not isinstance(leaf, tf.Tensor | tf.RaggedTensor) or leaf.shape.rank == 0:
            raise ValueError(
                "The batch cannot be split among the passes of a step. Expected tensors with the examples "
                f"along their first axis, or `split_batch=False`. Received: {leaf}"
            )
    known = {leaf.shape[0] for leaf in leaves} - {None}
    if len(known) > 1:
        raise ValueError(
            "The batch cannot be split among the passes of a step. Expected tensors with one number of "
            "examples along their first axis, or `split_batch=False`. "
            f"Received: shapes {[tuple(leaf.shape) for leaf in leaves]}"
        )
    if known:
        return int(known.pop())
    lengths = [tf.shape(leaf, tf.int64)[0] for leaf in leaves]
    checks = [tf.debugging.assert_equal(each, lengths[0]) for each in lengths[1:]]
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(lengths[0])

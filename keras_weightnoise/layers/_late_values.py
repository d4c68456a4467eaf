"""Values that are made when they are read."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_weightnoise._not_public import current_graph
from keras_weightnoise._types import Tensor


class LateValues:
    """Values that are made one after the other, when they are first read: no two need be there at a time.

    In a graph, each waits for what uses those before it. Eagerly, only the last one is kept.

    Args:
        makers: By key, what makes a value. It is given a bool, true, to make it from: what it waits for.
    """

    def __init__(self, makers: Mapping[int, Callable[[Tensor], Tensor]]) -> None:
        self._makers = makers
        self._made: dict[int, Tensor] = {}
        self._graph = current_graph()

    def __contains__(self, key: int) -> bool:
        return key in self._makers

    def at(self, key: int) -> Tensor:
        """The value of a key."""
        if key in self._made:
            return self._made[key]
        if self._graph is None:
            self._made.clear()
            self._made[key] = self._makers[key](tf.constant(True))
            return self._made[key]
        # A loop's body would make it anew each time: so not in its graph.
        with self._graph.as_default():
            users = {id(op): op for each in self._made.values() for op in each.consumers()}
            self._made[key] = self._makers[key](_true_after(list(users.values())))
        return self._made[key]


def _true_after(ops: list[Any]) -> Tensor:
    """A scalar that is true, and known when these ops have run.

    It is computed from what they return. By control dependencies they would have to wait for themselves
    where TensorFlow fuses them with what comes later, such as a convolution with its bias.
    """
    outputs = [output for op in ops for output in op.outputs if output.dtype.is_floating]
    firsts = [tf.reshape(output, [-1])[:1] for output in outputs]
    seen = tf.reduce_any([tf.reduce_any(first == first) for first in firsts])
    return tf.logical_or(seen, tf.logical_not(seen))

"""Values that are made when they are read."""

from collections.abc import Callable, Mapping

import tensorflow as tf

from keras_weightnoise._not_public import current_graph
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.values import true_after


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
            used = [output for op in users.values() for output in op.outputs]
            self._made[key] = self._makers[key](true_after(used))
        return self._made[key]

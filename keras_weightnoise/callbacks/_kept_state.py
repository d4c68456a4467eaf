"""What variables hold at a moment of a training step, to put back later in that step."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Variable
from keras_weightnoise._weights.values import same_bits
from keras_weightnoise.callbacks._replicas import local, merge_call, stored, write
from keras_weightnoise.callbacks._uses import Uses


def keep(variables: Sequence[Variable]) -> "KeptState":
    """Keeps what variables hold now. Called on each replica, done once for all."""
    kept: KeptState = merge_call(lambda: KeptState(variables))
    return kept


def put_back(kept: "KeptState", where: Tensor | None = None) -> None:
    """Puts it back, if `where` is true or `None`. Called on each replica, done once for all."""
    merge_call(lambda: kept.put_back(where))


class KeptState:
    """What variables hold on all replicas.

    Args:
        variables: Keras variables, or TensorFlow's.

    Attributes:
        variables: The same.
    """

    def __init__(self, variables: Sequence[Variable]) -> None:
        self.variables = list(variables)
        self._values = [_read(variable) for variable in variables]
        # What is not used before the end of a step is no longer there in its graph.
        self._uses = [] if tf.executing_eagerly() else [Uses(v) for v in variables]

    def written(self) -> dict[int, list[Any]]:
        """The numbers of those that may have been written to since, each with the ops that may have.

        Eagerly, the numbers of those that hold something else, without ops.
        """
        if tf.executing_eagerly():
            pairs = zip(self.variables, self._values, strict=True)
            return {i: [] for i, pair in enumerate(pairs) if _differs(*pair)}
        found = {}
        for i, (variable, before) in enumerate(zip(self.variables, self._uses, strict=True)):
            if ops := Uses(variable).writes[len(before.writes) :]:
                found[i] = ops
        return found

    def put_back(self, where: Tensor | None = None) -> None:
        """See the function `put_back`."""
        for i in self.written():
            variable = stored(self.variables[i])
            now, then = _read(variable), self._values[i]
            value = then if where is None else list(map(tf.where, [where] * len(now), then, now))
            write(variable, lambda r, value=value: value[r])


def _read(variable: Variable) -> list[Tensor]:
    return [tf.convert_to_tensor(each) for each in local(stored(variable))]


def _differs(variable: Variable, values: list[Tensor]) -> bool:
    pairs = zip(_read(variable), values, strict=True)
    return not all(
        bool(same_bits(now, then) if now.dtype.is_floating else tf.reduce_all(now == then))
        for now, then in pairs
    )

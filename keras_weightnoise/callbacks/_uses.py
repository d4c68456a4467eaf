"""The ops of a graph that use a variable."""

from typing import Any

from keras_weightnoise._not_public import calls_function, may_write, ops_on
from keras_weightnoise._weights.reachable import Variable
from keras_weightnoise.callbacks._replicas import local, stored


class Uses:
    """The ops of the graph being built that have used a variable so far.

    Attributes:
        total: How many there are.
        writes: Those that may have written to it.
    """

    def __init__(self, variable: Variable) -> None:
        first = local(stored(variable))[0]
        ops = ops_on(first)
        self.total = len(ops)
        self.writes: list[Any] = [op for op in ops if may_write(op, first)]

    @property
    def calls(self) -> list[Any]:
        """Among the writes, the calls of functions that were traced before."""
        return [op for op in self.writes if calls_function(op)]

"""A function of a batch, with `predict` around it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras


class BatchFunction(keras.Model):  # type: ignore[misc]  # Keras ships no types.
    """A model that predicts what a function makes of each batch: `predict` takes data in any form.

    Args:
        function: Called with the inputs of a batch. Returns tensors in any structure, whose first axis is
            that of the examples.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(name="batch_function")
        self._function = function

    def predict_step(self, data: Any) -> Any:
        return self._function(keras.utils.unpack_x_y_sample_weight(data)[0])

    def run_as(self, *, run_eagerly: bool, jit_compile: bool) -> None:
        """Compiles it with these settings, unless it is compiled so."""
        if (self.run_eagerly, self.jit_compile) != (run_eagerly, jit_compile):
            self.compile(run_eagerly=run_eagerly, jit_compile=jit_compile)


@dataclasses.dataclass(frozen=True)
class BatchFunctions:
    """What an ensemble's `predict_members` and `predict_spread` predict with."""

    members: BatchFunction
    spread: BatchFunction

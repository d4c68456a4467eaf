"""Variables that hold other values for as long as a `with` lasts."""

import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.state import Snapshot, assign_all, state_variables
from keras_weightnoise._weights.values import same_bits, stored_values

B = TypeVar("B", bound="BorrowedWeights")


class BorrowedWeights:
    """A context manager. Inside, `put` writes values into variables; afterwards they are what they were.

    So is the state of the model, what its calls change beside the weights: after each `put`, and at the end.

    Args:
        model: The model.
        variables: The `keras.Variable`s of it to write into.

    Attributes:
        clean: Their own values, inside of the `with`; else an empty list.
    """

    def __init__(self, model: Any, variables: Sequence[Any]) -> None:
        self._model = model
        self.variables = list(variables)
        self.clean: list[Tensor] = []
        self._held: list[Tensor] = []
        self._state = Snapshot([])

    def __enter__(self: B) -> B:
        self.clean = self._held = Snapshot(self.variables).values
        # The integer codes of a quantized model are no weights that training learns.
        borrowed = {id(variable) for variable in self.variables}
        state = [v for v in state_variables(self._model) if id(v) not in borrowed]
        self._state = Snapshot(state)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._warn_of_changes(stacklevel=3)
        finally:
            self._restore()

    def put(
        self, make: Callable[[Sequence[Tensor]], Sequence[Tensor]], stacklevel: int = 2
    ) -> None:
        """Writes values into the variables.

        Args:
            make: From the clean values to a tensor for each variable, in its dtype.
            stacklevel: Whose line a warning names: 2 is the caller's.
        """
        self._warn_of_changes(stacklevel + 1)
        self._state.restore()
        try:
            # First of all, so that no two values are there beside the clean one.
            self._write(self.clean)
            self._write(make(self.clean))
        except BaseException:
            self._held = self.clean
            assign_all(self.variables, self.clean)
            raise

    def _write(self, values: Sequence[Tensor]) -> None:
        """Writes what the variables do not hold already."""
        for variable, value, held in zip(self.variables, values, self._held, strict=True):
            if value is not held:
                variable.assign(value)
        self._held = list(values)

    def _warn_of_changes(self, stacklevel: int) -> None:
        now = stored_values(self.variables)
        changed = [
            i for i, (a, b) in enumerate(zip(now, self._held, strict=True)) if not _same(a, b)
        ]
        if changed:
            self._held = [now[i] if i in changed else each for i, each in enumerate(self._held)]
            warnings.warn(
                "While they held noise, something else changed the weights "
                f"{', '.join(reachable.path(self.variables[i]) for i in changed)}: that is undone. To "
                "train or load weights under noise, use a model from `perturb_weights`.",
                stacklevel=stacklevel,
            )

    def _restore(self) -> None:
        try:
            assign_all(self.variables, self.clean)
        finally:
            self.clean = self._held = []
            self._state.restore()


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same bit for bit. Of those that share their memory, it is known."""
    if "CPU" in a.device and "CPU" in b.device:
        places = [np.asarray(each).__array_interface__["data"] for each in (a, b)]
        if places[0] == places[1]:
            return True
    return bool(same_bits(a, b))

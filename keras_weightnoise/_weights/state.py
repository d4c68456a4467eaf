"""The state of a model: the variables that a call may change, and that training does not learn.

These are the states of stateful recurrent layers (which Keras does not list in `model.variables`), the seeds
of random layers, the statistics of normalization layers, metrics, and whatever else a layer keeps in a
variable. Perturbed copies of a model must not pass it on from one to the next.
"""

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._types import VARIABLE_TYPES, Tensor
from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.reachable import Layer, Variable
from keras_weightnoise._weights.values import stored_values

# What their other objects hold is no state of a model: strategies, functions, graphs.
_LIBRARIES = ("keras", "tensorflow", "numpy", "builtins", "functools")


class Snapshot:
    """What variables hold at this moment, to put back at any time, any number of times.

    Args:
        variables: `keras.Variable`s, or TensorFlow's.
    """

    def __init__(self, variables: Sequence[Variable]) -> None:
        self.variables = list(variables)
        # A tensor keeps what it read: assigning puts another buffer in the variable's place.
        self.values = stored_values(self.variables)

    def restore(self) -> None:
        """Puts it back, also if an interrupt comes between."""
        assign_all(self.variables, self.values)

    def of(self, variables: Sequence[Variable]) -> "Snapshot":
        """The part of it that is about these variables."""
        wanted = {id(variable) for variable in variables}
        pairs = zip(self.variables, self.values, strict=True)
        kept = [(variable, value) for variable, value in pairs if id(variable) in wanted]
        part = Snapshot([])
        part.variables, part.values = [v for v, _ in kept], [value for _, value in kept]
        return part


def assign_all(variables: Sequence[Variable], values: Sequence[Tensor]) -> None:
    """Assigns a value to each variable, to all of them even if an interrupt comes between."""
    try:
        _assign_each(variables, values)
    except BaseException:
        _assign_each(variables, values)
        raise


@contextlib.contextmanager
def kept_state(model: Layer) -> Iterator[None]:
    """After it, the state of a model is what it was before, whatever was called inside.

    Args:
        model: A model or layer. Variables that it makes inside stay as they are.
    """
    snapshot = Snapshot(state_variables(model))
    try:
        yield
    finally:
        snapshot.restore()


def state_variables(model: Layer) -> list[Variable]:
    """Every variable that is reachable from a model, but for those that training learns.

    The weights of frozen layers count as learned, too.
    """
    learned = {id(variable) for variable in reachable.learned(model)}
    return [variable for variable in reachable_variables(model) if id(variable) not in learned]


def metrics(model: Layer) -> list[Any]:
    """Every metric that is reachable from a model, those that Keras makes for its losses included."""
    return _reachable(model, keras.Metric)


def seed_variables(model: Layer) -> list[Variable]:
    """The states of all seed generators that are reachable from a model."""
    generators = _reachable(model, keras.random.SeedGenerator)
    return [generator.state for generator in generators]


def reachable_variables(model: Layer) -> list[Variable]:
    """Every variable in a model's attributes and in what these hold, listed by Keras or not.

    That is Keras's variables and TensorFlow's, in layers, metrics, seed generators, `tf.Module`s, objects of
    classes of one's own, and containers of these. Optimizers are left out: no call changes them.
    """
    return _reachable(model, VARIABLE_TYPES)


def _reachable(root: Any, kind: Any) -> list[Any]:
    found: list[Any] = []
    seen: set[int] = set()
    left = [root]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, kind):
            found.append(value)
        left += reversed(_children(value))
    return found


def _children(value: Any) -> list[Any]:
    """What an object holds, if it is one that may hold variables of a model."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset | deque):
        return list(value)
    if isinstance(value, keras.Model):
        # What `compile` made is in objects of Keras's own.
        return [*vars(value).values(), *value.metrics]
    if isinstance(value, keras.Metric):
        return [*value.variables, *vars(value).values()]
    if isinstance(value, keras.Layer | keras.random.SeedGenerator | tf.Module):
        return list(vars(value).values())
    return list(vars(value).values()) if _is_ones_own(value) else []


def _is_ones_own(value: Any) -> bool:
    """Whether an object is of a class that is neither Python's, nor Keras's, nor TensorFlow's."""
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, type | ModuleType | keras.optimizers.Optimizer)
        and type(value).__module__.partition(".")[0] not in _LIBRARIES
    )


def _assign_each(variables: Sequence[Variable], values: Sequence[Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)

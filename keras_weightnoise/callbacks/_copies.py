"""Copies of variables: what a step may have to put back."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from keras_weightnoise._random import short_vectors
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Variable
from keras_weightnoise.callbacks._replicas import local, made, replace_value, state, write


class Copies:
    """A copy of each variable. Those of all short vectors of a size and dtype are in one.

    A copy that is by itself shares its memory until one of the two is written to. It is given up before an
    optimizer writes, which then does so in place.

    Args:
        variables: Keras variables.
        compiled: Whether XLA may compile the steps: for the shapes that variables have when one begins.

    Attributes:
        kept: The variables that the copies are in.
    """

    def __init__(self, variables: Sequence[Variable], compiled: bool) -> None:
        self._variables = list(variables)
        self._compiled = compiled
        self._shapes = [tuple(v.shape) for v in variables]
        self._groups = _grouped(variables)
        anything = tf.TensorShape(None)
        first = [tf.convert_to_tensor(v.value) for v in variables]
        self.kept = [state(self._together(first, group), anything) for group in self._groups]

    def write(self, values: list[list[Tensor]]) -> list[Any]:
        """Makes the ops that copy these values: by replica, by variable."""
        together = [[self._together(each, group) for each in values] for group in self._groups]
        with self._shapes_change():
            return [
                write(kept, lambda r, own=own: own[r])
                for kept, own in zip(self.kept, together, strict=True)
            ]

    def read(self, number: int) -> list[Tensor]:
        """A variable's copy, on each replica."""
        place = next(i for i, group in enumerate(self._groups) if number in group)
        group, shape = self._groups[place], self._shapes[number]
        values = [tf.convert_to_tensor(each) for each in local(self.kept[place])]
        if len(group) > 1:
            values = [value[group.index(number)] for value in values]
        return [tf.ensure_shape(value, shape) for value in values]

    def give_up(self, numbers: Iterable[int], before: Iterable[int] = ()) -> list[Any]:
        """Makes the ops that free the memory of these copies, or of what they and those `before` are in."""
        now = set(numbers)
        until_now = now.union(before)
        copies = [
            copy
            for kept, group in zip(self.kept, self._groups, strict=True)
            if now.intersection(group) and until_now.issuperset(group)
            for copy in local(kept)
        ]

        def give_up() -> Tensor:
            nothing = {dtype: tf.zeros([0], dtype) for dtype in {copy.dtype for copy in copies}}
            with self._shapes_change():
                ops = [copy.assign(nothing[copy.dtype], read_value=False) for copy in copies]
            with tf.control_dependencies(made(ops)):
                return tf.constant(True)

        if not copies:
            return []
        if tf.executing_eagerly():
            return [give_up()]
        # In a graph of its own: in one, Grappler takes all that is assigned to a variable for one shape.
        apart = tf.function(give_up, autograph=False, experimental_attributes={"_noinline": True})
        return [apart()]

    # On the host, between steps.

    def reserve(self) -> None:
        """Gives the copies the shapes that steps are compiled for."""
        if self._compiled:
            values = [[tf.convert_to_tensor(v) for v in local(v.value)] for v in self._variables]
            by_replica = list(zip(*values, strict=True))
            for kept, group in zip(self.kept, self._groups, strict=True):
                replace_value(kept, [self._together(each, group) for each in by_replica])

    def release(self) -> None:
        """Frees the memory of all copies."""
        self.give_up(range(len(self._variables)))

    def _together(self, values: Sequence[Tensor], group: Sequence[int]) -> Tensor:
        own = [values[i] for i in group]
        return own[0] if len(own) == 1 else tf.stack(own)

    def _shapes_change(self) -> contextlib.AbstractContextManager[None]:
        """Within it, ops may change a copy's shape: what XLA compiles of its own accord may not."""
        if self._compiled or tf.executing_eagerly():
            return contextlib.nullcontext()
        return tf.xla.experimental.jit_scope(compile_ops=False)  # type: ignore[no-any-return]


def _grouped(variables: Sequence[Variable]) -> list[list[int]]:
    """The numbers of variables: short vectors that are alike together, each other one by itself.

    As where noise is added to them, so that TensorFlow may stack them once for both.
    """
    groups, others = short_vectors.alike([(v.dtype, v.shape) for v in variables])
    return [*groups, *([i] for i in others)]

"""Noise in variables, as a write-ahead log keeps it.

In the graph of a step: copy the weights and mark them; inject the noise; and, before an update, restore the
clean values and unmark them. Wherever a step stops, the marks tell which variables are noisy, and the copies
what they were before.

There are two ways to restore a variable:

- *Reset* it: assign the clean value that was read when the step began. That is right where the graph shows
  that the variable certainly is noisy and that nothing has written to it since: almost always.
- *Settle* it: look, when the step runs, whether it is marked and whether it still is what was injected. What
  somebody added by hand is added to the clean value. That is needed where only the running step can tell:
  after a write, after a restore in a branch, and eagerly. It costs a branch, and a comparison.
"""

import enum
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_weightnoise._not_public import current_graph
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Variable
from keras_weightnoise._weights.values import bit_pattern, widen
from keras_weightnoise.callbacks._copies import Copies
from keras_weightnoise.callbacks._replicas import (
    local,
    made,
    merge_call,
    state,
    write,
)
from keras_weightnoise.callbacks._uses import Uses

MakeNoisy = Callable[[list[Tensor], int], list[Tensor]]


class WriteAheadLog:
    """The clean values of variables while they are noisy.

    Args:
        variables: Keras variables.
        per_replica: Whether each replica has noisy values of its own, or all share those of the first.
        compiled: Whether XLA may compile the steps: for the shapes that variables have when one begins.
    """

    def __init__(self, variables: Sequence[Variable], per_replica: bool, compiled: bool) -> None:
        self._variables = list(variables)
        self._per_replica = per_replica
        self._compiled = compiled
        self._copies = Copies(variables, compiled)
        self._marks = state(tf.zeros([len(variables)], tf.bool))
        self._moved = state(tf.zeros([len(variables)], tf.bool))

    # In the step: these make ops.

    def inject(self, active: bool | Tensor, make_noisy: MakeNoisy) -> "Injection":
        """Begins a pass: copy, mark, inject. None of it unless `active`.

        Args:
            active: Whether there is noise: a bool, or a tensor where only the running graph knows.
            make_noisy: Makes, in the graph, the noisy values from the clean values and a replica's number.
        """
        # By replica, by variable. Each is read once: in a large model, ops are what the first step costs.
        clean = [
            [tf.convert_to_tensor(local(v.value)[r]) for v in self._variables]
            for r in range(len(local(self._marks)))
        ]
        inject = functools.partial(self._inject, clean, make_noisy)
        unchanged = clean if self._per_replica else clean[:1]
        if isinstance(active, bool):
            noisy = inject() if active else unchanged
        else:
            noisy = tf.cond(active, inject, lambda: unchanged)
        uses = [] if tf.executing_eagerly() else [Uses(v) for v in self._variables]
        return Injection(clean, noisy, uses, active)

    def _inject(self, clean: list[list[Tensor]], make_noisy: MakeNoisy) -> list[list[Tensor]]:
        with tf.control_dependencies(made(self._copies.write(clean))):
            mark = write(self._marks, tf.ones([len(self._variables)], tf.bool))
        replicas = range(len(clean) if self._per_replica else 1)
        noisy = [make_noisy(clean[0], replica) for replica in replicas]
        with tf.control_dependencies(made([mark])):
            for i, v in enumerate(self._variables):
                write(v.value, lambda r, i=i: noisy[r if self._per_replica else 0][i])
        return noisy

    def discard(self, injection: "Injection") -> None:
        """Puts clean values back into all variables, whatever has been written to them since.

        In the graph of the injection.
        """
        everything = range(len(self._variables))
        if injection.uses:
            for i in everything:
                self._note_uses(injection, i)
        self.restore(injection, everything, settle=False)

    def restore(
        self, injection: "Injection", indices: Iterable[int], *, settle: bool = True
    ) -> Tensor | None:
        """Puts clean values back, and lets changes by hand land on them, if it is to `settle`.

        Returns what an update of these variables has to wait for.
        """
        indices = [i for i in sorted(indices) if injection.states[i] is not _State.CLEAN]
        if not indices or injection.active is False:
            return None

        def restore() -> Tensor:
            restore_ = self._restore if settle else self._reset
            restored = restore_(injection, indices)
            others = np.ones(len(self._variables), bool)
            others[indices] = False
            with tf.control_dependencies(made(restored)):
                unmark = write(self._marks, tf.logical_and(self._marks, others))
            # In a branch, the ops may run or not.
            certain = injection.graph is current_graph()
            for i in indices:
                injection.states[i] = _State.CLEAN if certain else _State.UNKNOWN
            with tf.control_dependencies(made([unmark])):
                given_up = [] if self._compiled else self._give_up(injection, indices)
            with tf.control_dependencies(made([unmark, *given_up])):
                return tf.constant(True)

        return merge_call(restore)

    def has_moved(self, injection: "Injection") -> bool:
        """Whether something has changed any of the variables since. Not in a graph."""
        pairs = zip(self._variables, injection.noisy[0], strict=True)
        return not all(
            bool(tf.reduce_all(_same_bits(tf.convert_to_tensor(local(v.value)[0]), noisy)))
            for v, noisy in pairs
        )

    def note_moved(self, injection: "Injection", indices: Iterable[int]) -> set[int]:
        """Notes for `moved` which of these had been changed by hand. Returns those that may have been."""
        settled = {i: injection.moved[i] for i in indices if i in injection.moved}
        if settled:
            found = [settled.get(i, tf.constant(False)) for i in range(len(self._variables))]
            merge_call(lambda: write(self._moved, tf.logical_or(self._moved, tf.stack(found))))
        return set(settled)

    # On the host, between steps.

    def roll_back(self) -> None:
        """Puts clean values back into the variables that are marked."""
        marked = tf.convert_to_tensor(self._marks).numpy()
        for i in np.flatnonzero(marked).tolist():
            self._variables[i].assign(self._copies.read(i)[0])
        if marked.any():
            self._marks.assign(tf.zeros_like(marked))

    def moved(self) -> list[int]:
        """The numbers of the variables that `note_moved` has noted so far."""
        return np.flatnonzero(tf.convert_to_tensor(self._moved).numpy()).tolist()

    def reserve(self) -> None:
        """Gives the copies the shapes that steps are compiled for."""
        self._copies.reserve()

    def release(self) -> None:
        """Frees the memory of the copies."""
        self._copies.release()

    def _restore(self, injection: "Injection", indices: Sequence[int]) -> list[Any]:
        if tf.executing_eagerly() or injection.graph is not current_graph():
            return [self._settle(injection, i) for i in indices]
        settled, untouched = [], []
        for i in indices:
            writes = self._note_uses(injection, i)
            if writes or injection.states[i] is not _State.NOISY:
                injection.writes[i] = writes
                settled.append(self._settle(injection, i))
            else:
                untouched.append(i)
        return [*settled, *self._reset(injection, untouched)]

    def _give_up(self, injection: "Injection", restored: Sequence[int]) -> list[Any]:
        before = [i for i, each in enumerate(injection.states) if each is _State.CLEAN]
        return self._copies.give_up(restored, before)

    def _note_uses(self, injection: "Injection", i: int) -> list[Any]:
        """Notes whether a variable was read since the injection. Returns the ops that may have written."""
        uses, before = Uses(self._variables[i]), injection.uses[i]
        if uses.total == before.total:
            injection.unread.add(i)
        return uses.writes[len(before.writes) :]

    def _reset(self, injection: "Injection", indices: Sequence[int]) -> list[Any]:
        def reset() -> Tensor:
            ops = [
                write(self._variables[i].value, lambda r, i=i: injection.clean[r][i])
                for i in indices
            ]
            with tf.control_dependencies(made(ops)):
                return tf.constant(True)

        if not indices:
            return []
        if injection.active is True:
            return [reset()]
        return [tf.cond(injection.active, reset, lambda: tf.constant(False))]

    def _settle(self, injection: "Injection", i: int) -> Tensor:
        variable = self._variables[i].value

        def settle() -> Tensor:
            copies = self._copies.read(i)
            noisy = [injection.noisy[r if self._per_replica else 0][i] for r in range(len(copies))]
            settled = [_settled(*each) for each in zip(local(variable), copies, noisy, strict=True)]
            with tf.control_dependencies(made([write(variable, lambda r: settled[r][0])])):
                return tf.identity(settled[0][1])

        marked = tf.convert_to_tensor(self._marks)[i]
        moved = tf.cond(marked, settle, lambda: tf.constant(False))
        if injection.graph is current_graph():
            injection.moved[i] = moved
        return moved


class Injection:
    """The noise of one step, and what became of it, while the ops of the step are made.

    Attributes:
        active: Whether there is any: a bool, or a tensor where only the running graph knows.
        writes: By number, the ops that may have written to a variable while it was noisy.
        moved: By number, for variables that were settled, whether they had been changed by hand.
        unread: Numbers of the variables that were restored before anything had read them.
    """

    def __init__(
        self,
        clean: list[list[Tensor]],
        noisy: list[list[Tensor]],
        uses: list[Uses],
        active: Any,
    ) -> None:
        self.graph = current_graph()
        self.clean = clean
        self.noisy = noisy
        self.uses = uses
        self.active = active
        self.states = [_State.NOISY] * len(noisy[0])
        self.unread: set[int] = set()
        self.writes: dict[int, list[Any]] = {}
        self.moved: dict[int, Tensor] = {}


class _State(enum.Enum):
    NOISY = enum.auto()
    CLEAN = enum.auto()
    UNKNOWN = enum.auto()  # Only the marks know.


def _settled(variable: Any, clean: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
    """The clean value, plus what the step itself added to the noisy one, and whether it did."""
    now = tf.convert_to_tensor(variable)
    moved = widen(clean) + (widen(now) - widen(noisy))
    untouched = _same_bits(now, noisy)
    value = tf.where(untouched, clean, tf.cast(moved, now.dtype))
    return value, tf.logical_not(tf.reduce_all(untouched))


def _same_bits(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors are the same. By bits: a NaN that the noise ran into is not a change."""
    return tf.equal(bit_pattern(a), bit_pattern(b))

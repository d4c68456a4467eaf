"""Noise in variables, as a write-ahead log keeps it.

In the graph of a step: copy clean <- w, mark; inject w <- noisy; and, before an update, restore w <- clean,
unmark. Wherever a step stops, the marks tell which variables hold noise, and the copies what they held
before.
"""

import enum
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_weightnoise._not_public import (
    calls_function,
    current_graph,
    handle,
    may_write,
    ops_on,
)
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Variable
from keras_weightnoise._weights.values import bit_pattern, widen


class WriteAheadLog:
    """The clean values of variables while they hold noise.

    Args:
        variables: Keras variables.
        make_noisy: Makes, in the graph, the noisy values from the clean values and a replica's number.
        own_noise: Whether each replica has noisy values of its own, or all share those of the first.
    """

    def __init__(
        self,
        variables: Sequence[Variable],
        make_noisy: Callable[[list[Tensor], int], list[Tensor]],
        own_noise: bool,
    ) -> None:
        self._variables = list(variables)
        self._make_noisy = make_noisy
        self._own_noise = own_noise
        # No memory yet: a copy shares that of its weight until the weight is written to.
        self._clean = [state(tf.convert_to_tensor(v.value)) for v in variables]
        self._dirty = state(tf.zeros([len(variables)], tf.bool))

    def inject(self, active: bool | Tensor) -> "Run":
        """Makes the ops that begin a step: copy, mark, inject. None of it unless `active`."""
        # By replica, by variable. Each is read once: in a large model, ops are what the first step costs.
        clean = [
            [tf.convert_to_tensor(local(v.value)[r]) for v in self._variables]
            for r in range(len(local(self._dirty)))
        ]
        inject = functools.partial(self._inject, clean)
        unchanged = clean if self._own_noise else clean[:1]
        if isinstance(active, bool):
            noisy = inject() if active else unchanged
        else:
            noisy = tf.cond(active, inject, lambda: unchanged)
        uses = [] if tf.executing_eagerly() else [_Uses(v.value) for v in self._variables]
        return Run(clean, noisy, uses, active)

    def _inject(self, clean: list[list[Tensor]]) -> list[list[Tensor]]:
        copies = [assign(copy, lambda r, i=i: clean[r][i]) for i, copy in enumerate(self._clean)]
        with tf.control_dependencies(made(copies)):
            mark = assign(self._dirty, tf.ones([len(copies)], tf.bool))
        replicas = range(len(clean) if self._own_noise else 1)
        noisy = [self._make_noisy(clean[0], replica) for replica in replicas]
        with tf.control_dependencies(made([mark])):
            for i, v in enumerate(self._variables):
                assign(v.value, lambda r, i=i: noisy[r if self._own_noise else 0][i])
        return noisy

    def restore(self, run: "Run", indices: Iterable[int]) -> Tensor | None:
        """Makes the ops that put clean values back. Returns what an update of them has to wait for."""
        indices = [i for i in indices if run.states[i] is not _State.CLEAN]
        if not indices or run.active is False:
            return None

        def restore() -> Tensor:
            restored = self._restore(run, indices)
            others = np.ones(len(self._variables), bool)
            others[indices] = False
            with tf.control_dependencies(made(restored)):
                unmark = assign(self._dirty, tf.logical_and(self._dirty, others))
            # In a branch, the ops may run or not.
            certain = run.graph is current_graph()
            for i in indices:
                run.states[i] = _State.CLEAN if certain else _State.UNKNOWN
            with tf.control_dependencies(made([unmark])):
                return tf.constant(True)

        return merge_call(restore)

    def roll_back(self) -> None:
        """Puts clean values back into the variables that are marked. Not in a graph."""
        dirty = tf.convert_to_tensor(self._dirty).numpy()
        for i in np.flatnonzero(dirty):
            self._variables[i].assign(tf.convert_to_tensor(self._clean[i]))
        if dirty.any():
            self._dirty.assign(tf.zeros_like(dirty))

    def reserve(self) -> None:
        """Gives the copies values again, the weights' own. Not in a graph."""
        for clean, v in zip(self._clean, self._variables, strict=True):
            overwrite(clean, [tf.convert_to_tensor(each) for each in local(v.value)])

    def release(self) -> None:
        """Frees the memory of the copies, until they are reserved again. Not in a graph."""
        for clean in self._clean:
            free(clean)

    def _restore(self, run: "Run", indices: Sequence[int]) -> list[Any]:
        """Makes the ops that put these clean values back, whatever became of the noisy ones."""
        if tf.executing_eagerly() or run.graph is not current_graph():
            return [self._settle_if_marked(run, i) for i in indices]
        settled, untouched = [], []
        for i in indices:
            uses = _Uses(self._variables[i].value)
            if uses.total == run.uses[i].total:
                run.unread.add(i)
            written = uses.writes[len(run.uses[i].writes) :]
            if written or run.states[i] is not _State.NOISY:
                run.written[i] = written
                settled.append(self._settle_if_marked(run, i))
            else:
                untouched.append(i)

        def reset() -> Tensor:
            ops = [
                assign(self._variables[i].value, lambda r, i=i: run.clean[r][i]) for i in untouched
            ]
            with tf.control_dependencies(made(ops)):
                return tf.constant(True)

        if untouched and run.active is True:
            settled.append(reset())
        elif untouched:
            settled.append(tf.cond(run.active, reset, lambda: tf.constant(False)))
        return settled

    def _settle_if_marked(self, run: "Run", i: int) -> Any:
        variable, clean = self._variables[i].value, self._clean[i]

        def settled_value(r: int) -> Tensor:
            return _settled(
                local(variable)[r],
                local(clean)[r],
                run.noisy[r if self._own_noise else 0][i],
            )

        def settle() -> Tensor:
            with tf.control_dependencies(made([assign(variable, settled_value)])):
                return tf.constant(True)

        marked = tf.convert_to_tensor(self._dirty)[i]
        return tf.cond(marked, settle, lambda: tf.constant(False))


class Run:
    """What is known of one run of the step while its ops are made.

    Attributes:
        active: Whether there is noise in it: a bool, or a tensor where only the running graph knows.
        written: By number, the ops that may have written to a variable while it held noise.
        unread: Numbers of the variables that were restored before anything had read them.
    """

    def __init__(
        self,
        clean: list[list[Tensor]],
        noisy: list[list[Tensor]],
        uses: "list[_Uses]",
        active: Any,
    ) -> None:
        self.graph = current_graph()
        self.clean = clean
        self.noisy = noisy
        self.uses = uses
        self.active = active
        self.states = [_State.NOISY] * len(noisy[0])
        self.unread: set[int] = set()
        self.written: dict[int, list[Any]] = {}


class _State(enum.Enum):
    NOISY = enum.auto()
    CLEAN = enum.auto()
    UNKNOWN = enum.auto()  # Only the marks know.


class _Uses:
    """The ops of the graph being built that used, and that may have written, a variable so far."""

    def __init__(self, variable: Any) -> None:
        ops = ops_on(local(variable)[0])
        self.total = len(ops)
        self.writes = [op for op in ops if may_write(op)]


def called_with(variable: Variable) -> bool:
    """Whether the graph being built calls a function that may write a variable."""
    uses = _Uses(variable.value)
    return any(calls_function(op) for op in uses.writes)


def _settled(variable: Any, clean: Any, noisy: Tensor) -> Tensor:
    """The clean value, plus what the step itself added to the noisy one."""
    now = tf.convert_to_tensor(variable)
    clean = tf.convert_to_tensor(clean)
    moved = widen(clean) + (widen(now) - widen(noisy))
    # By bits: a NaN that the noise ran into is not a change.
    untouched = tf.equal(bit_pattern(now), bit_pattern(noisy))
    return tf.where(untouched, clean, tf.cast(moved, now.dtype))


def state(value: Tensor) -> tf.Variable:
    """A variable to keep something in from step to step, one on each replica."""
    return tf.Variable(value, trainable=False)


def free(variable: Any) -> None:
    """Frees the memory of a state variable, until it is overwritten. Not in a graph.

    TensorFlow keeps graphs that nothing refers to any more (as of 2.21), and they what they use: what is
    not freed would outlive the objects here.
    """
    overwrite(variable, [tf.zeros([0], v.dtype) for v in local(variable)])


def overwrite(variable: Any, values: Sequence[Tensor]) -> None:
    """Puts values, whatever the shape, into a state variable of each replica. Not in a graph."""
    for v, value in zip(local(variable), values, strict=True):
        tf.raw_ops.AssignVariableOp(resource=handle(v), value=value, validate_shape=False)


def merge_call(make: Callable[[], Any]) -> Any:
    """Runs `make` once for all replicas."""
    return tf.distribute.get_replica_context().merge_call(lambda strategy: make())


def assign(variable: Any, value: Any) -> Any:
    """Assigns a value, or what a function returns for a replica's number, to each replica's variable."""
    ops = [
        v.assign(value(r) if callable(value) else value, read_value=False)
        for r, v in enumerate(local(variable))
    ]
    return ops[0] if len(ops) == 1 else tf.group(*made(ops))


def made(ops: Iterable[Any]) -> list[Any]:
    """Without the `None`s that stand for ops in eager mode."""
    return [op for op in ops if op is not None]


def local(variable: Any) -> tuple[Any, ...]:
    """A variable's copies on this worker's replicas."""
    strategy = tf.distribute.get_strategy()
    return strategy.experimental_local_results(variable)  # type: ignore[no-any-return]

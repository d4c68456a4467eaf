"""The training step under noise.

Around whatever `train_step` the model has, in the graph:

    copy clean <- w, mark;  inject w <- clean + n;  the model's own step;
    before an optimizer updates variables: restore w <- clean, unmark, update;
    at the end: restore what is still marked.

That is a write-ahead log. Wherever a step stops, `roll_back` knows from the marks which variables hold
noise, and the copies say what they held before.
"""

import enum
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise import selection
from keras_weightnoise.noises import Noise
from keras_weightnoise.perturbation import perturb
from keras_weightnoise.sampling import Tensor
from keras_weightnoise.selection import Target

# What only looks at a variable. Any other op may have written to it.
_READS = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"}


class NoisyStep:
    """The training step of one model under noise, and the state it keeps between steps.

    Args:
        model: A compiled and built model.
        targets: The variables to perturb.
        noise: The noise model.
        period: Optimizer steps per draw; `None`: one draw lasts from one `hold` to the next.
    """

    def __init__(
        self, model: Any, targets: Sequence[Target], noise: Noise, period: int | None
    ) -> None:
        self.targets = list(targets)
        self.clean_function: Callable[[Any], Any] = model.train_function
        self._unread: list[str] = []
        self._model = model
        self._noise = noise
        self._period = period
        self._train_step = _python(model.train_step)
        self._optimizers = selection.optimizers(model)
        self._applies = [self._restoring(optimizer) for optimizer in self._optimizers]
        self._local = threading.local()  # MirroredStrategy runs each replica in a thread.
        self._traced = self._applied = self._checked = False
        with model.distribute_strategy.scope():
            self._clean = [_state(tf.zeros(v.shape, v.dtype)) for v in self._variables()]
            self._dirty = _state(tf.zeros([len(self.targets)], tf.bool))
            # The noise in the weights is a function of these four and of the clean weights.
            self._seed, self._held, self._drawn, self._step = (
                _state(tf.zeros((), tf.int64)) for _ in range(4)
            )
            # Steps in which no optimizer ran: updates made by hand.
            self._by_hand = _state(tf.zeros((), tf.int64))
        self._function = self._make_function()

    def serves(self, model: Any, targets: Sequence[Target]) -> bool:
        """Whether this is still the step of that model, compiled as it is, with those targets."""
        return (
            self._model is model
            and self.clean_function is model.train_function
            and [id(t.variable) for t in self.targets] == [id(t.variable) for t in targets]
            and _ids(self._optimizers) == _ids(selection.optimizers(model))
        )

    def begin(self, seed: int) -> None:
        """Begins a fit."""
        self.roll_back()  # Finds something only if an interrupt hit the last roll-back itself.
        self._seed.assign(seed)
        self.hold()

    def hold(self) -> None:
        """Begins a new draw, where `period` is `None`."""
        self._held.assign(self._now())

    def magnitude(self) -> float:
        """The noise's magnitude in the last step."""
        return float(self._noise.magnitude_at(tf.convert_to_tensor(self._step)))

    def run(self, iterator: Any) -> Any:
        """Runs one training step, or `steps_per_execution` of them. The weights are clean after."""
        iterations = None if self._checked else int(self._iterations())
        undo = [patch(self._model, "train_step", self._noisy_train_step)]
        try:
            for optimizer, apply in zip(self._optimizers, self._applies, strict=True):
                undo.append(patch(optimizer, "apply", apply))
            logs = self._function(iterator)
        except BaseException:
            self.roll_back()
            raise
        finally:
            for restore in reversed(undo):
                restore()
        if iterations is not None:
            self._check(iterations)
        return logs

    def roll_back(self) -> None:
        """Puts the clean values back into the variables that are marked."""
        dirty = tf.convert_to_tensor(self._dirty).numpy()
        for i in np.flatnonzero(dirty):
            self.targets[i].variable.assign(tf.convert_to_tensor(self._clean[i]))
        if dirty.any():
            self._dirty.assign(tf.zeros_like(dirty))

    def _check(self, iterations: int) -> None:
        """Raises or warns if the first step went past what was put around it."""
        self._checked = True
        if not self._traced:
            raise RuntimeError(
                f"The training function of model {self._model.name!r} did not call "
                "`model.train_step`, so no noise reached it. Expected `make_train_function` to build "
                "on `train_step`."
            )
        if not self._applied and int(self._iterations()) != iterations:
            raise RuntimeError(
                f"An optimizer of model {self._model.name!r} was applied by a `tf.function` below "
                "`train_step` that was traced before this fit, so it met noisy weights. Expected every "
                "`apply` to be seen. Make the model anew, or call `apply` in `train_step` itself."
            )
        if self._unread:
            warnings.warn(
                "Noise has no effect where nothing reads the weight: the training step of model "
                f"{self._model.name!r} reads none of {self._unread} before they are updated. "
                "Expected `exclude` to name what a step does not use.",
                stacklevel=2,
            )

    # What follows makes ops: it runs while the step is traced, or in each step if run eagerly.

    def _noisy_train_step(self, data: Any) -> Any:
        variables = len(self._model.variables)
        self._traced = True
        self._local.run = run = _merge_call(self._inject)
        try:
            logs = self._train_step(data)
            self._restore(run, range(len(self.targets)))
            if not run.applied:
                _merge_call(lambda strategy: _assign(strategy, self._by_hand, self._by_hand + 1))
        finally:
            self._local.run = None
        if len(self._model.variables) != variables:
            raise ValueError(
                f"Model {self._model.name!r} created variables in its first training step, where "
                "noise does not reach them. Expected a built model. Build it, or call it once on a "
                "batch, before `fit`."
            )
        self._applied |= run.applied
        self._unread = [self.targets[i].variable.path for i in sorted(run.unread)]
        return logs

    def _inject(self, strategy: Any) -> "_Run":
        step = self._now()
        drawn = self._held if self._period is None else step - step % self._period
        for variable, value in ((self._step, step), (self._drawn, drawn)):
            _assign(strategy, variable, value)
        variables = self._variables()
        copies = [_assign(strategy, c, v) for c, v in zip(self._clean, variables, strict=True)]
        with tf.control_dependencies(_made(copies)):
            mark = _assign(strategy, self._dirty, tf.ones([len(self.targets)], tf.bool))
        noisy = self._noisy()
        with tf.control_dependencies(_made([mark])):
            for v, n in zip(variables, noisy, strict=True):
                _assign(strategy, v, n)
        return _Run(
            noisy, [] if tf.executing_eagerly() else [_Uses(strategy, v) for v in variables]
        )

    def _noisy(self) -> list[Tensor]:
        """What the variables hold after injection."""
        step = tf.convert_to_tensor(self._step)
        return perturb(
            self._noise,
            self.targets,
            [tf.convert_to_tensor(c) for c in self._clean],
            seed=tf.convert_to_tensor(self._seed),
            step=tf.convert_to_tensor(self._drawn),
            magnitude=self._noise.magnitude_at(step),
        )

    def _restore(self, run: "_Run", indices: Iterable[int]) -> Tensor | None:
        """Puts clean values back. Returns what an update of these variables has to wait for."""
        indices = [i for i in indices if run.states[i] is not _State.CLEAN]
        if not indices:
            return None

        def restore(strategy: Any) -> Tensor:
            restored = [self._restore_one(strategy, run, i) for i in indices]
            others = np.ones(len(self.targets), bool)
            others[indices] = False
            with tf.control_dependencies(_made(restored)):
                unmark = _assign(strategy, self._dirty, tf.logical_and(self._dirty, others))
            # In a branch, or in a function that may be cached, the ops may run or not.
            certain = run.graph is _graph()
            for i in indices:
                run.states[i] = _State.CLEAN if certain else _State.UNKNOWN
            with tf.control_dependencies(_made([unmark])):
                return tf.constant(True)

        return _merge_call(restore)

    def _restore_one(self, strategy: Any, run: "_Run", i: int) -> Any:
        variable, clean = self.targets[i].variable.value, self._clean[i]

        def reset() -> Any:
            return _assign(strategy, variable, clean)

        def settle(noisy: Tensor) -> Any:
            return strategy.extended.update(
                variable,
                lambda v, c, n: v.assign(_settled(v, c, n), read_value=False),
                args=(clean, noisy),
            )

        def if_marked(restore: Callable[[], Any]) -> Any:
            def restored() -> Tensor:
                with tf.control_dependencies(_made([restore()])):
                    return tf.constant(True)

            return tf.cond(
                tf.convert_to_tensor(self._dirty)[i], restored, lambda: tf.constant(False)
            )

        if tf.executing_eagerly():
            return if_marked(lambda: settle(run.noisy[i]))
        written = _Uses(strategy, variable).writes > 0
        if run.graph is _graph():
            uses = _Uses(strategy, variable)
            if uses.total == run.uses[i].total:
                run.unread.add(i)
            written = uses.writes > run.uses[i].writes
            if written or run.states[i] is _State.UNKNOWN:
                return if_marked(lambda: settle(run.noisy[i]))
            return reset()
        # A function that is cached must not hold on to this run's tensors: make them again.
        return if_marked(lambda: settle(self._noisy()[i]) if written else reset())

    def _restoring(self, optimizer: Any) -> Callable[..., Any]:
        """The optimizer's `apply`, with the variables it updates restored first."""
        apply = optimizer.apply

        def restore_and_apply(grads: Any, trainable_variables: Any = None) -> Any:
            run: _Run | None = getattr(self._local, "run", None)
            if run is None:
                return apply(grads, trainable_variables)
            run.applied = True
            if trainable_variables is not None:
                trainable_variables = list(trainable_variables)
                if not optimizer.built:
                    # As `apply` does, but without waiting: what makes variables must not depend on
                    # anything in the graph.
                    with keras.name_scope(optimizer.name, caller=optimizer):
                        optimizer.build(trainable_variables)
                    optimizer.built = True
            token = self._restore(run, self._updated(optimizer, trainable_variables))
            with tf.control_dependencies(_made([token])):
                return apply(grads, trainable_variables)

        return restore_and_apply

    def _updated(self, optimizer: Any, variables: list[Any] | None) -> list[int]:
        if variables is None:
            # `apply(grads)` means those the optimizer was built with, which have no public name
            # (Keras 3.15).
            variables = optimizer._trainable_variables
        ids = _ids(variables)  # Of Keras's variables, or of TensorFlow's inside them.
        return [
            i
            for i, target in enumerate(self.targets)
            if id(target.variable) in ids or id(target.variable.value) in ids
        ]

    def _now(self) -> Tensor:
        """The steps taken so far."""
        return self._iterations() + tf.convert_to_tensor(self._by_hand)

    def _iterations(self) -> Tensor:
        counts = [tf.convert_to_tensor(optimizer.iterations) for optimizer in self._optimizers]
        return tf.add_n([tf.zeros((), tf.int64), *(tf.cast(count, tf.int64) for count in counts)])

    def _variables(self) -> list[Any]:
        return [target.variable.value for target in self.targets]

    def _make_function(self) -> Callable[[Any], Any]:
        undo = patch(self._model, "train_step", self._noisy_train_step)
        try:
            self._model.make_train_function(force=True)
            return self._model.train_function  # type: ignore[no-any-return]
        finally:
            undo()
            self._model.train_function = self.clean_function


class _State(enum.Enum):
    NOISY = enum.auto()
    CLEAN = enum.auto()
    UNKNOWN = enum.auto()  # Only the marks know.


class _Run:
    """What is known of one run of the step while its ops are made."""

    def __init__(self, noisy: list[Tensor], uses: "list[_Uses]") -> None:
        self.graph = _graph()
        self.noisy = noisy
        self.uses = uses
        self.states = [_State.NOISY] * len(noisy)
        self.unread: set[int] = set()
        self.applied = False


class _Uses:
    """How often the graph being built has used and may have written a variable so far."""

    def __init__(self, strategy: Any, variable: Any) -> None:
        local = strategy.experimental_local_results(variable)[0]
        ops = _graph().capture(local.handle).consumers()
        self.total = len(ops)
        self.writes = sum(op.type not in _READS for op in ops)


def _settled(variable: Any, clean: Any, noisy: Tensor) -> Tensor:
    """The clean value, plus what the step itself added to the noisy one."""
    now = tf.convert_to_tensor(variable)
    clean = tf.convert_to_tensor(clean)
    bits = {2: tf.int16, 4: tf.int32, 8: tf.int64}[now.dtype.size]
    wide = tf.float64 if now.dtype == tf.float64 else tf.float32
    moved = tf.cast(clean, wide) + (tf.cast(now, wide) - tf.cast(noisy, wide))
    # By bits: a NaN that the noise ran into is not a change.
    untouched = tf.equal(tf.bitcast(now, bits), tf.bitcast(noisy, bits))
    return tf.where(untouched, clean, tf.cast(moved, now.dtype))


def _python(step: Callable[..., Any]) -> Callable[..., Any]:
    """The Python code of a `tf.function`: one traced before would not see what is put around it."""
    if hasattr(step, "python_function"):
        return tf.autograph.to_graph(step.python_function)  # type: ignore[no-any-return]
    return step


def _merge_call(make: Callable[[Any], Any]) -> Any:
    """Runs `make(strategy)` once for all replicas."""
    return tf.distribute.get_replica_context().merge_call(make)


def _assign(strategy: Any, variable: Any, value: Any) -> Any:
    return strategy.extended.update(
        variable, lambda v, x: v.assign(x, read_value=False), args=(value,)
    )


def _made(ops: Iterable[Any]) -> list[Any]:
    """Without the `None`s that stand for ops in eager mode."""
    return [op for op in ops if op is not None]


def _state(value: Tensor) -> tf.Variable:
    return tf.Variable(value, trainable=False)


def _graph() -> Any:
    return tf.compat.v1.get_default_graph()


def _ids(objects: Iterable[Any]) -> set[int]:
    return {id(each) for each in objects}


def patch(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Sets an attribute of an instance past Keras's tracking; returns what undoes it."""
    attributes = vars(owner)
    had, before = name in attributes, attributes.get(name)
    attributes[name] = value

    def undo() -> None:
        if had:
            attributes[name] = before
        else:
            del attributes[name]

    return undo

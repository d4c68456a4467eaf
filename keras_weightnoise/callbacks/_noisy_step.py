"""The training step under noise.

Around whatever `train_step` the model has: noise into the weights; the model's own step; clean values back
before an optimizer updates them, and at the end into what is left; roll back on any error.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._attributes import replaced
from keras_weightnoise._not_public import assigns_in, in_nested_function, updated_variables
from keras_weightnoise._random import drawing
from keras_weightnoise._random.generator import make_key
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights import reachable, selection
from keras_weightnoise._weights.perturbation import Numbers, is_active, perturb_assigned
from keras_weightnoise._weights.rules import Assigned
from keras_weightnoise.callbacks._held_draws import HeldDraws
from keras_weightnoise.callbacks._interception import intercepting, listening
from keras_weightnoise.callbacks._plain_code import function_names, python_code
from keras_weightnoise.callbacks._write_ahead_log import (
    Run,
    WriteAheadLog,
    assign,
    called_with,
    merge_call,
    state,
)
from keras_weightnoise.noises import name_magnitudes


class NoisyStep:
    """The training step of one model under noise, and the state it keeps between steps.

    Args:
        model: A compiled and built model.
        noises: Pairs of a noise model and the variables it perturbs.
        period: Optimizer steps per draw; `None`: one draw lasts from one `hold` to the next.
        one_at_a_time: Whether a draw perturbs one variable, chosen at random, or all.
        per_replica: Whether each replica of the model's strategy has its own draw.
    """

    def __init__(
        self,
        model: Any,
        noises: Sequence[Assigned],
        period: int | None,
        one_at_a_time: bool,
        per_replica: bool,
    ) -> None:
        self.noises = noises
        self.targets = [target for _, targets in noises for target in targets]
        self.clean_function: Callable[[Any], Any] = model.train_function
        self._unread: list[str] = []
        self._model = model
        self._period = period
        self._one_at_a_time = one_at_a_time
        self._per_replica = per_replica
        self._train_step = python_code(model.train_step)
        self._functions = {
            name: python_code(getattr(model, name))
            for name in function_names(model)
            if name != "train_step"
        }
        self._optimizers = reachable.optimizers(model)
        self._identity = _identity(model, noises, period, one_at_a_time, per_replica)
        self._traced = self._checked = self._running = False
        with model.distribute_strategy.scope():
            self._log = WriteAheadLog([t.variable for t in self.targets], self._noisy, per_replica)
            # What the noise is a function of, beside the clean weights.
            self._seed, self._held, self._drawn, self._step = (
                state(tf.zeros((), tf.int64)) for _ in range(4)
            )
            # Steps in which no optimizer ran: updates made by hand.
            self._by_hand = state(tf.zeros((), tf.int64))
            held = period != 1 and not one_at_a_time
            self._held_draws = HeldDraws(noises) if held else None
        self._function = self._make_function()

    def serves(self, model: Any, *settings: Any) -> bool:
        """Whether one made now, with these arguments, would be the same."""
        return self.clean_function is model.train_function and self._identity == _identity(
            model, *settings
        )

    def begin(self, seed: int) -> None:
        """Begins a fit."""
        self._log.roll_back()  # Finds something only if an interrupt hit the last roll-back itself.
        self._log.reserve()
        if self._held_draws:
            self._held_draws.reserve()
        self._seed.assign(seed)
        self.hold()

    def end(self) -> None:
        """Ends a fit."""
        # XLA compiles for the shapes that variables have: it would have to do so again.
        if not self._model.jit_compile:
            self._log.release()
            if self._held_draws:
                self._held_draws.release()

    def hold(self) -> None:
        """Begins a new draw, where `period` is `None`."""
        self._held.assign(self.now())

    def magnitudes(self) -> dict[str, float]:
        """The noises' magnitudes in the last step, by name."""
        step = tf.convert_to_tensor(self._step)
        named = name_magnitudes(noise for noise, _ in self.noises)
        return {name: float(m(step) if callable(m) else m) for name, m in named.items()}

    def run(self, iterator: Any) -> Any:
        """Runs one training step, or `steps_per_execution` of them. The weights are clean after."""
        try:
            # An interrupt may leave us standing in: then we do what the model itself does.
            self._running = True
            with self._standing_in(), intercepting():
                logs = self._function(iterator)
        except BaseException:
            self._log.roll_back()
            raise
        finally:
            self._running = False
        if not self._checked:
            self._check()
        return logs

    def _check(self) -> None:
        """Raises or warns, after the first step, if noise does not reach what it should."""
        self._checked = True
        if not self._traced:
            raise RuntimeError(
                f"The training function of model {self._model.name!r} did not call "
                "`model.train_step`, so no noise reached it. Expected `make_train_function` to build "
                "on `train_step`."
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
        if not self._running:
            return self._train_step(data)
        variables = len(self._model.variables)
        self._traced = True
        run = merge_call(self._inject)
        applied: list[Any] = []

        def restore(optimizer: Any, updated: list[Any] | None) -> Tensor | None:
            applied.append(optimizer)
            return self._restore(run, optimizer, updated)

        # MirroredStrategy runs each replica in a thread of its own: listen in each.
        with listening(restore):
            logs = self._train_step(data)
        self._log.restore(run, range(len(self.targets)))
        # Steps of an optimizer that the model does not hold are not counted: see `now`.
        if not _ids(applied) & _ids(self._optimizers):
            merge_call(lambda: assign(self._by_hand, self._by_hand + 1))
        if len(self._model.variables) != variables:
            raise ValueError(
                f"Model {self._model.name!r} created variables in its first training step, where "
                "noise does not reach them. Expected a built model. Build it, or call it once on a "
                "batch, before `fit`."
            )
        self._refuse_unheard(applied)
        self._refuse_self_assigned(run)
        self._unread = [self.targets[i].variable.path for i in sorted(run.unread)]
        return logs

    def _refuse_unheard(self, applied: list[Any]) -> None:
        """Raises if a function that was traced earlier applies an optimizer: we cannot step between."""
        if tf.executing_eagerly():
            return  # There is no graph to look at.
        for optimizer in self._optimizers:
            if id(optimizer) in _ids(applied):
                continue
            if any(called_with(counter) for counter in _counters(optimizer)):
                raise ValueError(_NESTED.format(model=self._model.name, optimizer=optimizer.name))

    def _refuse_self_assigned(self, run: Run) -> None:
        """Raises if a layer, when called, has written to a variable that held noise."""
        for i, ops in run.written.items():
            target = self.targets[i]
            if any(assigns_in(op, target.layer) for op in ops):
                raise ValueError(selection.self_assigned(target.variable, target.layer))

    def _inject(self) -> Run:
        step = self.now()
        assign(self._step, step)
        held = tf.convert_to_tensor(self._held)
        assign(self._drawn, held if self._period is None else step - step % self._period)
        at = tf.convert_to_tensor(self._step)
        noises = [noise for noise, _ in self.noises]
        magnitudes = [noise.magnitudes_at(at) for noise in noises]
        return self._log.inject(is_active(noises, magnitudes))

    def _noisy(self, clean: list[Tensor], replica: int) -> list[Tensor]:
        """The noisy values: a function of the clean ones and of what the state variables hold."""
        seed, drawn = tf.convert_to_tensor(self._seed), tf.convert_to_tensor(self._drawn)
        at = tf.convert_to_tensor(self._step)

        def noisy(
            noises: Sequence[Assigned], clean: list[Tensor], numbers: list[Numbers] | None
        ) -> list[Tensor]:
            magnitudes = [noise.magnitudes_at(at) for noise, _ in noises]
            return perturb_assigned(  # type: ignore[no-any-return]
                noises,
                clean,
                seed=seed,
                step=drawn,
                magnitudes=magnitudes,
                replica=replica,
                numbers=numbers,
                differentiable=False,  # The optimizer updates the clean weights.
            )

        if not self._one_at_a_time:
            held = self._held_draws.at(seed, drawn, replica) if self._held_draws else None
            return noisy(self.noises, clean, held)
        single = [(noise, [target]) for noise, targets in self.noises for target in targets]
        chosen = drawing.choose(make_key(seed, drawn), len(clean))
        return [
            tf.cond(
                chosen == i,
                lambda each=each, value=value: noisy([each], [value], None)[0],
                lambda value=value: value,
            )
            for i, (each, value) in enumerate(zip(single, clean, strict=True))
        ]

    def _restore(self, run: Run, optimizer: Any, updated: list[Any] | None) -> Tensor | None:
        """Before an optimizer is applied: puts clean values into what it is about to update."""
        if in_nested_function(run.graph):
            raise ValueError(_NESTED.format(model=self._model.name, optimizer=optimizer.name))
        if updated is None:
            updated = updated_variables(optimizer)
        ids = _ids(updated)  # Of Keras's variables, or of TensorFlow's inside them.
        variables = [target.variable for target in self.targets]
        return self._log.restore(
            run, [i for i, v in enumerate(variables) if id(v) in ids or id(v.value) in ids]
        )

    def now(self) -> Tensor:
        """The steps taken so far."""
        return self._iterations() + tf.convert_to_tensor(self._by_hand)

    def _iterations(self) -> Tensor:
        counts = [tf.convert_to_tensor(_iterations(optimizer)) for optimizer in self._optimizers]
        return tf.add_n([tf.zeros((), tf.int64), *(tf.cast(count, tf.int64) for count in counts)])

    def _make_function(self) -> Callable[[Any], Any]:
        try:
            with self._standing_in():
                self._model.make_train_function(force=True)
            return self._model.train_function  # type: ignore[no-any-return]
        finally:
            self._model.train_function = self.clean_function

    def _standing_in(self) -> contextlib.AbstractContextManager[None]:
        """Within it, `model.train_step` is ours, and the model's own `tf.function`s are plain code.

        Keras before 3.6 looks `train_step` up in each step. A function would keep what it was traced with:
        with noise to take off, or without.
        """
        return replaced(self._model, train_step=self._noisy_train_step, **self._functions)


_NESTED = (
    "Optimizer {optimizer!r} of model {model!r} is applied in a `tf.function` that is no method of the "
    "model. It would keep what it was traced with: noise to take off, or none. Expected `apply` to be "
    "called in `train_step`, or in a method of the model. Remove the decorator, or make it a method."
)


def _counters(optimizer: Any) -> list[Any]:
    """The variables of an optimizer that count its steps: whole numbers without a shape."""
    return [v for v in optimizer.variables if v.shape == () and "int" in v.dtype]


def _identity(model: Any, noises: Sequence[Assigned], *settings: Any) -> tuple[Any, ...]:
    """Equal for arguments that make the same step. A step keeps alive what goes in by its `id`."""
    variables = [[id(target.variable) for target in targets] for _, targets in noises]
    optimizers = _ids(reachable.optimizers(model))
    return id(model), optimizers, [noise for noise, _ in noises], variables, settings


def _iterations(optimizer: Any) -> Any:
    # As of Keras 3.5, that of a LossScaleOptimizer itself stays at 0.
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer.iterations


def _ids(objects: Iterable[Any]) -> set[int]:
    return {id(each) for each in objects}

"""The training step under noise.

Around whatever `train_step` the model has: noise into the weights; the model's own step; clean values back
before an optimizer updates them, and at the end into what is left; roll back on any error.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import tensorflow as tf

from keras_weightnoise._attributes import replaced
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Variable
from keras_weightnoise._weights.rules import Assigned
from keras_weightnoise.callbacks import _findings
from keras_weightnoise.callbacks._clock import Clock
from keras_weightnoise.callbacks._interception import Update, intercepting, listening
from keras_weightnoise.callbacks._mentions import may_apply
from keras_weightnoise.callbacks._optimizers import (
    built_with,
    held_optimizers,
    not_among,
    reads_all,
)
from keras_weightnoise.callbacks._passes import Gathering, Passes
from keras_weightnoise.callbacks._plain_code import function_names, python_code
from keras_weightnoise.callbacks._plan import Pass, Plan
from keras_weightnoise.callbacks._replicas import merge_call
from keras_weightnoise.callbacks._step_adversary import StepAdversary
from keras_weightnoise.callbacks._step_noise import StepNoise
from keras_weightnoise.callbacks._train_function import make_function, may_be_compiled
from keras_weightnoise.callbacks._write_ahead_log import Injection, WriteAheadLog


class NoisyStep:
    """The training step of one model under noise, and the state it keeps between steps.

    Args:
        model: A compiled and built model.
        clean_function: The model's own training function, without noise.
        noises: Pairs of a noise model and the variables it perturbs.
        period: Optimizer steps per draw; `None`: one draw lasts from one `clock.begin_draw` to the next.
        one_at_a_time: Whether a draw perturbs one variable, chosen at random, or all.
        per_replica: Whether each replica of the model's strategy has its own draw.
        plan: The passes of a step.
    """

    def __init__(
        self,
        model: Any,
        clean_function: Any,
        noises: Sequence[Assigned],
        period: int | None,
        one_at_a_time: bool,
        per_replica: bool,
        plan: Plan,
    ) -> None:
        self.noises = noises
        self.targets = [target for _, targets in noises for target in targets]
        self.clean_function = clean_function
        self._model = model
        self._train_step = python_code(model.train_step)
        self._functions = {
            name: python_code(getattr(model, name))
            for name in function_names(model)
            if name != "train_step"
        }
        self._optimizers = held_optimizers(model)
        self._identity = _identity(
            model, clean_function, noises, period, one_at_a_time, per_replica, plan
        )
        self._seen = _Seen(may_apply(model))
        self._running = False
        compiled = may_be_compiled(model)
        with model.distribute_strategy.scope():
            self.clock = Clock(model, period)
            replicas = model.distribute_strategy.num_replicas_in_sync if per_replica else 1
            self._noise: StepNoise | StepAdversary
            if plan.adversary:
                self._noise = StepAdversary(cast(Any, noises[0][0]), self.clock)
            else:
                draws = period != 1, plan.draws_per_step, replicas, compiled
                self._noise = StepNoise(noises, self.clock, one_at_a_time, *draws)
            variables = [each.variable for each in self.targets]
            self._log = WriteAheadLog(variables, per_replica, compiled)
        self._plan = plan
        self._passes = Passes(model, self._train_step, self.targets, self._log, plan, per_replica)
        self._function = make_function(model, self._standing_in())

    def serves(self, *settings: Any) -> bool:
        """Whether one made now, with these arguments, would be the same."""
        return self._identity == _identity(*settings)

    def begin(self, seed: int) -> None:
        """Begins a fit."""
        self._log.roll_back()  # Finds something only if an interrupt hit the last roll-back itself.
        self._log.reserve()
        self._noise.reserve()
        self.clock.begin(seed)

    def end(self) -> None:
        """Ends a fit."""
        # XLA compiles for the shapes that variables have: it would have to do so again.
        if not self._model.jit_compile:
            self._log.release()
            self._noise.release()

    def run(self, iterator: Any) -> Any:
        """Runs one training step, or `steps_per_execution` of them. The weights are clean after."""
        try:
            # Where an interrupt keeps `replaced` from putting `train_step` back, ours does what that does.
            self._running = True
            with self._standing_in(), intercepting():
                logs = self._function(iterator)
        except BaseException:
            self._log.roll_back()
            self._passes.roll_back()
            raise
        finally:
            self._running = False
        self._report()
        return logs

    def _report(self) -> None:
        """After a step: raises or warns, once, if noise does not reach what it should."""
        seen = self._seen
        if not seen.reported:
            seen.reported = True
            if not seen.traced:
                _findings.refuse_untraced(self._model)
            _findings.warn_unread(self._model, self._variables(seen.unread))
        if seen.watched:
            moved = seen.watched.intersection(self._log.moved())
            seen.watched -= moved
            seen.moved |= moved
            _findings.warn_moved(self._model, self._variables(moved))

    def _variables(self, numbers: Iterable[int]) -> list[Variable]:
        return [self.targets[i].variable for i in sorted(numbers)]

    # What follows makes ops: it runs while the step is traced, or in each step if run eagerly.

    def _noisy_train_step(self, data: Any) -> Any:
        if not self._running:
            return self._train_step(data)
        self._seen.traced = True
        variables = len(self._model.variables)
        merge_call(self.clock.begin_step)
        active = merge_call(self._noise.is_active)
        inject = functools.partial(self._inject, active)
        if self._plan.several and active is not False:
            logs = self._several(self._passes.begin(data, inject))
        else:
            logs = self._last(data, merge_call(lambda: inject(self._plan.passes[-1])))
        if len(self._model.variables) != variables:
            _findings.refuse_new_variables(self._model)
        return logs

    def _several(self, gathering: Gathering) -> Any:
        """The last of several passes, whose update is made with the gradients of all."""
        running = gathering.inject(self._plan.passes[-1])
        combine = functools.partial(gathering.take_last, running)
        logs = self._last(gathering.data, running.injection, combine)
        gathering.check(running)
        self._seen.unread |= gathering.unread
        return logs

    def _last(
        self,
        data: Any,
        injection: Injection,
        before_update: Callable[[Update], None] = lambda update: None,
    ) -> Any:
        """The pass that goes on to the model's update."""
        heard: list[Update] = []

        @contextlib.contextmanager
        def hear(update: Update) -> Iterator[Tensor | None]:
            heard.append(update)
            before_update(update)
            token = self._restore(injection, update)
            with self.clock.counting(update):
                yield token

        # MirroredStrategy runs each replica in a thread of its own: listen in each.
        with listening(hear):
            logs = self._train_step(data)
        self._finish(injection, heard)
        return logs

    def _inject(
        self, active: bool | Tensor, each: Pass, gradients: Sequence[Sequence[Tensor]] = ()
    ) -> Injection:
        if each.draw is None:
            return self._log.inject(False, lambda clean, replica: clean)
        settings: dict[str, Any] = {"gradients": gradients} if gradients else {"draw": each.draw}
        return self._log.inject(active, functools.partial(self._noise.make, **settings))

    def _restore(self, injection: Injection, update: Update) -> Tensor | None:
        """Before an update: puts clean values into what it is about to read and write."""
        _findings.refuse_nested(self._model, injection, update.optimizer)
        variables = update.variables
        if variables is None:
            variables = built_with(update.optimizer) or [t.variable for t in self.targets]
        updated = self._numbers(variables)
        self._seen.updated |= updated
        if reads_all(update.optimizer):
            updated |= self._numbers(built_with(update.optimizer))
        return self._log.restore(injection, updated)

    def _finish(self, injection: Injection, heard: list[Update]) -> None:
        """After the model's own step: puts clean values into all that is left, and keeps the time."""
        seen = self._seen
        seen.applies |= bool(heard)
        by_hand = not heard and self._is_update(injection)
        everything = set(range(len(self.targets)))
        self._log.restore(injection, everything)
        if by_hand:
            self.clock.count(1)
        if seen.applies:
            left = everything - seen.updated - seen.moved
            seen.watched = self._log.note_moved(injection, left)
        called = [each for update in heard for each in (update.optimizer, *update.passed_on)]
        _findings.refuse_unheard(self._model, not_among(called, self._optimizers))
        _findings.refuse_self_assigned(injection, self.targets)
        seen.unread = set(injection.unread)

    def _is_update(self, injection: Injection) -> bool:
        """Whether a step in which no optimizer was heard is one all the same: it updates by hand.

        Or it waits for others to make one update with. In a graph, an optimizer would be heard then: all
        branches are traced. Eagerly, only those that are taken are run.
        """
        if not tf.executing_eagerly():
            return True
        seen = self._seen
        return not seen.applies and (not seen.may_apply or self._log.has_moved(injection))

    def _numbers(self, variables: Iterable[Any]) -> set[int]:
        """The numbers of those targets that are among variables, Keras's or TensorFlow's inside them."""
        ids = {id(each) for each in variables}
        return {
            i
            for i, target in enumerate(self.targets)
            if id(target.variable) in ids or id(target.variable.value) in ids
        }

    def _standing_in(self) -> contextlib.AbstractContextManager[None]:
        """Within it, `model.train_step` is ours, and the model's own `tf.function`s are plain code.

        Keras before 3.6 looks `train_step` up in each step. A function would keep what it was traced with:
        with noise to take off, or without.
        """
        return replaced(self._model, train_step=self._noisy_train_step, **self._functions)


class _Seen:
    """What the steps have shown so far, when their ops were made.

    Attributes:
        may_apply: Whether the step's code mentions an optimizer's `apply`.
        applies: Whether a step has applied an optimizer.
        traced: Whether the training function has called the step.
        updated: Numbers of the variables that optimizers have been given.
        unread: Numbers of those that are restored before anything reads them.
        watched: Numbers of those that may be assigned by hand while optimizers update others.
        moved: Numbers of those that have been, and were warned of.
        reported: Whether it was said what noise does not reach.
    """

    def __init__(self, may_apply: bool) -> None:
        self.may_apply = may_apply
        self.applies = self.traced = self.reported = False
        self.updated: set[int] = set()
        self.unread: set[int] = set()
        self.watched: set[int] = set()
        self.moved: set[int] = set()


def _identity(
    model: Any, clean_function: Any, noises: Sequence[Assigned], *settings: Any
) -> tuple[Any, ...]:
    """Equal for arguments that make the same step. A step keeps alive what goes in by its `id`."""
    variables = [[id(target.variable) for target in targets] for _, targets in noises]
    optimizers = [id(optimizer) for optimizer in held_optimizers(model)]
    kept = id(model), id(clean_function), optimizers
    return *kept, [noise for noise, _ in noises], variables, settings

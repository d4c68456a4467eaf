"""Several forward and backward passes in one training step, of any `train_step` that updates once.

One pass counts: it runs as a plain step does, but that its optimizer gets the gradient of all passes. The
others are tried: each runs up to its update, where its gradients are taken and it is left; then all that it
has changed is put back. Where each pass has its part of the batch, all count: they run to the end, and only
what they have done to weights is put back.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from keras_weightnoise._not_public import global_seed
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Variable, inner_optimizers
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.state import metrics, reachable_variables, state_variables
from keras_weightnoise.callbacks import _findings
from keras_weightnoise.callbacks._interception import Update, listening
from keras_weightnoise.callbacks._kept_state import KeptState, keep, put_back
from keras_weightnoise.callbacks._mixture import Mixture
from keras_weightnoise.callbacks._optimizers import built_with, held_optimizers
from keras_weightnoise.callbacks._parts import part_of
from keras_weightnoise.callbacks._plan import Pass, Plan
from keras_weightnoise.callbacks._replicas import all_reduce, merge_call, merge_call_with
from keras_weightnoise.callbacks._write_ahead_log import Injection, WriteAheadLog

Inject = Callable[[Pass, Sequence[Sequence[Tensor]]], Injection]


class Passes:
    """What all steps of a model with several passes share.

    Args:
        model: The model.
        train_step: Its own step.
        targets: What noise perturbs.
        log: The log of these.
        plan: Which passes there are.
        per_replica: Whether an adversary has each replica's gradient, or the sum.
    """

    def __init__(
        self,
        model: Any,
        train_step: Callable[[Any], Any],
        targets: list[Target],
        log: WriteAheadLog,
        plan: Plan,
        per_replica: bool,
    ) -> None:
        self.per_replica = per_replica
        self.model = model
        self.train_step = train_step
        self.targets = targets
        self.log = log
        self.plan = plan
        self.selected = [target.variable for target in targets]
        self._before: list[KeptState] = []
        self._has_run = False
        self._state: list[Variable] = []
        self._weights: list[Variable] = []
        self._trained: list[Variable] = []

    def roll_back(self) -> None:
        """After an error, on the host: puts back what an eager step has changed before its update."""
        before, self._before = self._before, []
        for kept in before:
            kept.put_back()

    # What follows makes ops.

    def begin(self, data: Any, inject: Inject) -> "Gathering":
        """Tries the passes before the last one. On each replica.

        Args:
            data: What the step got.
            inject: Begins a pass: puts its noise into the weights, once for all replicas. It is given the
                pass and, for each replica, the gradient at the clean weights of each, if they are known.
        """
        self.look()
        gathering = Gathering(self, data, inject)
        if tf.executing_eagerly():
            self._before = [gathering.start, self.weights()]
        for number, each in enumerate(self.plan.passes[:-1]):
            gathering.try_pass(each, number)
        return gathering

    def end(self) -> None:
        """All gradients are there, and the update is to be made. On each replica."""
        self._has_run = True
        merge_call(self._before.clear)

    def look(self) -> None:
        """Finds the variables there are, until a first step has been made.

        Some metrics are made in it. TensorFlow then traces it again, with them there.
        """
        if self._has_run and tf.executing_eagerly():
            return
        state = state_variables(self.model)
        self._state = _without(state, self.selected)
        self._weights = _without(reachable_variables(self.model), [*self.selected, *state])
        self._trained = _without(self._weights, self.model.non_trainable_variables)

    def forget_new(self) -> None:
        """After a pass that does not count, of the first step, eagerly: empties metrics that it has made."""
        if self._has_run or not tf.executing_eagerly():
            return
        known = {id(variable) for variable in self._state}
        self.look()
        new = {id(variable) for variable in self._state} - known
        made = [m for m in metrics(self.model) if any(id(v) in new for v in m.variables)]
        if new - {id(v) for metric in made for v in metric.variables}:
            _findings.refuse_new_variables(self.model)
        for metric in made:
            metric.reset_state()

    def watch(self) -> KeptState:
        """What only an update may write to, from here to there."""
        return keep([*self.selected, *self._trained])

    def state(self) -> KeptState:
        """What layers, metrics and the step itself keep, here."""
        seed = global_seed()
        return keep(self._state + ([] if seed is None else [seed]))

    def weights(self) -> KeptState:
        """The weights that noise leaves alone, and what optimizers keep, here."""
        held = held_optimizers(self.model)
        optimizers = [each for one in held for each in (one, *inner_optimizers(one))]
        variables = [variable for each in optimizers for variable in each.variables]
        return keep([*self._weights, *variables])


class Gathering:
    """The gradients of one step's passes, on one replica.

    Attributes:
        data: What the last pass is to get.
        start: What layers, metrics and the step itself kept when it began.
        unread: Numbers of the variables that nothing reads while they are noisy.
    """

    def __init__(self, passes: Passes, data: Any, inject: Inject) -> None:
        self._passes = passes
        self._whole = data
        self._inject = inject
        self._mixture = Mixture(passes.plan.clean_gradient)
        self.start = passes.state()  # From which each pass over the whole batch starts.
        self.unread: set[int] = set()
        self.data, self._last_size = self._part(len(passes.plan.passes) - 1)

    def try_pass(self, each: Pass, number: int) -> None:
        """Runs a pass for its gradients, on its part of the batch."""
        passes, split = self._passes, self._passes.plan.split_batch
        data, size = self._part(number)
        state, weights = passes.state(), passes.weights()
        running = self.inject(each, size)
        clean: list[KeptState] = []

        @contextlib.contextmanager
        def hear(update: Update) -> Iterator[None]:
            self.take(running, update)
            passes.log.discard(running.injection)
            if not split:
                raise _Left
            update.made = False
            clean.append(keep(passes.selected))
            yield

        with listening(hear), contextlib.suppress(_Left):
            passes.train_step(data)
        self.check(running)
        self.unread |= running.injection.unread if running.each.draw is not None else set()
        for kept in (weights, *clean):
            put_back(kept)
        if not split:
            put_back(state)
            passes.forget_new()
        elif tf.get_static_value(size) in (None, 0.0):
            put_back(state, where=size == 0.0)
            passes.forget_new()

    def inject(self, each: Pass, size: Tensor | None = None) -> "Running":
        """Begins a pass; without a size, the last one."""
        gradients: list[Tensor] = []
        if self._passes.plan.adversary and each.draw is not None:
            gradients = self._mixture.clean_of(self._passes.selected)
            if not self._passes.per_replica:
                gradients = all_reduce(gradients)
        injection = merge_call_with(functools.partial(self._inject, each), gradients)
        return Running(
            each, self._last_size if size is None else size, injection, self._passes.watch()
        )

    def take(self, running: "Running", update: Update) -> None:
        """Takes the gradients of a pass from its update, or raises if there is more to it."""
        model, mixture = self._passes.model, self._mixture
        running.heard.append(update.optimizer)
        _findings.refuse_nested(model, running.injection, update.optimizer)
        _findings.refuse_second(model, running.heard)
        _findings.refuse_branch(model, running.injection, update.optimizer)
        _findings.refuse_by_hand(model, running.watch, self._passes.targets)
        variables = update.variables
        if variables is None:
            variables = built_with(update.optimizer)
        if not mixture.variables:
            mixture.variables = variables
        if len(update.gradients) != len(variables) or any(
            a is not b for a, b in zip(variables, mixture.variables, strict=False)
        ):
            _findings.refuse_passes(model, "gives its optimizer other gradients in each pass")
        mixture.add(update.gradients, noisy=running.each.draw is not None, size=running.size)

    def take_last(self, running: "Running", update: Update) -> None:
        """The same of the last pass, whose update is to be made with the gradients of all."""
        self.take(running, update)
        for each in self._passes.plan.inside:
            self._passes.look()
            now = self._passes.state()
            put_back(self.start)
            self.try_pass(each, 0)
            put_back(now)
        update.gradients = self._mixture.result()
        self._passes.end()

    def check(self, running: "Running") -> None:
        """After a pass: raises if it has made no update."""
        if not running.heard:
            _findings.refuse_passes(self._passes.model, "applies no optimizer")

    def _part(self, number: int) -> tuple[Any, Tensor]:
        if not self._passes.plan.split_batch:
            return self._whole, 1.0
        return part_of(self._whole, number, len(self._passes.plan.passes))


@dataclasses.dataclass
class Running:
    """A pass that has begun.

    Attributes:
        each: Which one.
        size: How much it counts.
        injection: Its noise.
        watch: What only its update may write to.
        heard: The optimizers that it has applied.
    """

    each: Pass
    size: Tensor
    injection: Injection
    watch: KeptState
    heard: list[Any] = dataclasses.field(default_factory=list)


class _Left(BaseException):
    """A tried pass is left at its update. No `Exception`, which the step itself may catch."""


def _without(variables: Iterable[Variable], left_out: Iterable[Variable]) -> list[Variable]:
    ids = {id(variable) for variable in left_out}
    return [variable for variable in variables if id(variable) not in ids]

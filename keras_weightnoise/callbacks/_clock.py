"""The time that noise is a function of."""

import contextlib
import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Variable, inner_optimizers
from keras_weightnoise.callbacks._interception import Update
from keras_weightnoise.callbacks._optimizers import (
    counters,
    held_optimizers,
    steps_taken,
)
from keras_weightnoise.callbacks._replicas import merge_call, state, write
from keras_weightnoise.callbacks._uses import Uses


class Clock:
    """The seed of a fit's noise, and the time in optimizer steps.

    The optimizers that a model holds count their steps, and checkpoints save that. The clock adds what they
    do not count: steps of other optimizers, and updates made by hand.

    Args:
        model: A model.
        period: Steps per draw; `None`: one draw lasts from one `begin_draw` to the next.
    """

    def __init__(self, model: Any, period: int | None) -> None:
        self._optimizers = held_optimizers(model)
        self._period = period
        self._seed, self._step, self._draw, self._draw_began, self._uncounted = (
            state(tf.zeros((), tf.int64)) for _ in range(5)
        )

    # On the host, between steps.

    def begin(self, seed: int) -> None:
        """Begins a fit, and a draw."""
        self._seed.assign(seed)
        self.begin_draw()

    def begin_draw(self) -> None:
        """Begins a draw, where it lasts until the next is begun."""
        self._draw_began.assign(self.now())

    # In the step: these make ops.

    def now(self) -> Tensor:
        """The number of steps taken so far."""
        counts = [steps_taken(optimizer) for optimizer in self._optimizers]
        return tf.add_n([tf.convert_to_tensor(self._uncounted), *counts])

    def begin_step(self) -> None:
        """Notes when this step is, and when its draw began. Once for all replicas."""
        now = self.now()
        write(self._step, now)
        began = tf.convert_to_tensor(self._draw_began)
        write(self._draw, began if self._period is None else now - now % self._period)

    @property
    def seed(self) -> Tensor:
        """The seed of this fit."""
        return tf.convert_to_tensor(self._seed)

    @property
    def step(self) -> Tensor:
        """The number of steps taken before the one that runs, or that ran last."""
        return tf.convert_to_tensor(self._step)

    @property
    def draw(self) -> Tensor:
        """That number when its draw began."""
        return tf.convert_to_tensor(self._draw)

    def count(self, steps: int | Tensor) -> None:
        """Counts steps that no optimizer of the model counts."""
        merge_call(lambda: write(self._uncounted, self._uncounted + steps))

    @contextlib.contextmanager
    def counting(self, update: Update) -> Iterator[None]:
        """Within it, an update is made. Counts it, unless an optimizer of the model does."""
        optimizer = update.optimizer
        numbers = counters(optimizer)
        steps, written = steps_taken(optimizer), _written(numbers)
        yield
        if _written(numbers) == written:
            if not _is_skipped(update):
                self.count(1)  # The optimizer's class has an `apply` that does not count.
        elif not self._holds(optimizer):
            self.count(steps_taken(optimizer) - steps)

    def _holds(self, optimizer: Any) -> bool:
        held = [each for one in self._optimizers for each in (one, *inner_optimizers(one))]
        return any(optimizer is each for each in held)


def _written(variables: Sequence[Variable]) -> list[int]:
    """Changes when variables are written to: eagerly their values, in a graph the number of ops."""
    if tf.executing_eagerly():
        return [int(tf.convert_to_tensor(variable)) for variable in variables]
    return [len(Uses(variable).writes) for variable in variables]


def _is_skipped(update: Update) -> bool:
    """Whether an update changes nothing: without gradients, or eagerly, where they overflow."""
    if update.variables == []:
        return True
    scales = keras.optimizers.LossScaleOptimizer
    return isinstance(update.optimizer, scales) and all(
        isinstance(each, scales) for each in update.passed_on
    )


def check_frequency(frequency: Any) -> Any:
    """Returns when to draw anew, or raises unless it is "batch", "epoch" or an integer >= 1."""
    if isinstance(frequency, str) and frequency in ("batch", "epoch"):
        return frequency
    if isinstance(frequency, bool) or not isinstance(frequency, numbers.Integral | str):
        raise TypeError(
            'Invalid `frequency`. Expected "batch", "epoch" or an integer. '
            f"Received: frequency={frequency} (of type {type(frequency).__name__})"
        )
    if isinstance(frequency, str) or not 1 <= int(frequency) < 2**63:
        raise ValueError(
            'Invalid `frequency`. Expected "batch", "epoch" or an integer >= 1. '
            f"Received: frequency={frequency!r}"
        )
    return int(frequency)


def period_of(frequency: Any) -> int | None:
    """Steps per draw; `None`: one draw lasts for an epoch."""
    return {"batch": 1, "epoch": None}.get(frequency, frequency)

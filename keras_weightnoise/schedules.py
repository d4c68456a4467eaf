"""Schedules for magnitudes: they wait until a step, then rise.

Noise that sets in at once can end a training that went well; Keras's own schedules are made for
learning rates, and fall.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_integer, check_magnitude, is_schedule
from keras_weightnoise._types import Tensor

__all__ = ["CosineRamp", "LinearRamp"]


class Ramp(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Base class of the ramps: `start` until `start_step`, `end` from `ramp_steps` later."""

    def __init__(
        self, start: float, end: float, start_step: int, ramp_steps: int, name: str | None = None
    ) -> None:
        super().__init__()
        for argument, value in (("start", start), ("end", end)):
            if is_schedule(value):
                raise TypeError(
                    f"Invalid `{argument}`. Expected a number. Received: {argument}={value!r}"
                )
            check_magnitude(argument, value)
        for argument, value in (("start_step", start_step), ("ramp_steps", ramp_steps)):
            check_integer(argument, value, 0)
        self.start = float(start)
        self.end = float(end)
        self.start_step = int(start_step)
        self.ramp_steps = int(ramp_steps)
        self.name = name

    def __call__(self, step: Tensor) -> Tensor:
        """The value at an optimizer step, a scalar `float32` tensor."""
        passed = tf.cast(step, tf.int64) - self.start_step
        if self.ramp_steps == 0:
            fraction = tf.cast(passed >= 0, tf.float32)
        else:
            passed = tf.clip_by_value(passed, 0, self.ramp_steps)
            fraction = tf.cast(passed, tf.float32) / float(self.ramp_steps)
        risen = self._rise(fraction)
        # Exact at both ends, which `start + (end - start) * risen` is not.
        return self.start * (1.0 - risen) + self.end * risen

    def _rise(self, fraction: Tensor) -> Tensor:
        """From 0 at 0 to 1 at 1."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "end": self.end,
            "start_step": self.start_step,
            "ramp_steps": self.ramp_steps,
            "name": self.name,
        }

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(start={self.start}, end={self.end}, "
            f"start_step={self.start_step}, ramp_steps={self.ramp_steps})"
        )


@keras.saving.register_keras_serializable(package="keras_weightnoise")
class LinearRamp(Ramp):
    """Waits, then changes linearly: `start + (end - start) * t`.

    `t = (step - start_step) / ramp_steps`, held at 0 before `start_step` and at 1 after
    `start_step + ramp_steps`. Use it as a noise's magnitude, so that the noise does not set in at
    once. With `start=0`, nothing is drawn until `start_step`.

    Args:
        start: Float >= 0, the value up to and including `start_step`.
        end: Float >= 0, the value from `start_step + ramp_steps` on.
        start_step: Integer >= 0, in optimizer steps.
        ramp_steps: Integer >= 0, in optimizer steps. At 0, the value is `end` from `start_step` on.
        name: String or `None`. Defaults to `None`.

    Raises:
        ValueError: If an argument is negative or not finite.
        TypeError: If an argument is of another type.

    Example:

    >>> from keras_weightnoise import noises, schedules
    >>> ramp = schedules.LinearRamp(0.0, 0.1, start_step=100, ramp_steps=50)
    >>> [round(float(ramp(step)), 3) for step in (0, 100, 110, 150, 1000)]
    [0.0, 0.0, 0.02, 0.1, 0.1]
    >>> noises.Gaussian(ramp).relative_to is None
    True
    """

    def _rise(self, fraction: Tensor) -> Tensor:
        return fraction


@keras.saving.register_keras_serializable(package="keras_weightnoise")
class CosineRamp(Ramp):
    """Waits, then changes along half a cosine: `start + (end - start) * (1 - cos(pi * t)) / 2`.

    `t = (step - start_step) / ramp_steps`, held at 0 before `start_step` and at 1 after
    `start_step + ramp_steps`. Use it as a noise's magnitude where the change should be slow at both
    ends: random weight perturbation raises its noise so, over the whole training. With `start=0`,
    nothing is drawn until `start_step`.

    Args:
        start: Float >= 0, the value up to and including `start_step`.
        end: Float >= 0, the value from `start_step + ramp_steps` on.
        start_step: Integer >= 0, in optimizer steps.
        ramp_steps: Integer >= 0, in optimizer steps. At 0, the value is `end` from `start_step` on.
        name: String or `None`. Defaults to `None`.

    Raises:
        ValueError: If an argument is negative or not finite.
        TypeError: If an argument is of another type.

    Example:

    >>> from keras_weightnoise import schedules
    >>> ramp = schedules.CosineRamp(0.0, 0.1, start_step=100, ramp_steps=50)
    >>> [round(float(ramp(step)), 3) for step in (0, 100, 125, 150, 1000)]
    [0.0, 0.0, 0.05, 0.1, 0.1]

    References:
        - [Li et al., 2022](https://arxiv.org/abs/2211.11489)
    """

    def _rise(self, fraction: Tensor) -> Tensor:
        return (1.0 - tf.cos(fraction * math.pi)) * 0.5

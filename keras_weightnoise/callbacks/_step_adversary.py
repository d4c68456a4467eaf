"""The adversarial perturbation of a training step."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.activity import is_active
from keras_weightnoise._weights.values import widen
from keras_weightnoise.adversaries import Adversary
from keras_weightnoise.callbacks._clock import Clock


class StepAdversary:
    """Makes perturbed values from clean ones and their gradients, at the time that a clock shows.

    Args:
        adversary: What perturbs.
        clock: The clock.
    """

    def __init__(self, adversary: Adversary, clock: Clock) -> None:
        self._adversary = adversary
        self._clock = clock

    def is_active(self) -> bool | Tensor:
        """Whether there is a perturbation in this step: a bool where that is certain."""
        noises: list[Any] = [self._adversary]
        return is_active(noises, [self._adversary.magnitudes_at(self._clock.step)])

    def make(
        self, clean: list[Tensor], replica: int, gradients: Sequence[Sequence[Tensor]]
    ) -> list[Tensor]:
        """Makes the ops that perturb the values of all variables for a replica.

        Args:
            clean: The values.
            replica: The replica's number.
            gradients: For each replica, the gradient of each of these.
        """
        wide = [widen(value) for value in clean]
        own = [tf.cast(g, w.dtype) for g, w in zip(gradients[replica], wide, strict=True)]
        (magnitude,) = self._adversary.magnitudes_at(self._clock.step)
        added = self._adversary.perturbation(wide, own, magnitude)
        return [
            tf.cast(w + each, value.dtype)
            for w, each, value in zip(wide, added, clean, strict=True)
        ]

    def reserve(self) -> None:
        """Keeps nothing."""

    def release(self) -> None:
        """Keeps nothing."""

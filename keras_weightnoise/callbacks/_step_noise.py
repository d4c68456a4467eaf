"""The noise of a training step."""

import contextlib
from collections.abc import Sequence

import tensorflow as tf

from keras_weightnoise._random import drawing, kernels
from keras_weightnoise._random.generator import make_key
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.activity import is_active
from keras_weightnoise._weights.draws import Numbers
from keras_weightnoise._weights.perturbation import perturb_assigned
from keras_weightnoise._weights.rules import Assigned
from keras_weightnoise.callbacks._clock import Clock
from keras_weightnoise.callbacks._held_draws import HeldDraws


class StepNoise:
    """Makes noisy values from clean ones, at the time that a clock shows.

    Args:
        noises: Pairs of a noise and the variables it perturbs.
        clock: The clock.
        one_at_a_time: Whether a draw perturbs one variable, chosen at random, or all.
        keep_draws: Whether a draw lasts for several steps.
        draws: How many draws there are in a step.
        per_replica: How many of each there are: 1, or as many as replicas, each with its own.
        compiled: Whether XLA may compile the steps.
    """

    def __init__(
        self,
        noises: Sequence[Assigned],
        clock: Clock,
        one_at_a_time: bool,
        keep_draws: bool,
        draws: int,
        per_replica: int,
        compiled: bool,
    ) -> None:
        self._noises = noises
        self._clock = clock
        self._one_at_a_time = one_at_a_time
        kept = draws if keep_draws and not one_at_a_time else 0
        self._held = [HeldDraws(noises) for _ in range(kept)]
        self._per_replica = per_replica
        self._compiled = compiled

    def is_active(self) -> bool | Tensor:
        """Whether there is noise in this step: a bool where that is certain."""
        noises = [noise for noise, _ in self._noises]
        return is_active(noises, self._magnitudes(self._noises))

    def make(self, clean: list[Tensor], replica: int, draw: int = 0) -> list[Tensor]:
        """Makes the ops that perturb the values of all variables for a replica, in a draw of the step."""
        # To the generator, a further draw of the step is one for a further replica.
        stream = draw * self._per_replica + replica
        with contextlib.nullcontext() if self._compiled else kernels.outside_xla():
            if self._one_at_a_time:
                return self._make_one(clean, stream, draw)
            numbers = None
            if self._held:
                numbers = self._held[draw].at(self._clock.seed, self._clock.draw, replica, stream)
            return self._perturb(self._noises, clean, stream, numbers)

    def reserve(self) -> None:
        """Takes memory for draws that are kept. Not in a graph."""
        for held in self._held:
            held.reserve()

    def release(self) -> None:
        """Frees it, until it is reserved again. Not in a graph."""
        for held in self._held:
            held.release()

    def _make_one(self, clean: list[Tensor], stream: int, draw: int) -> list[Tensor]:
        single = [(noise, [target]) for noise, targets in self._noises for target in targets]
        key = make_key(self._clock.seed, self._clock.draw)
        chosen = drawing.choose(key, len(clean), draw)
        return [
            tf.cond(
                chosen == i,
                lambda each=each, value=value: self._perturb([each], [value], stream, None)[0],
                lambda value=value: value,
            )
            for i, (each, value) in enumerate(zip(single, clean, strict=True))
        ]

    def _perturb(
        self,
        noises: Sequence[Assigned],
        clean: list[Tensor],
        stream: int,
        numbers: list[Numbers] | None,
    ) -> list[Tensor]:
        return perturb_assigned(
            noises,
            clean,
            seed=self._clock.seed,
            step=self._clock.draw,
            magnitudes=self._magnitudes(noises),
            replica=stream,
            numbers=numbers,
            differentiable=False,  # The optimizer updates the clean weights.
        )

    def _magnitudes(self, noises: Sequence[Assigned]) -> list[Sequence[Tensor]]:
        step = self._clock.step
        return [noise.magnitudes_at(step) for noise, _ in noises]

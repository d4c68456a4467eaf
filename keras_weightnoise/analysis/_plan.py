"""Noises at magnitudes: what a sweep consists of."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from keras_weightnoise._checks import is_number
from keras_weightnoise.analysis._evaluation import Evaluator, is_random, unique
from keras_weightnoise.analysis._trials import Trial
from keras_weightnoise.models.perturb import PerturbedWeights
from keras_weightnoise.noises import Compose, Gaussian, Noise

Sweepable = Noise | Callable[[Any], Noise]


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
    """A noise at one magnitude of the sweep."""

    label: str
    magnitude: float
    noise: Noise

    def trial(self, noisy: PerturbedWeights, evaluator: Evaluator) -> Trial:
        sizes = self.noise.magnitudes_at(0)
        pairs = zip(self.noise.members, self.noise.magnitudes, strict=True)
        does_nothing = all(member.is_off_at(magnitude) for member, magnitude in pairs)
        return Trial(
            {"noise": self.label, "magnitude": self.magnitude},
            lambda draw: noisy.inject(draw, [sizes]),
            is_random(self.noise),
            does_nothing and evaluator.recalibration is None,
        )


def kind_of(noise: Noise) -> tuple[Any, ...]:
    """Equal for noises that one graph draws: they differ in their magnitudes alone."""
    # What is drawn may depend on the magnitude: see `Quantization`.
    return tuple((member.draws, _at(member, 0.0)) for member in noise.members)


def plan(noise: Any, magnitudes: Sequence[Any]) -> list[Point]:
    """Makes every noise of the sweep, so that a wrong one is found before the first evaluation."""
    specs = noise if isinstance(noise, list | tuple) else [noise]
    if not specs:
        raise ValueError(f"Invalid `noise`. Expected at least one. Received: noise={noise}")
    made = [[at_magnitude(spec, magnitude) for magnitude in magnitudes] for spec in specs]
    labels = unique([_label(noises, magnitudes) for noises in made])
    return [
        Point(label, float(magnitude), each)
        for label, noises in zip(labels, made, strict=True)
        for magnitude, each in zip(magnitudes, noises, strict=True)
    ]


def plan_largest(noise: Any, high: float) -> Point:
    """The noise at the largest magnitude of a search."""
    try:
        (point,) = plan(noise, [high])
    except ValueError as error:
        if isinstance(noise, Compose):
            raise
        raise ValueError(
            f"Invalid `high`. Expected a magnitude that the noise takes. Received: high={high}. {error}"
        ) from error
    return point


def at_magnitude(spec: Any, magnitude: Any) -> Noise:
    if spec is None:
        spec = Gaussian()
    if isinstance(spec, Compose):
        raise ValueError(
            "A composition has a magnitude for each of its noises. Expected a function that says which "
            "are swept, such as `lambda s: noises.Quantization(8) + noises.Gaussian(s)`. "
            f"Received: noise={spec}"
        )
    if isinstance(spec, Noise):
        return _at(spec, magnitude)
    if is_number(spec):
        raise TypeError(
            "Invalid `noise`. Expected a kind of noise: how much of it there is, `magnitudes` say, as in "
            f"`magnitudes=[{spec}]`. Received: noise={spec}"
        )
    if not callable(spec):
        raise TypeError(
            "Invalid `noise`. Expected one of `keras_weightnoise.noises`, such as `noises.Gaussian()`, a "
            "function from a magnitude to one, or a list of these. "
            f"Received: noise={spec!r} (of type {type(spec).__name__})"
        )
    noise = spec(magnitude)
    if not isinstance(noise, Noise):
        raise TypeError(
            "Invalid `noise`. Expected the function to return one of `keras_weightnoise.noises`. "
            f"Received: noise({magnitude})={noise!r}"
        )
    for magnitude_of_member in noise.magnitudes:
        if callable(magnitude_of_member):
            raise TypeError(
                "Invalid `noise`. Expected magnitudes that are numbers: there are no steps to evaluate "
                f"a schedule at. Received: noise({magnitude})={noise}"
            )
    return noise


def _at(noise: Noise, magnitude: Any) -> Noise:
    return dataclasses.replace(noise, **{noise.magnitude_name: magnitude})


def _label(noises: Sequence[Noise], magnitudes: Sequence[Any]) -> str:
    """What noises at these magnitudes have in common, without defaults."""
    parts = []
    for members in zip(*(noise.members for noise in noises), strict=False):
        settings = [
            f"{field.name}={getattr(members[0], field.name)!r}"
            for field in dataclasses.fields(members[0])
            if _is_setting(field, members, magnitudes)
        ]
        parts.append(type(members[0]).__name__ + (f"({', '.join(settings)})" if settings else ""))
    return " + ".join(parts)


def _is_setting(field: Any, members: Sequence[Noise], magnitudes: Sequence[Any]) -> bool:
    values = [getattr(member, field.name, None) for member in members]
    swept = values == list(magnitudes)
    return not swept and values[0] != field.default and all(v == values[0] for v in values)


def check_magnitudes(magnitudes: Any) -> list[Any]:
    """The magnitudes, from the smallest. Not as floats: a function may want integers."""
    if isinstance(magnitudes, str) or not hasattr(magnitudes, "__iter__"):
        raise TypeError(
            "Invalid `magnitudes`. Expected a list of numbers. "
            f"Received: magnitudes={magnitudes!r} (of type {type(magnitudes).__name__})"
        )
    values = list(magnitudes)
    if not values or not all(is_number(value) and 0 <= value < math.inf for value in values):
        raise ValueError(
            "Invalid `magnitudes`. Expected at least one finite number >= 0, and nothing else. "
            f"Received: magnitudes={magnitudes!r}"
        )
    return sorted(set(values))


def by_kind(points: Sequence[Point]) -> list[list[Point]]:
    """The points in groups of one kind, for each of which one graph draws."""
    groups: dict[Any, list[Point]] = {}
    for point in points:
        groups.setdefault(kind_of(point.noise), []).append(point)
    return list(groups.values())

"""The magnitudes of several noises, told and set at once."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from keras_weightnoise._checks import is_number
from keras_weightnoise.noises import Compose, Noise


def magnitudes_of(noises: Iterable[Noise]) -> tuple[float, ...]:
    """The magnitude of each noise, and of each member of a composition, in order."""
    return tuple(magnitude for noise in noises for magnitude in noise.magnitudes)


def with_magnitudes(noises: Sequence[Noise], magnitude: Any) -> list[Noise]:
    """The same noises with other magnitudes.

    Args:
        noises: Noises.
        magnitude: A number for each noise and each member of a composition, in order. If there is one,
            the number itself will do.

    Raises:
        ValueError: If there are not as many, or one is out of its noise's range.
        TypeError: If they are no numbers.
    """
    count = len(magnitudes_of(noises))
    numbers = [magnitude] if is_number(magnitude) else magnitude
    expected = "a number" if count == 1 else f"{count} numbers, one for each of {list(noises)}"
    if not isinstance(numbers, list | tuple) or not all(is_number(each) for each in numbers):
        raise TypeError(
            f"Invalid `magnitude`. Expected {expected}. "
            f"Received: magnitude={magnitude!r} (of type {type(magnitude).__name__})"
        )
    if len(numbers) != count:
        raise ValueError(
            f"Invalid `magnitude`. Expected {expected}. Received: magnitude={magnitude!r}"
        )
    left = iter(numbers)
    return [_with_magnitudes(noise, left) for noise in noises]


def _with_magnitudes(noise: Noise, magnitudes: Iterator[float]) -> Noise:
    changes: list[dict[str, Any]] = [
        {member.magnitude_name: next(magnitudes)} for member in noise.members
    ]
    members = [
        dataclasses.replace(member, **change)
        for member, change in zip(noise.members, changes, strict=True)
    ]
    return Compose(members) if isinstance(noise, Compose) else members[0]

"""The magnitudes of several noises, told and set at once."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from keras_weightnoise._checks import is_number
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises import Compose, Noise


def of(noises: Iterable[Noise]) -> tuple[float, ...]:
    """The magnitude of each noise, and of each member of a composition, in order."""
    return tuple(magnitude for noise in noises for magnitude in noise.magnitudes)


def replaced(noises: Sequence[Noise], magnitude: Any) -> list[Noise]:
    """The same noises with other magnitudes.

    Args:
        noises: Noises.
        magnitude: A number for each noise and each member of a composition, in order. If there is one,
            the number itself will do.

    Raises:
        ValueError: If there are not as many, or one is out of its noise's range.
        TypeError: If they are no numbers.
    """
    count = len(of(noises))
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
    return [_replaced(noise, left) for noise in noises]


def settable(noises: Sequence[Noise]) -> tf.Variable:
    """A variable of all magnitudes that are numbers, with 0 where one is a variable itself."""
    numbers = [each if is_number(each) else 0.0 for each in of(noises)]
    return tf.Variable(numbers, trainable=False, dtype=tf.float32)


def current(noises: Sequence[Noise], numbers: Any) -> Tensor:
    """A vector of all magnitudes: numbers as the settable variable has them, variables as they are now."""
    now = [each for noise in noises for each in noise.magnitudes_at(0)]
    return tf.stack(
        [
            number if is_number(kind) else each
            for number, each, kind in zip(tf.unstack(numbers), now, of(noises), strict=True)
        ]
    )


def _replaced(noise: Noise, magnitudes: Iterator[float]) -> Noise:
    changes: list[dict[str, Any]] = [
        {member.magnitude_name: next(magnitudes)} for member in noise.members
    ]
    members = [
        dataclasses.replace(member, **change)
        for member, change in zip(noise.members, changes, strict=True)
    ]
    return Compose(members) if isinstance(noise, Compose) else members[0]

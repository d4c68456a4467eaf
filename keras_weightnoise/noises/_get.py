"""What stands for a noise model. Each kind of it is registered where it gets its meaning."""

import functools
from typing import Any

import keras

from keras_weightnoise._checks import shown


def get(noise: Any) -> Any:
    """Returns a noise model: a number or schedule s means `Gaussian(stddev=s)`.

    Args:
        noise: A `Noise`, its serialized form, a float, a scalar tensor or variable, or a schedule.

    Returns:
        A `Noise`.

    Raises:
        TypeError: If it is none of these.
        ValueError: If it is a number, and negative or not finite.
    """
    return coerce(noise)


@functools.singledispatch
def coerce(noise: Any) -> Any:
    """What `get` does with each kind of argument. Others register theirs."""
    raise TypeError(message(noise))


def message(noise: object, hint: str = "") -> str:
    """What is wrong with something that stands for no noise."""
    return (
        "Invalid `noise`. Expected a number (the standard deviation of Gaussian noise), a scalar tensor or "
        "variable of it, a `keras.optimizers.schedules.LearningRateSchedule`, or one of "
        "`keras_weightnoise.noises`"
        f"{hint}. Received: noise={shown(noise)} (of type {type(noise).__name__})"
    )


@coerce.register(bool)
def _(noise: bool) -> Any:
    raise TypeError(message(noise))  # Python's bools are numbers, too.


@coerce.register(dict)
def _(noise: dict[str, Any]) -> Any:
    if "class_name" not in noise:
        raise TypeError(message(noise))
    return coerce(keras.saving.deserialize_keras_object(noise))

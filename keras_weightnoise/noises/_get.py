"""What stands for a noise model."""

from typing import Any

import keras

from keras_weightnoise._checks import is_number, is_schedule
from keras_weightnoise.noises.additive import Gaussian
from keras_weightnoise.noises.noise import Magnitude, Noise


def get(noise: Noise | Magnitude | dict[str, Any]) -> Noise:
    """Returns a noise model: a number or schedule s means `Gaussian(stddev=s)`.

    Args:
        noise: A `Noise`, its serialized form, a float, or a schedule.

    Returns:
        A `Noise`.

    Raises:
        TypeError: If it is none of these.
        ValueError: If it is a number, and negative or not finite.
    """
    if isinstance(noise, dict) and "class_name" in noise:
        noise = keras.saving.deserialize_keras_object(noise)
    if isinstance(noise, Noise):
        return noise
    if is_number(noise) or is_schedule(noise):
        try:
            return Gaussian(stddev=noise)
        except ValueError as error:
            raise ValueError(
                "Invalid `noise`. Expected a finite standard deviation >= 0. "
                f"Received: noise={noise}"
            ) from error
    raise TypeError(
        "Invalid `noise`. Expected a number (the standard deviation of Gaussian noise), a "
        "`keras.optimizers.schedules.LearningRateSchedule`, or one of `keras_weightnoise.noises`. "
        f"Received: noise={noise!r} (of type {type(noise).__name__})"
    )

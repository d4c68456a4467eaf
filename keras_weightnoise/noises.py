"""Noise models: immutable, serializable values that say how a weight is perturbed, and by how much."""

import dataclasses
import math
from typing import Any, ClassVar, Literal, get_args

import keras
import tensorflow as tf

from keras_weightnoise import sampling
from keras_weightnoise.sampling import Tensor

Magnitude = float | keras.optimizers.schedules.LearningRateSchedule
Scale = Literal["std", "rms", "max", "range", "channel_max", "filter_norm", "weight"]


class Noise:
    """Base class of the noise models.

    A subclass is a frozen dataclass whose first field is its magnitude, and says in two class
    attributes and a method how it perturbs: `law`, the distribution of the unit draw n it wants (see
    `sampling.draw`), and `perturb(w, n, magnitude, axes)`.
    """

    law: ClassVar[sampling.Law]

    @property
    def magnitude(self) -> Magnitude:
        """The first field: a float, or a schedule of the optimizer step."""
        return getattr(self, dataclasses.fields(self)[0].name)  # type: ignore[arg-type]

    def magnitude_at(self, step: Tensor) -> Tensor:
        """The magnitude at an optimizer step, a scalar `float32` tensor."""
        magnitude = self.magnitude
        return tf.cast(magnitude(step) if callable(magnitude) else magnitude, tf.float32)

    def perturb(self, w: Tensor, n: Tensor, magnitude: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Returns the perturbed weight.

        Args:
            w: The clean weight, `float32` or `float64`.
            n: A unit draw of this noise's law, in the shape and dtype of `w`.
            magnitude: A scalar of that dtype.
            axes: The axes of `w` that one output channel extends over.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return {
            field.name: keras.saving.serialize_keras_object(getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Noise":
        """The inverse of `get_config`."""
        return cls(**{k: keras.saving.deserialize_keras_object(v) for k, v in config.items()})

    # Schedules have no equality of their own: two noises are equal if they serialize alike.
    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return self.get_config() == other.get_config()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), repr(self.get_config())))


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian(Noise):
    """Additive Gaussian noise: `w' = w + stddev * scale(w) * n`, with n ~ N(0, 1).

    Use it to regularise under label noise, to find flat minima, or, with `relative_to="max"`, to prepare
    a network for analog hardware.

    Args:
        stddev: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at the
            optimizer step. In units of the weights where `relative_to` is `None`, else of that scale.
            Defaults to `0.01`.
        relative_to: The scale. `None`: 1. `"std"`, `"rms"`, `"max"` (the largest |w|) and `"range"`
            (largest minus smallest): of the whole variable. `"channel_max"` (largest |w|) and
            `"filter_norm"` (L2 norm): of each output channel, which is the last axis of most kernels, the
            last two of a depthwise kernel, the last but one of a transposed convolution's, a row of an
            embedding, the whole of a vector. `"weight"`: elementwise |w|, so that
            `w' = w * (1 + stddev * n)` in law. Read from the clean weight, and without gradient.
            Defaults to `None`.

    Raises:
        ValueError: If `stddev` is negative or not finite, or `relative_to` is not one of these.
        TypeError: If `stddev` is neither a number nor a schedule.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.Gaussian(0.1, relative_to="std")
    Gaussian(stddev=0.1, relative_to='std')

    References:
        - [Graves, 2011](https://papers.nips.cc/paper/4329-practical-variational-inference-for-neural-networks)
        - [Li et al., 2022](https://arxiv.org/abs/2211.11489) (`"filter_norm"`)
        - [Joshi et al., 2020](https://doi.org/10.1038/s41467-020-16108-9) (`"max"`)
        - [Murray and Edwards, 1994](https://doi.org/10.1109/72.317730) (`"weight"`)
    """

    stddev: Magnitude = 0.01
    relative_to: Scale | None = None
    law: ClassVar[sampling.Law] = "normal"

    def __post_init__(self) -> None:
        check_magnitude("stddev", self.stddev)
        check_scale(self.relative_to)

    def perturb(self, w: Tensor, n: Tensor, magnitude: Tensor, axes: tuple[int, ...]) -> Tensor:
        return w + magnitude * scale(w, self.relative_to, axes) * n


def get(noise: "float | Magnitude | Noise | dict[str, Any]") -> Noise:
    """Returns a noise model: a number or schedule s means `Gaussian(stddev=s)`.

    Args:
        noise: A `Noise`, its serialized form, a float, or a schedule.

    Returns:
        A `Noise`.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(noise, dict):
        noise = keras.saving.deserialize_keras_object(noise)
    if isinstance(noise, Noise):
        return noise
    if _is_number(noise) or isinstance(noise, keras.optimizers.schedules.LearningRateSchedule):
        try:
            return Gaussian(stddev=noise)  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(
                f"Invalid `noise`. Expected a standard deviation >= 0. Received: noise={noise}"
            ) from error
    raise TypeError(
        "Invalid `noise`. Expected a number (the standard deviation of Gaussian noise), a "
        "`keras.optimizers.schedules.LearningRateSchedule`, or one of `keras_weightnoise.noises`. "
        f"Received: noise={noise} (of type {type(noise).__name__})"
    )


def check_magnitude(name: str, value: object) -> None:
    """Raises unless `value` is a finite number >= 0 or a schedule."""
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return
    if not _is_number(value):
        raise TypeError(
            f"Invalid `{name}`. Expected a number or a "
            "`keras.optimizers.schedules.LearningRateSchedule`. "
            f"Received: {name}={value} (of type {type(value).__name__})"
        )
    if not (math.isfinite(value) and value >= 0):  # type: ignore[arg-type]
        raise ValueError(
            f"Invalid `{name}`. Expected a finite number >= 0. Received: {name}={value}"
        )


def check_scale(relative_to: object) -> None:
    """Raises unless `relative_to` is `None` or names a scale."""
    if relative_to is not None and relative_to not in get_args(Scale):
        raise ValueError(
            "Invalid `relative_to`. Expected one of "
            f"{', '.join(map(repr, (None, *get_args(Scale))))}. Received: relative_to={relative_to}"
        )


def scale(w: Tensor, relative_to: Scale | None, axes: tuple[int, ...]) -> Tensor:
    """The scale of a weight that noise is relative to, without gradient.

    Args:
        w: The clean weight.
        relative_to: See `Gaussian`.
        axes: The axes of `w` that one output channel extends over.

    Returns:
        A tensor that broadcasts against `w`.
    """
    w = tf.stop_gradient(w)
    match relative_to:
        case None:
            return tf.ones((), w.dtype)
        case "std":
            return tf.math.reduce_std(w)
        case "rms":
            return tf.sqrt(tf.reduce_mean(tf.square(w)))
        case "max":
            return tf.reduce_max(tf.abs(w))
        case "range":
            return tf.reduce_max(w) - tf.reduce_min(w)
        case "channel_max":
            return tf.reduce_max(tf.abs(w), axes, keepdims=True)
        case "filter_norm":
            return tf.norm(w, axis=axes, keepdims=True)
        case "weight":
            return tf.abs(w)


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        or (
            # NumPy's scalars.
            hasattr(value, "dtype")
            and getattr(value, "shape", None) == ()
            and hasattr(value, "item")
        )
    )

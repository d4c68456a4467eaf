"""Noise that multiplies the weight."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_flag
from keras_weightnoise._random import laws
from keras_weightnoise._random.laws import Law
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises._persistent import Persistent
from keras_weightnoise.noises.noise import Magnitude


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LogNormal(Persistent):
    """Multiplicative noise that keeps signs: `w' = w * exp(sigma * n)`, with n ~ N(0, 1).

    The median of w' is w; its mean is `w * exp(sigma^2 / 2)`. Use it for device variation, where
    each conductance is off by a factor. For factors that may change the sign there is
    `Gaussian(stddev, relative_to="weight")`. Gradient: straight through, `dL/dw = dL/dw'`, not
    multiplied by the factor.

    Args:
        sigma: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at the
            optimizer step: the standard deviation of `log(w' / w)`. Defaults to `0.1`.
        persistent: Whether the factors are those of a chip: see `StuckAt`. Defaults to `False`.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `sigma` is negative or not finite.
        TypeError: If `sigma` is neither a number nor a schedule.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.LogNormal(0.2)
    LogNormal(sigma=0.2)
    """

    sigma: Magnitude = 0.1
    magnitude_name = "sigma"
    law: ClassVar[Law] = laws.NORMAL

    def perturb(
        self, w: Tensor, draws: Sequence[Tensor], magnitude: Tensor, axes: tuple[int, ...]
    ) -> Tensor:
        (n,) = draws
        return w * tf.exp(magnitude * n)


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DropConnect(Persistent):
    """Drops weights: `w' = m * w / (1 - rate)`, with m = 0 at probability `rate`, else 1.

    Use it as one would Dropout, on single weights in place of units. The division keeps the mean of
    w' at w. Gradient: straight through, `dL/dw = dL/dw'`, for the dropped weights too, and not
    divided.

    Args:
        rate: Float in [0, 1], or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at
            the optimizer step: the probability that a weight is dropped. Defaults to `0.5`.
        rescale: Whether to divide by `1 - rate`. `False` for the lost connections of hardware.
            Defaults to `True`.
        persistent: Whether the dropped weights are those of a chip: see `StuckAt`. Defaults to `False`.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `rate` is not in [0, 1].
        TypeError: If `rate` is neither a number nor a schedule, or `rescale` no bool.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.DropConnect(0.03)
    DropConnect(rate=0.03, rescale=True)

    References:
        - [Wan et al., 2013](https://proceedings.mlr.press/v28/wan13.html)
    """

    rate: Magnitude = 0.5
    rescale: bool = True
    magnitude_name = "rate"
    most = 1.0
    law: ClassVar[Law] = laws.UNIFORM

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("rescale", self.rescale)

    def perturb(
        self, w: Tensor, draws: Sequence[Tensor], magnitude: Tensor, axes: tuple[int, ...]
    ) -> Tensor:
        (n,) = draws
        kept = w / (1.0 - magnitude) if self.rescale else w
        return tf.where(laws.occurs(n, magnitude), tf.zeros_like(w), kept)

"""Noise whose size is a polynomial of the weight's, as fitted to devices."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import ClassVar

import keras
import tensorflow as tf

from keras_weightnoise._checks import is_number
from keras_weightnoise._random import kernels, laws
from keras_weightnoise._random.laws import Law, horner
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises._persistent import Persistent
from keras_weightnoise.noises._scales import largest
from keras_weightnoise.noises._tiles import Tiled
from keras_weightnoise.noises.noise import Magnitude


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Polynomial(Persistent, Tiled):
    """Gaussian noise of a size fitted to a device: `w' = w + scale * wmax * n * sum_i c_i (|w| / wmax)^i`.

    n ~ N(0, 1), and wmax is the largest |w|. Use it for a device of your own: fit the standard deviation of
    what is read, relative to the largest conductance, as a polynomial of what was to be programmed, relative
    to that, too. (A fit in microsiemens, s(g) = sum_i a_i g^i, has `c_i = a_i * gmax^(i - 1)`.) Gradient:
    straight through, `dL/dw = dL/dw'`.

    Args:
        coefficients: A list of finite numbers, the constant first: `c_0, c_1, ...`.
        scale: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at the
            optimizer step: a factor on the noise. Defaults to `1.0`.
        persistent: Whether the errors are those of a chip: see `StuckAt`. Defaults to `False`.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: each has a wmax
            of its own. See `Gaussian`. Defaults to `None`: the variable is one.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If there are no coefficients, or one is not finite; if `scale` is negative or not finite.
        TypeError: If `coefficients` is no list of numbers, or `scale` neither a number nor a schedule.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.Polynomial([0.01, 0.05, -0.03])
    Polynomial(coefficients=(0.01, 0.05, -0.03), scale=1.0)
    """

    coefficients: Sequence[float]
    scale: Magnitude = 1.0
    magnitude_name = "scale"
    law: ClassVar[Law] = laws.NORMAL

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.coefficients
        if not isinstance(given, list | tuple) or not all(map(is_number, given)):
            raise TypeError(
                "Invalid `coefficients`. Expected a list of numbers. "
                f"Received: coefficients={given!r} (of type {type(given).__name__})"
            )
        if not given or not all(map(math.isfinite, given)):
            raise ValueError(
                "Invalid `coefficients`. Expected at least one, and all finite. "
                f"Received: coefficients={given!r}"
            )
        object.__setattr__(self, "coefficients", tuple(map(float, given)))

    def perturb_tiles(
        self,
        w: Tensor,
        draws: Sequence[Tensor],
        magnitude: Tensor,
        axes: tuple[int, ...],
        over: tuple[int, ...] | None,
    ) -> Tensor:
        kernel = kernels.compiled(_kernel(tuple(self.coefficients)), w.shape.num_elements())
        return kernel(w, largest(w, over), magnitude, *draws)


@functools.cache
def _kernel(coefficients: tuple[float, ...]) -> functools.partial[Tensor]:
    return functools.partial(_perturbed, coefficients=coefficients)


def _perturbed(
    w: Tensor, largest: Tensor, scale: Tensor, n: Tensor, *, coefficients: tuple[float, ...]
) -> Tensor:
    x = tf.math.divide_no_nan(tf.abs(w), largest)
    return w + scale * largest * horner(coefficients[::-1], x) * n

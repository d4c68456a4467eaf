"""Noise in the shape of quantization."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_bits, check_flag, is_number
from keras_weightnoise._random import laws
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises._scales import greatest_value, largest, least_value
from keras_weightnoise.noises._tiles import Tiled
from keras_weightnoise.noises.noise import Draw, Magnitude


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Quantization(Tiled):
    """Rounds weights to the grid of an integer code: `w' = step * round(w / step)`.

    - `symmetric=True`: `step = max|w| / (2^(bits - 1) - 1)`, for codes from
      `-(2^(bits - 1) - 1)` to `2^(bits - 1) - 1`.
    - `symmetric=False`: `step = (max w - min w) / (2^bits - 1)`, for `2^bits` codes that begin at
      `round(min w / step)`: the zero point is an integer.

    Ties go to the even code. Where the step is 0, the weight stays as it is. With
    `probability < 1`, each weight is rounded with that probability and exact otherwise
    (Quant-Noise): at 1, this is quantization-aware training.

    Use it to train, or examine, a network that will run on few bits. Gradient: straight through,
    `dL/dw = dL/dw'`.

    Args:
        bits: Integer in [2, 16].
        probability: Float in [0, 1], or a `keras.optimizers.schedules.LearningRateSchedule`
            evaluated at the optimizer step. Defaults to `1.0`.
        symmetric: Whether the grid is symmetric about zero. Defaults to `True`.
        per_channel: Whether each output channel (see `Gaussian`) has a step of its own, or the
            variable has one. Defaults to `False`.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: each has a step
            of its own. See `Gaussian`. Defaults to `None`: the variable is one.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `bits` is not in [2, 16], or `probability` not in [0, 1].
        TypeError: If an argument is of another type.

    Example:

    Half of the weights are quantized in each step:

    >>> from keras_weightnoise import noises
    >>> noises.Quantization(8, probability=0.5)
    Quantization(bits=8, probability=0.5, symmetric=True, per_channel=False)

    References:
        - [Fan et al., 2020](https://arxiv.org/abs/2004.07320) (Quant-Noise)
    """

    bits: int
    probability: Magnitude = 1.0
    symmetric: bool = True
    per_channel: bool = False
    magnitude_name = "probability"
    most = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.bits)
        object.__setattr__(self, "bits", int(self.bits))
        check_flag("symmetric", self.symmetric)
        check_flag("per_channel", self.per_channel)

    @property
    def draws(self) -> tuple[Draw, ...]:
        certain = is_number(self.probability) and self.probability == 1.0
        return () if certain else (Draw(laws.UNIFORM),)

    def perturb_tiles(
        self,
        w: Tensor,
        draws: Sequence[Tensor],
        magnitude: Tensor,
        axes: tuple[int, ...],
        over: tuple[int, ...] | None,
    ) -> Tensor:
        grid = axes if self.per_channel else over
        rounded = self._symmetric(w, grid) if self.symmetric else self._asymmetric(w, grid)
        return tf.where(laws.occurs(draws[0], magnitude), rounded, w) if draws else rounded

    def _symmetric(self, w: Tensor, axes: tuple[int, ...] | None) -> Tensor:
        step = symmetric_step(w, self.bits, axes)
        return tf.round(tf.math.divide_no_nan(w, step)) * step

    def _asymmetric(self, w: Tensor, axes: tuple[int, ...] | None) -> Tensor:
        low = least_value(w, axes)
        last = 2.0**self.bits - 1.0
        step = (greatest_value(w, axes) - low) * (1.0 / last)
        first = tf.round(tf.math.divide_no_nan(low, step))
        # The clip is for ties: both ends may be rounded outwards.
        code = tf.clip_by_value(tf.round(tf.math.divide_no_nan(w, step)), first, first + last)
        return tf.where(step > 0.0, code * step, w)


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PseudoQuantization(Tiled):
    """Noise of the size of a rounding error: `w' = w + scale * step / 2 * u`, u uniform on [-1, 1].

    `step = (max w - min w) / (2^bits - 1)`, of the whole variable. Use it in place of
    `Quantization` where rounding itself, the same in each step, would bias the training. Gradient:
    straight through, `dL/dw = dL/dw'`, with none through the step.

    Args:
        bits: Integer in [2, 16].
        scale: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at the
            optimizer step: a factor on the noise. Defaults to `1.0`: DiffQ's noise.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: each has a step
            of its own. See `Gaussian`. Defaults to `None`: the variable is one.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `bits` is not in [2, 16], or `scale` is negative or not finite.
        TypeError: If an argument is of another type.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.PseudoQuantization(4)
    PseudoQuantization(bits=4, scale=1.0)

    References:
        - [Défossez et al., 2021](https://arxiv.org/abs/2104.09987) (DiffQ)
    """

    bits: int
    scale: Magnitude = 1.0
    magnitude_name = "scale"
    draws: ClassVar[tuple[Draw, ...]] = (Draw(laws.UNIFORM),)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.bits)
        object.__setattr__(self, "bits", int(self.bits))

    def perturb_tiles(
        self,
        w: Tensor,
        draws: Sequence[Tensor],
        magnitude: Tensor,
        axes: tuple[int, ...],
        over: tuple[int, ...] | None,
    ) -> Tensor:
        (n,) = draws
        half = (greatest_value(w, over) - least_value(w, over)) * (0.5 / (2.0**self.bits - 1.0))
        return w + magnitude * half * n


def symmetric_step(w: Tensor, bits: int, axes: tuple[int, ...] | None) -> Tensor:
    """The step of the symmetric grid, over these axes or (`None`) the whole variable."""
    # Not divided by the constant: XLA would multiply by its reciprocal, and round elsewhere.
    return largest(w, axes) * (1.0 / (2.0 ** (bits - 1) - 1.0))

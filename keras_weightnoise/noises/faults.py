"""Faults of the memory that holds the weights."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_bits, check_choice
from keras_weightnoise._random import laws
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises.noise import Draw, Magnitude, Noise
from keras_weightnoise.noises.quantization import symmetric_step

StuckValue = Literal["zero", "min", "max"]


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StuckAt(Noise):
    """Weights that are stuck: `w' = value` with probability `rate`, else `w' = w`.

    Use it for broken cells: the value is 0, or the least or the greatest weight of the variable.
    `StuckAt(r, "min") + StuckAt(r, "max")` has both. Which weights are stuck changes with each
    draw. Gradient: straight through, `dL/dw = dL/dw'`, for the stuck weights too.

    Args:
        rate: Float in [0, 1], or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at
            the optimizer step. Defaults to `0.01`.
        value: `"zero"`, `"min"` or `"max"`. Defaults to `"zero"`.

    Raises:
        ValueError: If `rate` is not in [0, 1], or `value` is not one of these.
        TypeError: If `rate` is neither a number nor a schedule.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.StuckAt(0.001, "max")
    StuckAt(rate=0.001, value='max')
    """

    rate: Magnitude = 0.01
    value: StuckValue = "zero"
    magnitude_name = "rate"
    most = 1.0
    draws: ClassVar[tuple[Draw, ...]] = (Draw(laws.UNIFORM),)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("value", self.value, get_args(StuckValue))

    def perturb(
        self, w: Tensor, draws: Sequence[Tensor], magnitude: Tensor, axes: tuple[int, ...]
    ) -> Tensor:
        (n,) = draws
        match self.value:
            case "zero":
                stuck = tf.zeros((), w.dtype)
            case "min":
                stuck = tf.reduce_min(w)
            case "max":
                stuck = tf.reduce_max(w)
        return tf.where(laws.occurs(n, magnitude), stuck, w)


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BitFlip(Noise):
    """Flips bits of the weights' fixed-point code: each bit with probability `rate`.

    The code is `q = round(w / step)` in two's complement of `bits` bits, with
    `step = max|w| / (2^(bits - 1) - 1)`, as in `Quantization`. A weight with a flipped bit reads
    `w' = step * q'`, where q' may also be `-2^(bits - 1)`; one without keeps its exact value. So
    `Quantization(bits) + BitFlip(rate, bits)` is a network that runs on `bits` bits, with errors.

    Use it for memory at low voltage. A flipped sign bit moves a weight by `max|w|` and more, so
    clip the weights in training: the error grows with the largest. Gradient: straight through,
    `dL/dw = dL/dw'`.

    Args:
        rate: Float in [0, 1], or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at
            the optimizer step: the probability that a bit is flipped. Defaults to `0.001`.
        bits: Integer in [2, 16]. Defaults to `8`.

    Raises:
        ValueError: If `rate` is not in [0, 1], or `bits` not in [2, 16].
        TypeError: If an argument is of another type.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.Quantization(8) + noises.BitFlip(0.01)  # doctest: +ELLIPSIS
    Compose(noises=(Quantization(bits=8, ...), BitFlip(rate=0.01, bits=8)))

    References:
        - [Stutz et al., 2021](https://arxiv.org/abs/2006.13977)
    """

    rate: Magnitude = 0.001
    bits: int = 8
    magnitude_name = "rate"
    most = 1.0
    draws: ClassVar[tuple[Draw, ...]] = (Draw(laws.UNIFORM),)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.bits)
        object.__setattr__(self, "bits", int(self.bits))

    def perturb(
        self, w: Tensor, draws: Sequence[Tensor], magnitude: Tensor, axes: tuple[int, ...]
    ) -> Tensor:
        (n,) = draws
        step = symmetric_step(w, self.bits, None)
        code = tf.cast(tf.round(tf.math.divide_no_nan(w, step)), tf.int32)
        flips = self._flips(tf.abs(n), magnitude)
        unused = 32 - self.bits  # Shifted out and in again: that extends the sign.
        flipped = tf.bitwise.right_shift(
            tf.bitwise.left_shift(tf.bitwise.bitwise_xor(code, flips), unused), unused
        )
        return tf.where(flips == 0, w, tf.cast(flipped, w.dtype) * step)

    def _flips(self, v: Tensor, rate: Tensor) -> Tensor:
        """Which bits are flipped, from one draw uniform on (0, 1].

        Where v <= rate, v / rate is uniform again, and elsewhere (v - rate) / (1 - rate) is: so one
        draw decides one bit after another.
        """
        if_flipped, if_not = 1.0 / rate, 1.0 / (1.0 - rate)
        flips = tf.zeros(tf.shape(v), tf.int32)
        for bit in range(self.bits):
            hit = v <= rate
            flips = tf.where(hit, flips + 2**bit, flips)
            v = tf.where(hit, v * if_flipped, (v - rate) * if_not)
        return flips

"""Faults of the memory that holds the weights."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_bits, check_choice
from keras_weightnoise._random import laws
from keras_weightnoise._random.laws import Law
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises._persistent import Persistent
from keras_weightnoise.noises._tiles import Tiled
from keras_weightnoise.noises.noise import Magnitude
from keras_weightnoise.noises.quantization import symmetric_step

StuckValue = Literal["zero", "min", "max"]


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StuckAt(Persistent, Tiled):
    """Weights that are stuck: `w' = value` with probability `rate`, else `w' = w`.

    Use it for broken cells: the value is 0, or the least or the greatest weight of the variable.
    `StuckAt(r, "min") + StuckAt(r, "max")` has both. Which weights are stuck changes with each
    draw or, with `persistent=True`, with the chip. Gradient: straight through, `dL/dw = dL/dw'`, for
    the stuck weights too.

    Args:
        rate: Float in [0, 1], or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at
            the optimizer step. Defaults to `0.01`.
        value: `"zero"`, `"min"` or `"max"`. Defaults to `"zero"`.
        persistent: Whether the cells are those of a chip. In training they then depend on the seed and
            the variable alone, in every step; in sweeps, ensembles and `redraw`, draw d is chip d, and
            draw 0 the chip of training with that seed. The cells at one rate are among those at each
            higher rate. Defaults to `False`: new cells in each draw.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: each has a scale
            of its own. See `Gaussian`. Defaults to `None`: the variable is one.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `rate` is not in [0, 1], or `value` is not one of these.
        TypeError: If `rate` is neither a number nor a schedule, or `persistent` no bool.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.StuckAt(0.001, "max")
    StuckAt(rate=0.001, value='max')

    A network that is trained around the known defects of one chip, and run on it:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import WeightNoiseCallback, perturb_weights
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> defects = noises.StuckAt(0.1, persistent=True)
    >>> x, y = np.ones((8, 4)), np.ones((8, 1))
    >>> _ = model.fit(x, y, verbose=0, callbacks=[WeightNoiseCallback(defects, seed=7)])
    >>> on_the_chip = perturb_weights(model, defects, seed=7)
    """

    rate: Magnitude = 0.01
    value: StuckValue = "zero"
    magnitude_name = "rate"
    most = 1.0
    law: ClassVar[Law] = laws.UNIFORM

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("value", self.value, get_args(StuckValue))

    def perturb_tile(
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
class BitFlip(Persistent, Tiled):
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
        persistent: Whether the flips are those of a chip: see `StuckAt`. Defaults to `False`.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: each has a scale
            of its own. See `Gaussian`. Defaults to `None`: the variable is one.
        generator: See `Gaussian`. Defaults to `"threefry"`.

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
    law: ClassVar[Law] = laws.UNIFORM

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.bits)
        object.__setattr__(self, "bits", int(self.bits))

    def perturb_tile(
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

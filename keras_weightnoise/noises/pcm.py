"""Noise of phase-change memory."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_amount, check_choice, check_flag
from keras_weightnoise._random import kernels, laws
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises._scales import largest
from keras_weightnoise.noises._tiles import Tiled
from keras_weightnoise.noises.noise import Draw, Magnitude

Compensation = Literal["global"]

_G_MAX = 25.0  # Microsiemens.
_T0 = 20.0  # Seconds after programming that the drift was first measured at.
_T_READ = 250e-9  # Seconds that a read takes.
_LEAST = 1e-7  # Of x, for its logarithm.


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PCM(Tiled):
    """Phase-change memory as measured, some time after programming: `w' = (g+ - g-) * max|w| / g_max`.

    A weight is held by a pair of cells, one for either sign. The conductance g of the one is programmed to
    `|w| / max|w| * g_max`, and that of the other, idle one to 0. With x = g / g_max of the target,
    g_max = 25 uS, and independent n ~ N(0, 1), both cells of each pair go through:

    - programming: `g <- max(0, g + s * n)`, with `s = 0.26348 + 1.9650 x - 1.1731 x^2` uS;
    - drift: `g <- g * ((t + t0) / t0)^-nu`, with `t0 = 20` s, `nu = |mu + sigma * n|`,
      `mu = clip(-0.0155 ln x + 0.0244, 0.049, 0.1)` and
      `sigma = clip(-0.0125 ln x - 0.0059, 0.008, 0.045)`;
    - read: `g <- max(0, g * (1 + Q * sqrt(ln((t + t0 + tr) / (2 tr))) * n))`, with `tr = 250` ns and
      `Q = min(0.0088 / max(x^0.65, 0.001), 0.2)`, x here of the programmed conductance.

    Use it to train a network for such hardware, and to see how it ages: `robustness_sweep` over seconds
    draws a drift curve. At time 0 a chip is noisy, too. It is noise of weights alone: that of a chip's
    inputs and outputs, which hurts more (Rasch et al., 2023), is not in it, so accuracy under it is not
    that of a chip. Gradient: straight through, `dL/dw = dL/dw'`.

    Args:
        time: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at the optimizer
            step: seconds since programming. Defaults to `20.0`.
        programming: Float >= 0, a factor on s. Defaults to `1.0`.
        drift: Float >= 0, a factor on nu. Defaults to `1.0`.
        read: Float >= 0, a factor on Q. Defaults to `1.0`.
        compensation: `"global"`: what is read is scaled so that the sum of |w'| over the variable is what
            it was when programmed. Defaults to `None`: it is not.
        one_chip: Whether all draws are reads of one chip. Errors of programming and exponents of drift then
            depend on the seed and the variable alone, and only the read noise is new in each draw.
            `False`: each draw is another chip. Defaults to `False`.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: each has its own
            largest weight and compensation. See `Gaussian`. Defaults to `None`: the variable is one.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `time` or a factor is negative or not finite, or another argument is none of these.
        TypeError: If `time` is neither a number nor a schedule, a factor no number, or `one_chip` no bool.

    Example:

    The accuracy of a model from programming to a year later, on ten chips:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import noises, robustness_sweep
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(loss="mse")
    >>> x = np.ones((8, 4))
    >>> year = robustness_sweep(
    ...     model, (x, model.predict(x, verbose=0)), noise=noises.PCM(compensation="global"),
    ...     magnitudes=(0, 3600, 86400, 31536000), draws=10, variables="kernels", verbose=0,
    ... )
    >>> len(year.rows)
    40

    References:
        - [Joshi et al., 2020](https://doi.org/10.1038/s41467-020-16108-9)
        - [Nandakumar et al., 2019](https://doi.org/10.1109/ICECS46596.2019.8964852) (the constants)
        - [Rasch et al., 2023](https://doi.org/10.1038/s41467-023-40770-4) (what else a chip does)
    """

    time: Magnitude = 20.0
    programming: float = dataclasses.field(default=1.0, kw_only=True, repr=False)
    drift: float = dataclasses.field(default=1.0, kw_only=True, repr=False)
    read: float = dataclasses.field(default=1.0, kw_only=True, repr=False)
    compensation: Compensation | None = dataclasses.field(default=None, kw_only=True, repr=False)
    one_chip: bool = dataclasses.field(default=False, kw_only=True, repr=False)
    magnitude_name = "time"
    clean_at_zero = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("programming", "drift", "read"):
            check_amount(name, getattr(self, name))
            object.__setattr__(self, name, float(getattr(self, name)))
        check_choice("compensation", self.compensation, (None, *get_args(Compensation)))
        check_flag("one_chip", self.one_chip)

    @property
    def draws(self) -> tuple[Draw, ...]:
        chip = Draw(laws.NORMAL, new_for="seed" if self.one_chip else "step")
        # Of either cell: programming, drift, read.
        return (chip, chip, Draw(laws.NORMAL)) * 2

    def perturb_tiles(
        self,
        w: Tensor,
        draws: Sequence[Tensor],
        magnitude: Tensor,
        axes: tuple[int, ...],
        over: tuple[int, ...] | None,
    ) -> Tensor:
        most = largest(w, over)
        factors = tf.constant([self.programming, self.drift, self.read], w.dtype)
        x = tf.math.divide_no_nan(w, most)
        kernel = kernels.compiled(_pairs, w.shape.num_elements())
        programmed, left = kernel(x, factors, magnitude, *draws)
        if self.compensation is None:
            return left * most
        before, after = (
            tf.reduce_sum(tf.abs(each), over, keepdims=over is not None)
            for each in (programmed, left)
        )
        return left * (most * tf.math.divide_no_nan(before, after))


def _pairs(x: Tensor, factors: Tensor, time: Tensor, *n: Tensor) -> tuple[Tensor, Tensor]:
    """What pairs of cells hold when programmed, and what is read of them, in units of g_max.

    Args:
        x: The weights, in [-1, 1].
        factors: Of `PCM`: on errors of programming, on drift, on read noise.
        time: Seconds since programming.
        n: Three normal numbers for each cell.
    """
    passed = tf.math.log1p(time * (1.0 / _T0))
    reads = tf.sqrt(tf.math.log((time + (_T0 + _T_READ)) * (0.5 / _T_READ)))
    factors *= tf.stack([tf.constant(1.0 / _G_MAX, x.dtype), passed, reads])
    zero = tf.zeros((), x.dtype)
    plus = _cell(tf.maximum(x, zero), factors, *n[:3])
    minus = _cell(tf.maximum(-x, zero), factors, *n[3:])
    return plus[0] - minus[0], plus[1] - minus[1]


def _cell(
    x: Tensor, factors: Tensor, programming: Tensor, drift: Tensor, read: Tensor
) -> tuple[Tensor, Tensor]:
    """What a cell of target x holds when programmed, and what is read of it."""
    error = 0.26348 + x * (1.9650 - 1.1731 * x)
    programmed = tf.maximum(x + factors[0] * error * programming, 0.0)
    log = tf.math.log(tf.maximum(x, _LEAST))
    mean = tf.clip_by_value(-0.0155 * log + 0.0244, 0.049, 0.1)
    spread = tf.clip_by_value(-0.0125 * log - 0.0059, 0.008, 0.045)
    left = programmed * tf.exp(-factors[1] * tf.abs(mean + spread * drift))
    # x^0.65 as the exponential of a logarithm: a power takes twice as long.
    power = tf.exp(0.65 * tf.math.log(tf.maximum(programmed, 1e-30)))
    noise = tf.minimum(0.0088 / tf.maximum(power, 0.001), 0.2)
    return programmed, tf.maximum(left * (1.0 + factors[2] * noise * read), 0.0)

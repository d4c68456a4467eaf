"""Additive noise: `w' = w + magnitude * scale(w) * n`."""

import dataclasses
import numbers
from collections.abc import Sequence
from typing import ClassVar

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_flag, is_scalar_tensor
from keras_weightnoise._random import laws
from keras_weightnoise._types import VARIABLE_TYPES, Tensor
from keras_weightnoise.noises._get import coerce, message
from keras_weightnoise.noises._scales import Scale, check_scale, scale
from keras_weightnoise.noises._tiles import Tiled
from keras_weightnoise.noises.noise import Draw, Magnitude


class Additive(Tiled):
    """Base class of noise that is linear in its draw."""

    relative_to: Scale | None

    @property
    def has_one_factor(self) -> bool:
        """Whether n has the same factor in the whole of a variable."""
        return self.tile is None and self.relative_to in (None, "std", "rms", "max", "range")

    def factor(self, w: Tensor, magnitude: Tensor) -> Tensor:
        """The factor of n, if it is one."""
        return magnitude if self.relative_to is None else magnitude * scale(w, self.relative_to, ())

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.relative_to)
        if self.relative_to is None and self.tile is not None:
            raise ValueError(
                "Invalid `tile`. Expected `relative_to`, or no tiles: they differ in their scales. "
                f"Received: tile={self.tile}, relative_to=None"
            )

    def perturb_tiles(
        self,
        w: Tensor,
        draws: Sequence[Tensor],
        magnitude: Tensor,
        axes: tuple[int, ...],
        over: tuple[int, ...] | None,
    ) -> Tensor:
        (n,) = draws
        if self.relative_to is None:
            # Rounded as where it is added in the kernel that draws it: see `perturbation`.
            step = tf.cast(magnitude, tf.float32) * tf.cast(n, tf.float32)
            return w + tf.cast(step, w.dtype)
        return w + magnitude * scale(w, self.relative_to, axes, over) * n


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Gaussian(Additive):
    """Additive Gaussian noise: `w' = w + stddev * scale(w) * n`, with n ~ N(0, 1).

    Use it to regularise under label noise, to find flat minima, or, with `relative_to="max"`, to
    prepare a network for analog hardware. Gradient: straight through, `dL/dw = dL/dw'`, with none
    through the scale.

    Args:
        stddev: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at the
            optimizer step, or a scalar tensor or variable, read at each draw: for a magnitude that adapts
            (no gradient reaches it, and it is saved as the value it has then). In units of the weights where
            `relative_to` is `None`, else of that scale. Defaults to `0.01`.
        relative_to: The scale, read from the clean weight. `None`: 1. `"std"`, `"rms"`, `"max"`
            (the largest |w|) and `"range"` (largest minus smallest): of the whole variable.
            `"channel_max"` (largest |w|) and `"filter_norm"` (L2 norm): of each output channel,
            which is the last axis of most kernels, the last two of a depthwise kernel, the last but
            one of a transposed convolution's, the output axes of an EinsumDense kernel, a row of an
            embedding, the whole of a bias or vector. `"weight"`: elementwise |w|, so that
            `w' = w * (1 + stddev * n)` in law. Defaults to `None`.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: the scale is
            then that of each tile. Of a kernel as a matrix (all that an output channel extends over, by
            output channels: see `relative_to`), as few tiles as have at most this size, as even as can be:
            784 rows are 392 and 392 where 512 are allowed. Defaults to `None`: the variable is one.
        exact: Whether n is computed from its random bits to the last digit of `float32`. Otherwise,
            it is within 1e-5 of that, and drawn in about a third of the time. Defaults to `False`.
        generator: What draws n. `"threefry"`: the library's own generator, the fastest, whose numbers are
            the same under XLA to rounding. `"philox"`: `tf.random` itself, so that anyone can draw them
            again. Those of a variable are
            `tf.random.stateless_normal(shape, seed=[seed * 2**32 + step, start], alg="philox")`, where
            `start` is the number of elements before it in `model.variables`, those of each variable
            rounded up to a multiple of 64. TensorFlow's normals are others under XLA. (A noise's second
            draw, and those of further noises in a composition, have 2**40 added to `start`, then 2**41
            and so on. Uniform numbers are (b + 1/2) / 2^31 of the `int32` b of
            `tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg="philox")`.) It draws no
            `exact` numbers. Defaults to `"threefry"`.

    Raises:
        ValueError: If `stddev` is negative or not finite, `relative_to` is not one of these, or
            `generator` is none, or not for these numbers.
        TypeError: If `stddev` is no number, schedule, or scalar tensor or variable of floats, or `exact` no
            bool.

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
    exact: bool = dataclasses.field(default=False, repr=False)
    magnitude_name = "stddev"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("exact", self.exact)

    @property
    def draws(self) -> tuple[Draw, ...]:
        return (Draw(laws.EXACT_NORMAL if self.exact else laws.NORMAL),)


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TruncatedGaussian(Additive):
    """Additive Gaussian noise without tails: `w' = w + stddev * scale(w) * n`, n in [-2, 2].

    n follows N(0, 1) given that |n| <= 2. As in `keras.initializers.TruncatedNormal`, `stddev` is
    that of the law before it is cut: the noise itself has a standard deviation of
    `0.8796 * stddev`, and never exceeds `2 * stddev`.

    Use it in place of `Gaussian` where one large outlier would do harm: in low precision, or in
    small layers. Gradient: straight through, `dL/dw = dL/dw'`, with none through the scale.

    Args:
        stddev: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at the
            optimizer step. In units of the weights, or of the scale. Defaults to `0.01`.
        relative_to: The scale: see `Gaussian`. Defaults to `None`.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: each has a scale
            of its own. See `Gaussian`. Defaults to `None`: the variable is one.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `stddev` is negative or not finite, or `relative_to` is no scale.
        TypeError: If `stddev` is neither a number nor a schedule.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.TruncatedGaussian(0.1)
    TruncatedGaussian(stddev=0.1, relative_to=None)
    """

    stddev: Magnitude = 0.01
    relative_to: Scale | None = None
    magnitude_name = "stddev"
    draws: ClassVar[tuple[Draw, ...]] = (Draw(laws.TRUNCATED_NORMAL),)


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Uniform(Additive):
    """Additive uniform noise: `w' = w + limit * scale(w) * u`, with u uniform on [-1, 1].

    Its standard deviation is `limit / sqrt(3)`. Use it where the noise has to be bounded, for
    smoothing (SmoothOut) and, with `relative_to="std"`, once before fine-tuning (NoisyTune).
    Gradient: straight through, `dL/dw = dL/dw'`, with none through the scale.

    Args:
        limit: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at the
            optimizer step. In units of the weights, or of the scale. Defaults to `0.01`.
        relative_to: The scale: see `Gaussian`. Defaults to `None`.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: each has a scale
            of its own. See `Gaussian`. Defaults to `None`: the variable is one.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `limit` is negative or not finite, or `relative_to` is no scale.
        TypeError: If `limit` is neither a number nor a schedule.

    Example:

    NoisyTune with its lambda of 0.15:

    >>> from keras_weightnoise import noises
    >>> noises.Uniform(0.15 / 2, relative_to="std")
    Uniform(limit=0.075, relative_to='std')

    References:
        - [Wen et al., 2018](https://arxiv.org/abs/1805.07898) (SmoothOut)
        - [Wu et al., 2022](https://arxiv.org/abs/2202.12024) (NoisyTune)
    """

    limit: Magnitude = 0.01
    relative_to: Scale | None = None
    magnitude_name = "limit"
    draws: ClassVar[tuple[Draw, ...]] = (Draw(laws.UNIFORM),)


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rademacher(Additive):
    """Additive noise of one size: `w' = w + scale * scale(w) * s`, with s = -1 or 1, equally likely.

    Its standard deviation is `scale`. Use it where every weight should move, and by the same
    amount; it is the cheapest to draw. Gradient: straight through, `dL/dw = dL/dw'`, with none
    through the scale of the weight.

    Args:
        scale: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at the
            optimizer step. In units of the weights, or of the weight's own scale. Defaults to
            `0.01`.
        relative_to: The weight's own scale: see `Gaussian`. Defaults to `None`.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: each has a scale
            of its own. See `Gaussian`. Defaults to `None`: the variable is one.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `scale` is negative or not finite, or `relative_to` is no scale.
        TypeError: If `scale` is neither a number nor a schedule.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.Rademacher(0.05)
    Rademacher(scale=0.05, relative_to=None)

    References:
        - [Orvieto et al., 2022](https://arxiv.org/abs/2202.02831) (Anti-PGD)
    """

    scale: Magnitude = 0.01
    relative_to: Scale | None = None
    magnitude_name = "scale"
    draws: ClassVar[tuple[Draw, ...]] = (Draw(laws.SIGN),)


def _of_number(noise: Magnitude) -> Gaussian:
    try:
        return Gaussian(stddev=noise)
    except ValueError as error:
        raise ValueError(
            f"Invalid `noise`. Expected a finite standard deviation >= 0. Received: noise={noise}"
        ) from error


def _of_tensor(noise: Tensor) -> Gaussian:
    if not is_scalar_tensor(noise):
        raise TypeError(message(noise))
    return Gaussian(stddev=noise)


coerce.register(numbers.Real, _of_number)
for _kind in (tf.Tensor, *VARIABLE_TYPES):
    coerce.register(_kind, _of_tensor)
coerce.register(keras.optimizers.schedules.LearningRateSchedule, _of_number)

"""Gaussian priors, whose divergence has a closed form."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_positive, is_number
from keras_weightnoise._types import Tensor
from keras_weightnoise.priors._softplus import softplus_inverse
from keras_weightnoise.priors.prior import Prior


# `noises.Gaussian` has the name that is its own.
@keras.saving.register_keras_serializable(package="keras_weightnoise", name="GaussianPrior")
@dataclasses.dataclass(frozen=True)
class Gaussian(Prior):
    """A Gaussian of given size: `p(w) = N(mean, stddev^2)`.

    `KL = sum log(stddev / sigma) + (sigma^2 + (mu - mean)^2) / (2 stddev^2) - 1/2`, over the weights.

    Use it where you know the size of weights, or as the plain start: with mean 0 it is weight decay whose
    strength is that of the data. A number in the place of a prior means this one, with that `stddev`.

    Args:
        stddev: Float > 0, in units of the weights. Defaults to `1.0`.
        mean: Float. Defaults to `0.0`.

    Raises:
        ValueError: If `stddev` is not positive and finite, or `mean` not finite.
        TypeError: If one of them is not a number.

    Example:

    >>> from keras_weightnoise import priors
    >>> priors.get(0.5)
    Gaussian(stddev=0.5, mean=0.0)

    References:
        - [Blundell et al., 2015](https://arxiv.org/abs/1505.05424)
    """

    stddev: float = 1.0
    mean: float = 0.0

    def __post_init__(self) -> None:
        check_positive("stddev", self.stddev)
        if not is_number(self.mean):
            raise TypeError(
                "Invalid `mean`. Expected a number. "
                f"Received: mean={self.mean!r} (of type {type(self.mean).__name__})"
            )
        if not math.isfinite(self.mean):
            raise ValueError(
                f"Invalid `mean`. Expected a finite number. Received: mean={self.mean}"
            )
        object.__setattr__(self, "stddev", float(self.stddev))
        object.__setattr__(self, "mean", float(self.mean))

    def kl_divergence(
        self,
        mean: Tensor,
        stddev: Tensor,
        parameters: Sequence[Tensor],
        draw: Callable[[], Tensor],
    ) -> Tensor:
        return _gaussian_divergence(mean, stddev, self.mean, tf.constant(self.stddev, mean.dtype))


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True)
class OptimalGaussian(Prior):
    """The Gaussian with the least divergence, in closed form: `p(w) = N(m, s^2)` for each variable.

    `m = mean(mu)` and `s^2 = mean(sigma^2 + (mu - m)^2)`, over the W weights of the variable, for which
    `KL = sum log(s / sigma)`. They follow the weights, and have no parameters of their own.

    Use it where the sizes of weights differ between layers or are not known, as in a trained model: it costs
    a variable nothing to be large as a whole. The weight decay of `Gaussian` is not there.

    Example:

    >>> import keras
    >>> from keras_weightnoise import VariationalWeightNoise, priors
    >>> layer = VariationalWeightNoise(keras.layers.Dense(3), examples=1000, prior=priors.OptimalGaussian())
    >>> layer.prior
    OptimalGaussian()

    References:
        - [Graves, 2011](https://papers.nips.cc/paper/4329-practical-variational-inference-for-neural-networks)
          (section 4.2, Gaussian prior)
    """

    def kl_divergence(
        self,
        mean: Tensor,
        stddev: Tensor,
        parameters: Sequence[Tensor],
        draw: Callable[[], Tensor],
    ) -> Tensor:
        center = tf.reduce_mean(mean)
        variance = tf.reduce_mean(tf.square(stddev) + tf.square(mean - center))
        return tf.reduce_sum(0.5 * tf.math.log(variance) - tf.math.log(stddev))


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True)
class LearnedGaussian(Prior):
    """A Gaussian about 0 whose size is trained with the weights: `p(w) = N(0, s^2)` for each variable.

    The divergence is that of `Gaussian`, with `s = softplus(r)` and one trained number r for each variable.
    It draws s towards `sqrt(mean(sigma^2 + mu^2))`, as fast as the optimizer goes.

    Use it in place of `OptimalGaussian` where the prior is to change slowly, or to be seen in the weights.

    Args:
        initial_stddev: Float > 0, what s begins with, in units of the weights. Defaults to `1.0`.

    Raises:
        ValueError: If `initial_stddev` is not positive and finite.
        TypeError: If it is not a number.

    Example:

    >>> from keras_weightnoise import priors
    >>> priors.LearnedGaussian(0.1)
    LearnedGaussian(initial_stddev=0.1)
    """

    initial_stddev: float = 1.0

    def __post_init__(self) -> None:
        check_positive("initial_stddev", self.initial_stddev)
        object.__setattr__(self, "initial_stddev", float(self.initial_stddev))

    @property
    def initial_parameters(self) -> dict[str, float]:
        return {"prior_rho": softplus_inverse(self.initial_stddev)}

    def kl_divergence(
        self,
        mean: Tensor,
        stddev: Tensor,
        parameters: Sequence[Tensor],
        draw: Callable[[], Tensor],
    ) -> Tensor:
        (rho,) = parameters
        return _gaussian_divergence(mean, stddev, 0.0, tf.math.softplus(rho))


def _gaussian_divergence(
    mean: Tensor, stddev: Tensor, prior_mean: float, prior_stddev: Tensor
) -> Tensor:
    distance = mean - prior_mean if prior_mean else mean
    # Squares are summed by one op each: a third of the passes over all weights, forth and back.
    squares = (tf.nn.l2_loss(stddev) + tf.nn.l2_loss(distance)) / tf.square(prior_stddev)
    count = tf.cast(tf.size(stddev), stddev.dtype)
    return squares + count * (tf.math.log(prior_stddev) - 0.5) - tf.reduce_sum(tf.math.log(stddev))

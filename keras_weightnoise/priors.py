"""Priors of weights: what noise that learns its size is drawn towards.

`VariationalWeightNoise` holds for each weight a Gaussian q(w) = N(mu, sigma^2), and adds KL(q || p) to the
loss. Here is p. Each has one law for all weights of a variable, and another variable has its own.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_count, check_positive, is_number
from keras_weightnoise._types import Tensor

_HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)


def softplus_inverse(y: Any) -> Any:
    """x such that softplus(x) = log(1 + exp(x)) is `y`: a number, or a tensor."""
    if is_number(y):
        return y + math.log(-math.expm1(-y))
    return y + tf.math.log(-tf.math.expm1(-y))


@dataclasses.dataclass(frozen=True)
class Prior(abc.ABC):
    """Base class of the priors.

    A subclass is a frozen dataclass, registered with Keras, that says what the divergence is, and with which
    numbers its own parameters begin if it learns some.
    """

    @property
    def initial_parameters(self) -> dict[str, float]:
        """The parameters that are trained with the weights, a scalar each, by name."""
        return {}

    @abc.abstractmethod
    def kl_divergence(
        self,
        mean: Tensor,
        stddev: Tensor,
        parameters: Sequence[Tensor],
        draw: Callable[[], Tensor],
    ) -> Tensor:
        """KL(N(mean, stddev^2) || prior), in nats, summed over the weights of one variable.

        Args:
            mean: The means of the weights, `float32` or `float64`.
            stddev: Their standard deviations, in that shape and dtype.
            parameters: The values of its trained parameters.
            draw: Returns independent numbers n ~ N(0, 1) in that shape and dtype, others for each call.
        """

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Prior":
        """The inverse of `get_config`."""
        return cls(**config)


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

    >>> from keras_weightnoise import VariationalWeightNoise, priors
    >>> layer = VariationalWeightNoise(keras.layers.Dense(3), examples=1000, prior=priors.OptimalGaussian())

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


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True)
class ScaleMixture(Prior):
    """Weights that are either large or nearly 0: `p(w) = a N(0, stddev^2) + (1 - a) N(0, small_stddev^2)`.

    Its divergence has no closed form. It is estimated by Monte Carlo: the entropy of q exactly, and
    `-E log p(w)` as the mean over `draws` draws of the weights, in each step another, and independent of
    those of the forward pass. So its value and its gradients are noisy, and right on average.

    Use it for sparse networks, of which much is to be pruned.

    Args:
        stddev: Float > 0, of the wide component. Published: 1, e^-1, e^-2. Defaults to `1.0`.
        small_stddev: Float > 0, of the narrow one. Published: e^-6, e^-7, e^-8. Defaults to e^-6, `0.00248`.
        probability: Float in (0, 1), the part a of the wide one. Published: 1/4, 1/2, 3/4. Defaults to `0.5`.
        draws: Draws for each estimate. Int >= 1. Defaults to `1`.

    Raises:
        ValueError: If a number is out of its range, or `small_stddev` is not below `stddev`.
        TypeError: If one of them is not a number, or `draws` not an integer.

    Example:

    >>> from keras_weightnoise import priors
    >>> priors.ScaleMixture(stddev=1.0, small_stddev=0.01, probability=0.25).draws
    1

    References:
        - [Blundell et al., 2015](https://arxiv.org/abs/1505.05424) (equation 7, section 5.1)
    """

    stddev: float = 1.0
    small_stddev: float = math.exp(-6.0)
    probability: float = 0.5
    draws: int = 1

    def __post_init__(self) -> None:
        check_positive("stddev", self.stddev)
        check_positive("small_stddev", self.small_stddev)
        if self.small_stddev >= self.stddev:
            raise ValueError(
                f"Invalid `small_stddev`. Expected a number below `stddev`, which is {self.stddev}. "
                f"Received: small_stddev={self.small_stddev}"
            )
        check_positive("probability", self.probability)
        if self.probability >= 1.0:
            raise ValueError(
                "Invalid `probability`. Expected a number in (0, 1). "
                f"Received: probability={self.probability}"
            )
        check_count("draws", self.draws)
        for name in ("stddev", "small_stddev", "probability"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "draws", int(self.draws))

    def kl_divergence(
        self,
        mean: Tensor,
        stddev: Tensor,
        parameters: Sequence[Tensor],
        draw: Callable[[], Tensor],
    ) -> Tensor:
        entropy = tf.reduce_sum(tf.math.log(stddev) + _HALF_LOG_2_PI + 0.5)
        estimates = [self._log_density(mean + stddev * draw()) for _ in range(self.draws)]
        return -entropy - tf.add_n(estimates) / self.draws

    def _log_density(self, w: Tensor) -> Tensor:
        components = [
            math.log(weight / stddev) - _HALF_LOG_2_PI - 0.5 * tf.square(w / stddev)
            for weight, stddev in (
                (self.probability, self.stddev),
                (1.0 - self.probability, self.small_stddev),
            )
        ]
        return tf.reduce_sum(tf.reduce_logsumexp(tf.stack(components), axis=0))


def get(prior: Any) -> Prior:
    """Returns the prior that is meant.

    Args:
        prior: A prior, or a number: the standard deviation of a `Gaussian` about 0.

    Returns:
        The prior itself, or `Gaussian(prior)`.

    Raises:
        ValueError: If it is a number, but not positive and finite.
        TypeError: If it is anything else.
    """
    if isinstance(prior, Prior):
        return prior
    if not is_number(prior):
        raise TypeError(
            "Invalid `prior`. Expected a number, or one of `keras_weightnoise.priors`. "
            f"Received: prior={prior!r} (of type {type(prior).__name__})"
        )
    check_positive("prior", prior)
    return Gaussian(prior)


def _gaussian_divergence(
    mean: Tensor, stddev: Tensor, prior_mean: float, prior_stddev: Tensor
) -> Tensor:
    ratio, distance = stddev / prior_stddev, (mean - prior_mean) / prior_stddev
    return tf.reduce_sum(0.5 * (tf.square(ratio) + tf.square(distance) - 1.0) - tf.math.log(ratio))

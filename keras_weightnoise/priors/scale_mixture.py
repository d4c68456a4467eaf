"""`ScaleMixture`: a prior of weights that are either large or nearly 0."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_count, check_positive
from keras_weightnoise._types import Tensor
from keras_weightnoise.priors.prior import Prior

_HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)


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

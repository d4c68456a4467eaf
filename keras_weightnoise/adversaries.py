"""Perturbations that look for the worst: functions of the gradient at the clean weights.

`WeightNoiseCallback` takes one in place of a noise. Its training step then has two passes: one at the clean
weights, for their gradient g, and one at the perturbed weights, for the gradient that it updates with.
"""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_weightnoise._perturbation import Magnitude, Perturbation
from keras_weightnoise._types import Tensor

__all__ = ["ASAM", "AWP", "SAM"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Adversary(Perturbation):
    """Base class: says how weights are perturbed, given their gradients."""

    def perturbation(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], magnitude: Tensor
    ) -> list[Tensor]:
        """What is added to each of the weights, all in `float32` or `float64`."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SAM(Adversary):
    """Sharpness-aware minimization: `w' = w + rho g / ||g||`, one norm over all selected weights.

    The step of length rho along which the loss rises most, to first order. See `recipes.sam`.

    Args:
        rho: Float >= 0, a schedule, or a scalar tensor: the length of the step, in units of the weights.
            Defaults to `0.05`.

    Raises:
        ValueError: If `rho` is negative or not finite.
        TypeError: If `rho` is of another type.

    Example:

    >>> from keras_weightnoise import WeightNoiseCallback, adversaries
    >>> WeightNoiseCallback(adversaries.SAM(0.05))
    WeightNoiseCallback(noise=SAM(rho=0.05))

    References:
        - [Foret et al., 2021](https://arxiv.org/abs/2010.01412)
    """

    rho: Magnitude = 0.05
    magnitude_name = "rho"

    def perturbation(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], magnitude: Tensor
    ) -> list[Tensor]:
        norm = _norm(gradients)
        return [_over(g, magnitude, norm) for g in gradients]


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ASAM(Adversary):
    """Adaptive sharpness-aware minimization: `w' = w + rho w^2 g / ||w g||`, elementwise but for the norm.

    The norm is one over all selected weights. Scaling one layer up and the next one down leaves the measure
    as it is. (The authors' code adds 0.01 to |w|, and leaves biases out of the adaption.) See `recipes.asam`.

    Args:
        rho: Float >= 0, a schedule, or a scalar tensor: the length of the step, relative to the weights.
            Defaults to `0.5`.

    Raises:
        ValueError: If `rho` is negative or not finite.
        TypeError: If `rho` is of another type.

    Example:

    >>> from keras_weightnoise import WeightNoiseCallback, adversaries
    >>> WeightNoiseCallback(adversaries.ASAM(0.5))
    WeightNoiseCallback(noise=ASAM(rho=0.5))

    References:
        - [Kwon et al., 2021](https://arxiv.org/abs/2102.11600)
    """

    rho: Magnitude = 0.5
    magnitude_name = "rho"

    def perturbation(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], magnitude: Tensor
    ) -> list[Tensor]:
        scaled = [w * g for w, g in zip(weights, gradients, strict=True)]
        norm = _norm(scaled)
        return [w * _over(each, magnitude, norm) for w, each in zip(weights, scaled, strict=True)]


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AWP(Adversary):
    """Adversarial weight perturbation: `w' = w + gamma ||w|| g / ||g||`, with norms of each variable.

    It is meant for kernels (`variables="kernels"`). See `recipes.awp`.

    Args:
        gamma: Float >= 0, a schedule, or a scalar tensor: the length of the step, relative to that of the
            weight. Defaults to `0.01`.

    Raises:
        ValueError: If `gamma` is negative or not finite.
        TypeError: If `gamma` is of another type.

    Example:

    >>> from keras_weightnoise import WeightNoiseCallback, adversaries
    >>> WeightNoiseCallback(adversaries.AWP(0.005), variables="kernels")
    WeightNoiseCallback(noise=AWP(gamma=0.005), variables='kernels')

    References:
        - [Wu et al., 2020](https://arxiv.org/abs/2004.05884)
    """

    gamma: Magnitude = 0.01
    magnitude_name = "gamma"

    def perturbation(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], magnitude: Tensor
    ) -> list[Tensor]:
        return [
            _over(g, tf.cast(magnitude, w.dtype) * _norm([w]), _norm([g]))
            for w, g in zip(weights, gradients, strict=True)
        ]


def _norm(values: Sequence[Tensor]) -> Tensor:
    sums = [tf.cast(tf.reduce_sum(tf.square(each)), values[0].dtype) for each in values]
    return tf.sqrt(tf.add_n(sums))


def _over(value: Tensor, length: Tensor, norm: Tensor) -> Tensor:
    """`value * length / norm`; nothing where there is no gradient, or loss scaling made it overflow."""
    some = tf.logical_and(norm > 0.0, tf.math.is_finite(norm))
    share = tf.where(some, tf.cast(length, norm.dtype) / norm, tf.zeros_like(norm))
    return tf.math.multiply_no_nan(value, tf.cast(share, value.dtype))

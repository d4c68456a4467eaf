"""Noise of a learned size: what is learned, where it begins, and numbers to multiply with it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_weightnoise import priors
from keras_weightnoise._random import drawing, laws
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.noise_parameters import stddevs_of
from keras_weightnoise._weights.reachable import Layer, Variable, path
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.values import stored_values, widen


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedNoise:
    """A variable, and the noise of learned size that it reads with: `w' = mean + factor * n`.

    Attributes:
        target: The variable, and where its random numbers begin.
    """

    target: Target

    @property
    def mean(self) -> Tensor:
        """The variable's value, in at least `float32`."""
        return widen(stored_values([self.target.variable])[0])

    @property
    def parameter(self) -> Variable:
        """The variable that says how large the noise is."""
        raise NotImplementedError

    @property
    def factor(self) -> Tensor:
        """What n ~ N(0, 1) is multiplied with, in the dtype of `mean`, against which it broadcasts."""
        raise NotImplementedError

    @property
    def stddev(self) -> Tensor:
        """The standard deviation of the noise."""
        return self.factor


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedStddev(LearnedNoise):
    """A variable of means, and a standard deviation that is learned for each of them.

    Attributes:
        rho: A variable of its shape: `stddev = softplus(rho)`.
        prior_parameters: The variables of its prior.
    """

    rho: Variable
    prior_parameters: tuple[Variable, ...] = ()

    @property
    def parameter(self) -> Variable:
        return self.rho

    @property
    def factor(self) -> Tensor:
        return stddevs_of(self.rho)


def initial_rho(
    layer: Layer, variable: Variable, initial_stddev: float, relative_to: str | None
) -> Callable[..., Tensor]:
    """The initializer of rho.

    Args:
        layer: The layer that has the variable.
        variable: The variable of means.
        initial_stddev: What the standard deviations begin with.
        relative_to: See `VariationalWeightNoise`.
    """

    def initialize(shape: Any, dtype: Any = None) -> Tensor:
        # Called when Keras gives rho its value: from then on, the variable has one too.
        value = widen(stored_values([variable])[0])
        stddev = tf.fill(shape, tf.cast(initial_stddev, value.dtype))
        if relative_to == "std":
            deviation = tf.math.reduce_std(value)
            if tf.executing_eagerly() and not float(deviation) > 0.0:
                raise ValueError(
                    f"The weights of {path(variable)!r} in the layer {layer.name!r} are all equal, and "
                    "have no standard deviation that that of noise could be relative to. Expected "
                    "`relative_to=None`, or the variable among `exclude`. Received: relative_to='std'"
                )
            stddev *= deviation
        return tf.cast(priors.softplus_inverse(stddev), dtype)

    return initialize


def draw_normal(key: Tensor, targets: Sequence[Target]) -> list[Tensor]:
    """Numbers n ~ N(0, 1) for targets."""
    starts = [target.start for target in targets]
    shapes = [tuple(target.variable.shape) for target in targets]
    return drawing.draw(laws.NORMAL, key, starts, shapes)

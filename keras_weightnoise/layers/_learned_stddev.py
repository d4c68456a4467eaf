"""Standard deviations that are learned: where they begin, and numbers to multiply with them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_weightnoise import priors
from keras_weightnoise._random import drawing, laws
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Layer, Variable, path
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.values import stored_values, widen


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedStddev:
    """A variable of means, and the standard deviations that are learned for it.

    Attributes:
        target: The variable, and where its random numbers begin.
        rho: A variable of its shape: `stddev = softplus(rho)`.
        prior_parameters: The variables of its prior.
    """

    target: Target
    rho: Variable
    prior_parameters: tuple[Variable, ...] = ()

    @property
    def mean(self) -> Tensor:
        """The means, in at least `float32`."""
        return widen(stored_values([self.target.variable])[0])

    @property
    def stddev(self) -> Tensor:
        """The standard deviations, in at least `float32`."""
        return tf.math.softplus(widen(stored_values([self.rho])[0]))


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

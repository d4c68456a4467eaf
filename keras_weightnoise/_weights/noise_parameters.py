"""Variables that say how large noise is. They are parameters of noise, and no weights to perturb."""

import dataclasses

import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Layer, Variable, path
from keras_weightnoise._weights.values import stored_values, widen

_MARK = "is_parameter_of_weight_noise"
_MEANS = "means_of_weight_noise"


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedStddevs:
    """The standard deviations that are learned for a variable: `softplus(rho)`.

    Attributes:
        means: The variable, whose values are the means.
        rho: A variable of its shape.
    """

    means: Variable
    rho: Variable

    def value(self) -> Tensor:
        """The standard deviations, in at least `float32`."""
        return tf.math.softplus(widen(stored_values([self.rho])[0]))


def mark(variable: Variable, means: Variable | None = None) -> None:
    """Marks a variable as a parameter of noise, for as long as it exists. Layers mark theirs when built.

    Args:
        variable: The variable.
        means: Of rho, the variable that it is learned for. Defaults to `None`.
    """
    setattr(variable, _MARK, True)
    if means is not None:
        setattr(variable, _MEANS, means)


def is_noise_parameter(variable: Variable) -> bool:
    """Whether a variable is marked as a parameter of noise."""
    return bool(getattr(variable, _MARK, False))


def learned_stddevs(root: Layer) -> dict[int, LearnedStddevs]:
    """What is learned in a model or layer, for the id of each variable of means.

    Raises:
        ValueError: If two wrappers learn for one variable.
    """
    found: dict[int, LearnedStddevs] = {}
    for rho in root.variables:
        means = getattr(rho, _MEANS, None)
        if means is None:
            continue
        if id(means) in found:
            raise ValueError(
                f"The variable {path(means)!r} has two learned standard deviations, {path(rho)!r} and "
                f"{path(found[id(means)].rho)!r}. Expected a layer to be in one `VariationalWeightNoise`."
            )
        found[id(means)] = LearnedStddevs(means, rho)
    return found

"""Variables that say how large noise is. They are parameters of noise, and no weights to perturb."""

import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Layer, Variable, path
from keras_weightnoise._weights.values import stored_values, widen

_MARK = "is_parameter_of_weight_noise"
_MEANS = "means_of_weight_noise"


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


def stddevs_of(rho: Variable) -> Tensor:
    """The standard deviations that a variable stands for, `softplus(rho)`, in at least `float32`."""
    return tf.math.softplus(widen(stored_values([rho])[0]))


def trained_rhos(root: Layer) -> dict[int, Variable]:
    """As `rhos`, without those that were never trained: of frozen means, and all as they began, alike.

    Such means are without noise in training, too.
    """
    means = {id(variable): variable for variable in root.variables}
    return {
        key: rho
        for key, rho in rhos(root).items()
        if key in means and (means[key].trainable or not _are_alike(rho))
    }


def _are_alike(rho: Variable) -> bool:
    with tf.init_scope():  # Out of a graph, to look at the values.
        (value,) = stored_values([rho])
        return bool(tf.size(value) > 1) and bool(tf.reduce_min(value) == tf.reduce_max(value))


def rhos(root: Layer) -> dict[int, Variable]:
    """The variables rho of learned standard deviations in a layer, by the ids of their means.

    Raises:
        ValueError: If two wrappers learn for one variable.
    """
    found: dict[int, Variable] = {}
    for rho in root.variables:
        means = getattr(rho, _MEANS, None)
        if means is None:
            continue
        if id(means) in found:
            raise ValueError(
                f"The variable {path(means)!r} has two learned standard deviations, {path(rho)!r} and "
                f"{path(found[id(means)])!r}. Expected a layer to be in one `VariationalWeightNoise`."
            )
        found[id(means)] = rho
    return found

"""Standard deviations that were learned, and the ratio of signal to noise that they give."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_weightnoise._weights.noise_parameters import stddevs_of, trained_rhos
from keras_weightnoise._weights.reachable import Layer, Variable, is_variable, path
from keras_weightnoise._weights.values import stored_values, widen

Pairs = Sequence[tuple[Variable, Any]]


def with_stddevs(
    root: Layer, variables: Sequence[Variable], stddevs: Pairs | None
) -> list[tuple[Variable, np.ndarray]]:
    """Those of some variables of a model that have standard deviations, each with its.

    Args:
        root: A model or layer.
        variables: Those that are selected.
        stddevs: Pairs of a variable and its standard deviations, as `strip_weight_noise` returns. `None`:
            what the wrappers of the model have learned.

    Raises:
        ValueError: If none has, or pairs are not of this model or of another shape.
        TypeError: If `stddevs` are no pairs.
    """
    known = _known(root, stddevs)
    found = [(each, np.asarray(known[id(each)])) for each in variables if id(each) in known]
    if not found:
        raise ValueError(
            f"No variable of {root.name!r} that is selected has standard deviations. Expected the selectors "
            "to leave one that a wrapper learned them for."
        )
    return found


def _known(root: Layer, stddevs: Pairs | None) -> dict[int, Any]:
    if stddevs is not None:
        return dict(_checked(root, each) for each in stddevs)
    found = trained_rhos(root)
    if not found:
        raise ValueError(
            f"Model {root.name!r} has no learned standard deviations. Expected one with "
            "`VariationalWeightNoise` in it, or those that were returned when it was stripped, as `stddevs`: "
            "`strip_weight_noise(model, return_stddevs=True)`."
        )
    return {key: stddevs_of(rho) for key, rho in found.items()}


def signal_to_noise_ratios(variable: Variable, stddevs: np.ndarray) -> np.ndarray:
    """|mu| / sigma for each weight, where a mean of 0 has none, whatever its sigma."""
    means = np.abs(np.asarray(widen(stored_values([variable])[0])))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(means == 0.0, 0.0, means / stddevs)


def _checked(root: Layer, pair: Any) -> tuple[int, Any]:
    if not (isinstance(pair, list | tuple) and len(pair) == 2 and is_variable(pair[0])):
        raise TypeError(
            "Invalid `stddevs`. Expected pairs of a variable and its standard deviations, as "
            f"`strip_weight_noise(model, return_stddevs=True)` returns. Received: stddevs=[..., {pair}, ...]"
        )
    variable, values = pair
    if not any(variable is each for each in root.variables):
        raise ValueError(
            f"Invalid `stddevs`. Expected those of variables of the model {root.name!r}. Received those of "
            f"{path(variable)!r}, which is none of them."
        )
    if tuple(np.shape(values)) != tuple(variable.shape):
        raise ValueError(
            f"Invalid `stddevs`. Expected those of {path(variable)!r} to have its shape "
            f"{tuple(variable.shape)}. Received: an array of shape {tuple(np.shape(values))}"
        )
    return id(variable), values

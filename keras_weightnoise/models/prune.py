"""`prune_weights`: a model without the weights that matter least."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from keras_weightnoise._checks import (
    check_amount,
    check_choice,
    check_flag,
    check_model,
    check_variables,
)
from keras_weightnoise._weights import selection, selectors
from keras_weightnoise._weights.learned_stddevs import (
    Pairs,
    signal_to_noise_ratios,
    with_stddevs,
)
from keras_weightnoise._weights.noise_parameters import rhos
from keras_weightnoise._weights.reachable import Variable
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise._weights.values import stored_values
from keras_weightnoise.models._copying import copy_model

# softplus(-40) is 4e-18: nothing beside any weight, and with a logarithm that the divergence bears.
_NO_NOISE = -40.0


def prune_weights(
    model: Any,
    fraction: float,
    *,
    by: Literal["signal_to_noise", "weight"] = "signal_to_noise",
    stddevs: Pairs | None = None,
    variables: Selector | None = "kernels",
    exclude: Selector | None = None,
    inplace: bool = False,
) -> Any:
    """Returns a copy of a model without the weights that matter least: they are 0.

    Use it to compress a variational model, as Graves and Blundell et al. did: weights whose posterior is wide
    beside their mean, `|mu| / sigma` low, go first. Of all weights that are selected, in all layers together,
    the lowest `fraction` becomes 0; where a weight has a learned sigma, that becomes 0, too. Nothing holds
    them there: further training moves them again. Measure what it costs on validation data, and against
    `by="weight"`, which is pruning by magnitude and needs no variational model.

    Args:
        model: A built `keras.Model`: a variational one; with `stddevs` one that was stripped; with
            `by="weight"` any.
        fraction: How much of the weights goes, a float in [0, 1].
        by: What orders them: `"signal_to_noise"`, |mu| / sigma; or `"weight"`, |w|. Defaults to
            `"signal_to_noise"`.
        stddevs: For `"signal_to_noise"`, pairs of a variable of `model` and its standard deviations, as
            `strip_weight_noise(..., return_stddevs=True)` returns. `None`: what the wrappers of the model
            have learned. Defaults to `None`.
        variables: Which variables: see `perturb_weights`. By `"signal_to_noise"` those of them that have
            standard deviations. Defaults to `"kernels"`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        inplace: Whether to write into `model` itself, in place of a copy. Defaults to `False`.

    Returns:
        The pruned model: a copy, compiled as `model` is, with an optimizer that begins anew. With
        `inplace=True`, `model`.

    Raises:
        ValueError: If the model is not built; if `fraction` is not in [0, 1]; if there are no standard
            deviations; if a selector matches nothing; if the model cannot be copied.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras
    >>> from keras_weightnoise import add_variational_weight_noise, prune_weights, strip_weight_noise
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> variational = add_variational_weight_noise(model, examples=1000)
    >>> small = strip_weight_noise(prune_weights(variational, 0.75))
    >>> int(keras.ops.count_nonzero(small.layers[0].kernel))
    8

    References:
        - [Graves, 2011](https://papers.nips.cc/paper/4329-practical-variational-inference-for-neural-networks)
        - [Blundell et al., 2015](https://arxiv.org/abs/1505.05424)
        - [Han et al., 2015](https://arxiv.org/abs/1506.02626) (by magnitude)
    """
    check_model(model)
    _check_fraction(fraction)
    check_choice("by", by, ("signal_to_noise", "weight"))
    check_flag("inplace", inplace)
    selectors.check_selectors(variables=variables, exclude=exclude)
    check_variables(model, "prune")
    chosen = [t.variable for t in selection.select(model, variables, exclude, frozen=True)]
    if by == "weight":
        scores = [np.abs(np.asarray(value)) for value in stored_values(chosen)]
    else:
        pairs = with_stddevs(model, chosen, stddevs)
        chosen = [variable for variable, _ in pairs]
        scores = [signal_to_noise_ratios(*pair) for pair in pairs]
    target = model if inplace else copy_model(model)
    _write(model, target, chosen, _lowest(scores, fraction))
    return target


def _check_fraction(fraction: object) -> None:
    check_amount("fraction", fraction)
    if fraction > 1.0:  # type: ignore[operator]
        raise ValueError(
            f"Invalid `fraction`. Expected a number in [0, 1]. Received: fraction={fraction}"
        )


def _lowest(scores: Sequence[np.ndarray], fraction: float) -> list[np.ndarray]:
    """For each array, which of its numbers are among the lowest fraction of all."""
    everything = np.concatenate([np.ravel(each).astype("float64") for each in scores])
    count = round(fraction * everything.size)
    gone = np.zeros(everything.size, bool)
    if count:
        gone[np.argpartition(everything, count - 1)[:count]] = True
    ends = np.cumsum([each.size for each in scores])[:-1]
    parts = np.split(gone, ends)
    return [part.reshape(each.shape) for part, each in zip(parts, scores, strict=True)]


def _write(
    model: Any, target: Any, chosen: Sequence[Variable], masks: Sequence[np.ndarray]
) -> None:
    """Writes 0 into the variables of `target` that are in the places of those chosen."""
    places = {id(variable): place for place, variable in enumerate(model.variables)}
    learned = rhos(model)
    for variable, mask in zip(chosen, masks, strict=True):
        for each, nothing in ((variable, 0.0), (learned.get(id(variable)), _NO_NOISE)):
            if each is not None:
                (value,) = stored_values([each])
                kept = np.where(mask, np.asarray(nothing, value.dtype.as_numpy_dtype), value)
                target.variables[places[id(each)]].assign(kept)

"""`signal_to_noise`: how sure a variational model is of each of its weights."""

import math
from typing import Any

import numpy as np

from keras_weightnoise._checks import check_model, check_variables
from keras_weightnoise._weights import reachable, selection, selectors
from keras_weightnoise._weights.learned_stddevs import (
    Pairs,
    signal_to_noise_ratios,
    with_stddevs,
)
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.analysis._settings import describe
from keras_weightnoise.analysis.signal_to_noise_result import (
    EDGES,
    QUANTILES,
    SignalToNoiseResult,
    SignalToNoiseRow,
)


def signal_to_noise(
    model: Any,
    *,
    stddevs: Pairs | None = None,
    variables: Selector | None = None,
    exclude: Selector | None = None,
) -> SignalToNoiseResult:
    """The ratio of signal to noise of the weights of a variational model: `|mu| / sigma`.

    Use it to see what was learned: which layers know their weights, and how many weights the data says
    nothing of. Those with a low ratio can be pruned first: `prune_weights`.

    Args:
        model: A built `keras.Model` with `VariationalWeightNoise` in it; with `stddevs`, one stripped of it.
        stddevs: Pairs of a variable of `model` and its standard deviations, as
            `strip_weight_noise(..., return_stddevs=True)` returns. `None`: what the wrappers of the model
            have learned. Defaults to `None`.
        variables: Which variables, of those that have standard deviations: see `perturb_weights`. `None`:
            all. Defaults to `None`.
        exclude: Which of these not, in the same terms. Defaults to `None`.

    Returns:
        A `SignalToNoiseResult`: a table, a histogram (`plot`), a DataFrame, JSON.

    Raises:
        ValueError: If the model is not built; if there are no standard deviations; if a selector matches
            nothing.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras
    >>> from keras_weightnoise import add_variational_weight_noise, signal_to_noise
    >>> keras.utils.set_random_seed(1)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="head")])
    >>> model = add_variational_weight_noise(model, examples=1000, initial_stddev=0.3)
    >>> signal_to_noise(model)
    Signal to noise |mu| / sigma of 32 weights
    variable          weights  mean sigma   5 %  median  95 %  below 1
    head/head/kernel       32      0.3000 ...

    References:
        - [Graves, 2011](https://papers.nips.cc/paper/4329-practical-variational-inference-for-neural-networks)
        - [Blundell et al., 2015](https://arxiv.org/abs/1505.05424)
    """
    check_model(model)
    selectors.check_selectors(variables=variables, exclude=exclude)
    check_variables(model, "look at")
    selected = [t.variable for t in selection.select(model, variables, exclude, frozen=True)]
    pairs = with_stddevs(model, selected, stddevs)
    chosen = [variable for variable, _ in pairs]
    found = [(each, signal_to_noise_ratios(variable, each)) for variable, each in pairs]
    names = reachable.relative_names(model, chosen)
    everything = tuple(
        np.concatenate([np.ravel(a) for a in each]) for each in zip(*found, strict=True)
    )
    return SignalToNoiseResult(
        rows=tuple(_row(name, *each) for name, each in zip(names, found, strict=True)),
        overall=_row("all", *everything),
        settings=describe(model, chosen),
    )


def _row(name: str, stddevs: np.ndarray, ratios: np.ndarray) -> SignalToNoiseRow:
    # Where sigma is 0, the ratio is infinite, which quantiles cannot lie next to.
    finite = np.minimum(ratios.astype("float64"), np.finfo("float32").max)
    inside = np.clip(finite, EDGES[0], math.nextafter(EDGES[-1], 0.0))
    return SignalToNoiseRow(
        name=name,
        shape=tuple(map(int, ratios.shape)),
        weights=int(ratios.size),
        mean_stddev=float(np.mean(stddevs, dtype="float64")),
        quantiles=tuple(map(float, np.quantile(finite, QUANTILES))),
        below_one=float(np.mean(finite < 1.0)),
        counts=tuple(map(int, np.histogram(inside, EDGES)[0])),
    )

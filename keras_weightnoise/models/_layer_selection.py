"""Which layers of a model are wrapped in weight noise, and what is noisy in each."""

import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from keras_weightnoise._weights import reachable, selection, selectors
from keras_weightnoise._weights.kernels import is_float, is_kernel
from keras_weightnoise._weights.noise_parameters import is_noise_parameter
from keras_weightnoise._weights.reachable import Layer, Variable
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise._weights.skipped import levels_to_user, quantized_kernels
from keras_weightnoise.layers import _estimators as estimators
from keras_weightnoise.layers._estimators import Estimator
from keras_weightnoise.layers._weight_noise_wrapper import WeightNoiseWrapper
from keras_weightnoise.models._rebuilding import is_graph

Chain = tuple[Layer, ...]


def chains(model: Any) -> Iterator[Chain]:
    """Each layer in the graphs of a model and of those nested in it, with the models that hold it.

    The innermost comes first, and `model` itself does not count. Nested models are not layers here.
    """
    for layer in model.layers:
        if is_graph(layer):
            yield from ((*chain, layer) for chain in chains(layer))
        else:
            yield (layer,)


def choose(
    model: Any,
    variables: Selector | None,
    exclude: Selector | None,
    estimator: Estimator,
    *,
    frozen: bool,
    frozen_layers: bool,
) -> dict[int, Selector]:
    """The layers to wrap, by their ids, and for each what its wrapper takes as `variables`.

    What `add_weight_noise` says of `variables` and `exclude`. If kernels are not selected by name: `frozen`
    is whether frozen ones count, too, in layers that have trainable ones, `frozen_layers` whether in all.
    """
    layers = {id(chain[0]): chain[0] for chain in chains(model) if not _has_noise(chain[0])}
    kernels = {key: _kernels(layer) for key, layer in layers.items()}
    candidates = list({id(v): v for each in kernels.values() for v in each}.values())
    if variables is None:
        wanted = [one for one in layers.values() if _is_wanted(one, estimator, frozen_layers)]
        chosen = {id(v) for each in wanted for v in _kernels(each) if frozen or v.trainable}
    else:
        chosen = selectors.matching(model, candidates, "variables", variables, other=_OTHER)
    if exclude is not None:
        chosen -= selectors.matching(model, model.variables, "exclude", exclude)
    selected = {
        key: own for key, of in kernels.items() if (own := [v for v in of if id(v) in chosen])
    }
    refused = {
        key: reason
        for key, own in selected.items()
        if (reason := _why_refused(layers[key], own)) is not None
    }
    _report_refused(refused.values(), variables, exclude)
    wrapped = {key: own for key, own in selected.items() if key not in refused}
    if not wrapped:
        raise ValueError(
            f"No layer of {model.name!r} is left to wrap. Expected one with kernels (trainable ones, "
            f"unless they are selected), and not wrapped yet. Received: variables={variables}, "
            f"exclude={exclude}, estimator={estimator!r}."
            f"{selectors.listing(model, candidates, _OTHER)}"
        )
    return {key: _selector(layers[key], kernels[key], own) for key, own in wrapped.items()}


_OTHER = "no kernel, or of a layer with noise already"


def _report_refused(
    reasons: Iterable[str], variables: Selector | None, exclude: Selector | None
) -> None:
    """Raises if layers that were selected are refused; warns if nothing was selected."""
    message = " ".join(reasons)
    if message and variables is not None:
        raise ValueError(
            f"Not all that is selected can be wrapped. {message} Expected such layers among `exclude`. "
            f"Received: variables={variables}, exclude={exclude}"
        )
    if message:
        warnings.warn(f"Left without weight noise: {message}", stacklevel=levels_to_user())


def wrappers(layer: Layer) -> list[WeightNoiseWrapper]:
    """The wrappers with noise that a layer is or holds, the innermost first."""
    return [each for each in reachable.sublayers(layer) if isinstance(each, WeightNoiseWrapper)]


def _has_noise(layer: Layer) -> bool:
    """Whether a layer has noise already: in a wrapper, or of its own, as `NoisyDense`."""
    return bool(wrappers(layer)) or any(map(is_noise_parameter, layer.variables))


def _kernels(layer: Layer) -> list[Variable]:
    """The kernels of a layer, frozen and quantized ones among them."""
    learned = {id(v) for v in reachable.learned(layer) if is_float(v) and is_kernel(v)}
    integers = {id(v) for v in quantized_kernels(layer)}
    return [v for v in layer.variables if id(v) in learned | integers]


def _selector(layer: Layer, kernels: list[Variable], selected: list[Variable]) -> Selector:
    """What selects some kernels of a layer, in a form that is saved."""
    if len(selected) == len(kernels):
        return "kernels"
    names = reachable.relative_names(layer, selected)
    return f"^(?:{'|'.join(map(re.escape, names))})$"


def _is_wanted(layer: Layer, estimator: Estimator, frozen: bool) -> bool:
    """Whether a layer is wrapped where nothing is selected, if it can be."""
    kernels = _kernels(layer)
    try:
        estimators.check_estimator(estimator, layer)
    except ValueError:
        return False
    if estimator != "shared" and layer.lora_enabled:
        return False
    floats = [v for v in kernels if is_float(v)]
    return any(frozen or v.trainable for v in floats) or (bool(kernels) and not floats)


def _why_refused(layer: Layer, selected: list[Variable]) -> str | None:
    """Why a layer cannot be wrapped for the sake of these kernels, if so."""
    if not any(map(is_float, selected)):
        return f"Layer {layer.name!r} is quantized: its kernels are integers."
    try:
        targets = selection.select(layer, [v for v in selected if is_float(v)], frozen=True)
        selection.refuse_self_assigned(layer, targets)
    except ValueError:
        return (
            f"Layer {layer.name!r} (of type {type(layer).__name__}) overwrites a kernel of its own when "
            "it is called."
        )
    return None

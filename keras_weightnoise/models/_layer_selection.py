"""Which layers of a model are wrapped in weight noise."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_weightnoise._weights import reachable, selection, selectors
from keras_weightnoise._weights.reachable import Layer
from keras_weightnoise.layers import _estimators as estimators
from keras_weightnoise.layers._estimators import Estimator
from keras_weightnoise.layers.gaussian_weight_noise import GaussianWeightNoise
from keras_weightnoise.models._rebuilding import is_graph

LayerSelector = str | Layer | type | Callable[[Layer], bool] | Sequence[Any]
Chain = tuple[Layer, ...]

# Their parameters of rank 2 and above are no kernels.
_WITHOUT_KERNELS = (keras.layers.LayerNormalization, keras.layers.PReLU)


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
    model: Any, layers: LayerSelector | None, exclude: LayerSelector | None, estimator: Estimator
) -> list[Layer]:
    """The layers to wrap, each once: what `add_weight_noise` says of `layers`."""
    graph = {id(chain[0]): chain for chain in chains(model)}
    able = {key: chain for key, chain in graph.items() if _has_kernels(chain[0])}
    left_out = set() if exclude is None else _matching("exclude", exclude, graph, graph)
    if layers is None:
        chosen = {key for key, chain in able.items() if _is_wanted(chain[0], estimator)}
    else:
        chosen = _matching("layers", layers, able, graph)
    candidates = [able[key][0] for key in able if key in chosen - left_out]
    refused = {
        id(layer): reason for layer in candidates if (reason := _why_refused(layer)) is not None
    }
    if refused:
        message = " ".join(refused.values())
        if layers is not None:
            raise ValueError(
                f"Not all that is selected can be wrapped in `GaussianWeightNoise`. {message} Expected "
                f"such layers among `exclude`. Received: layers={layers}, exclude={exclude}"
            )
        warnings.warn(f"Left without weight noise: {message}", stacklevel=3)
    wrapped = [layer for layer in candidates if id(layer) not in refused]
    if not wrapped:
        raise ValueError(
            f"No layer of {model.name!r} is left to wrap. Expected one with kernels (trainable ones, "
            f"unless it is selected), and not wrapped yet. Received: layers={layers}, "
            f"exclude={exclude}, estimator={estimator!r}.{_listing(graph, able)}"
        )
    return wrapped


def _matching(
    name: str,
    selector: LayerSelector,
    eligible: dict[int, Chain],
    graph: dict[int, Chain],
) -> set[int]:
    """The ids of the eligible layers that a selector matches, or a model that holds them."""
    if isinstance(selector, list | tuple) and selector:
        return set().union(*(_matching(name, each, eligible, graph) for each in selector))
    test = _test(name, selector)
    found = {key for key, chain in eligible.items() if any(test(each) for each in chain)}
    if not found:
        raise ValueError(
            f"`{name}` matches no eligible layer. Received: {name}={selector!r}."
            f"{_listing(graph, eligible)}"
        )
    return found


def _test(name: str, selector: Any) -> Callable[[Layer], bool]:
    if isinstance(selector, str):
        selectors.check_selector(name, selector)
        return lambda layer: re.search(selector, layer.name) is not None
    if isinstance(selector, keras.Layer):
        return lambda layer: layer is selector
    if isinstance(selector, type) and issubclass(selector, keras.Layer):
        return lambda layer: isinstance(layer, selector)
    if callable(selector) and not isinstance(selector, type):
        return lambda layer: bool(selector(layer))
    raise TypeError(
        f"Invalid `{name}`. Expected a regular expression, a layer, a layer class, a function of a "
        "layer, or a list of these. "
        f"Received: {name}={selector} (of type {type(selector).__name__})"
    )


def _listing(graph: dict[int, Chain], eligible: dict[int, Any]) -> str:
    lines = (
        f"  {'/'.join(each.name for each in reversed(chain))} ({type(chain[0]).__name__})"
        f"{'' if key in eligible else '  (not eligible)'}"
        for key, chain in graph.items()
    )
    return " The layers are:\n" + "\n".join(lines)


def is_noisy(layer: Layer) -> bool:
    """Whether a layer is, or holds, a `GaussianWeightNoise`."""
    return any(isinstance(each, GaussianWeightNoise) for each in reachable.sublayers(layer))


def _has_kernels(layer: Layer) -> bool:
    return (
        not isinstance(layer, _WITHOUT_KERNELS)
        and not is_noisy(layer)
        and (bool(_kernels(layer, frozen=True)) or _is_quantized(layer))
    )


def _kernels(layer: Layer, *, frozen: bool) -> list[selection.Target]:
    try:
        return selection.select(layer, "kernels", frozen=frozen)
    except ValueError:
        return []


def _is_quantized(layer: Layer) -> bool:
    return any(each.quantization_mode is not None for each in reachable.sublayers(layer))


def _is_wanted(layer: Layer, estimator: Estimator) -> bool:
    """Whether a layer with kernels is wrapped by default, if it can be."""
    try:
        estimators.check_estimator(estimator, layer)
    except ValueError:
        return False
    return bool(_kernels(layer, frozen=False)) or not _kernels(layer, frozen=True)


def _why_refused(layer: Layer) -> str | None:
    """Why a layer with kernels cannot be wrapped, if so."""
    kernels = _kernels(layer, frozen=True)
    if not kernels:
        return f"Layer {layer.name!r} is quantized: its kernels are integers."
    try:
        selection.refuse_self_assigned(layer, kernels)
    except ValueError:
        return (
            f"Layer {layer.name!r} (of type {type(layer).__name__}) overwrites a kernel of its own when "
            "it is called."
        )
    return None

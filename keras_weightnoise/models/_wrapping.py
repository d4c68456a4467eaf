"""An existing model with its layers in wrappers: what those that add weight noise have in common."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_weightnoise._checks import check_model
from keras_weightnoise._weights.reachable import Layer, Variable
from keras_weightnoise._weights.selectors import Selector, check_selectors
from keras_weightnoise.layers._weight_noise_wrapper import WeightNoiseWrapper
from keras_weightnoise.models._layer_selection import chains, choose, wrappers
from keras_weightnoise.models._rebuilding import is_graph, rebuild, refusal

FUNCTIONAL = (
    "if it was made from inputs and outputs, pass `keras.Model(model.input, model.output)`."
)
_INSTEAD = f"Train it with `WeightNoiseCallback`; or, {FUNCTIONAL}"


def wrap_layers(
    model: Any,
    wrapper: type[WeightNoiseWrapper],
    arguments: dict[str, Any],
    *,
    variables: Selector | None,
    exclude: Selector | None,
    seed: int | None,
    frozen: bool = True,
) -> tuple[Any, list[Any]]:
    """A copy of a model with its layers in wrappers, not compiled, and these wrappers.

    Args:
        model: What the user passed for a model.
        wrapper: The class of the wrappers.
        arguments: Its arguments, `estimator` among them, but for those below.
        variables: See `add_weight_noise`.
        exclude: See `add_weight_noise`.
        seed: See `add_weight_noise`.
        frozen: Whether frozen kernels beside trainable ones of a layer, such as that under LoRA, are among
            the wrapper's variables, in case they are trained later. Defaults to `True`.

    Raises:
        ValueError, TypeError: See `add_weight_noise`.
    """
    check_graph(model, _INSTEAD)
    check_selectors(variables=variables, exclude=exclude)
    wrapper(keras.layers.Dense(1, name="any"), **arguments, seed=seed, name="any")  # Checks them.
    options = {"frozen": frozen, "frozen_layers": arguments.get("frozen", False)}
    chosen = choose(model, variables, exclude, arguments["estimator"], **options)
    made: list[WeightNoiseWrapper] = []
    places = {id(layer): place for place, (layer, *_) in enumerate(chains(model))}

    def replace(layer: Layer, copy: Callable[[Layer], Layer]) -> Layer:
        if id(layer) not in chosen:
            return copy(layer)
        made.append(
            wrapper(
                copy(layer),
                **arguments,
                variables=chosen[id(layer)],
                seed=None if seed is None else _seed_of(seed, places[id(layer)]),
                name=layer.name,
                trainable=layer.trainable,
            )
        )
        return made[-1]

    return rebuild(model, replace, instead=_INSTEAD, variables=_without_seeds), made


def check_graph(model: Any, instead: str) -> None:
    """Raises unless `model` is a built functional or Sequential model; `instead`: what else to do."""
    check_model(model)
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built. Expected a built model: call it once on a batch."
        )
    if not is_graph(model):
        raise refusal(model, "Keras knows no graph of its layers.", instead)


def _without_seeds(layer: Layer) -> list[Variable]:
    """The variables of a layer without the seeds of wrappers, which begin anew."""
    seeds = {id(each.seed_generator.state) for each in wrappers(layer)}
    return [variable for variable in layer.variables if id(variable) not in seeds]


def _seed_of(seed: int, place: int) -> int:
    """A seed for the layer at a place."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1)[0])

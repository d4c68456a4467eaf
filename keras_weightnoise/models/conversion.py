"""Weight noise for the layers of an existing model, and without it again."""

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_weightnoise._checks import check_model
from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.reachable import Layer, Variable
from keras_weightnoise._weights.selectors import Selector, check_selectors
from keras_weightnoise.layers._estimators import Estimator
from keras_weightnoise.layers.gaussian_weight_noise import GaussianWeightNoise
from keras_weightnoise.models._layer_selection import chains, choose, is_noisy
from keras_weightnoise.models._rebuilding import compile_like, is_graph, rebuild, refusal
from keras_weightnoise.noises import Scale

_REGISTERED_NAME = "keras_weightnoise>GaussianWeightNoise"
_FUNCTIONAL = (
    "if it was made from inputs and outputs, pass `keras.Model(model.input, model.output)`."
)
_INSTEAD_OF_ADDING = f"Train it with `WeightNoiseCallback`; or, {_FUNCTIONAL}"
_INSTEAD_OF_STRIPPING = (
    f"Take the wrappers out of its code, and load the weights; or, {_FUNCTIONAL}"
)


def add_weight_noise(
    model: Any,
    stddev: float = 0.1,
    *,
    relative_to: Scale | None = None,
    estimator: Estimator = "shared",
    variables: Selector | None = None,
    exclude: Selector | None = None,
    seed: int | None = None,
    **others: Any,
) -> Any:
    """Returns a copy of a model with noisy kernels in training: `w' = w + stddev * scale(w) * n`.

    Use it to fine-tune a trained model under weight noise, in all layers or in some, and
    `strip_weight_noise` to have the plain model back. For noise that changes during training, or in
    models of other kinds than these, use `WeightNoiseCallback`.

    Each layer is wrapped in a `GaussianWeightNoise` of the layer's own name, also in models nested in
    this one, at any depth. A layer that is called several times is wrapped once. Weights, the order of
    `get_weights()`, frozen layers, dtypes and statistics are kept, and with `training=False` outputs are
    those of `model`, bit for bit. `model` itself is not touched, and shares nothing with the copy.

    Args:
        model: A built functional or Sequential model, compiled or not.
        stddev: Float >= 0, in units of the weights where `relative_to` is `None`, else of that scale.
            Defaults to `0.1`.
        relative_to: The scale: see `GaussianWeightNoise`. Defaults to `None`.
        estimator: What each example of a batch sees of the noise: see `GaussianWeightNoise`. Defaults
            to `"shared"`.
        variables: Which kernels: a regular expression searched in `variable.path`, a variable, a layer, a
            layer class, a function of a variable that returns a bool, or a list of these; `"kernels"` are
            all. Never a bias, gamma or beta: for these, wrap the layer yourself. A layer is wrapped if one
            of its kernels is selected, and frozen ones are if they are selected by name. `None`: the kernels
            of every layer that has trainable ones, and that `estimator` applies to; layers that cannot be
            wrapped are left out with a warning, which are quantized ones, and
            `keras.layers.SpectralNormalization`, which overwrites its kernel. For what a kernel is, see
            `GaussianWeightNoise`. Of a layer with LoRA, the trainable factors are perturbed. Layers that
            are wrapped already stay as they are. Defaults to `None`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        seed: Int in [0, 2^32), from which each wrapper gets one of its own, whatever else is wrapped.
            `None`: each takes one from what `keras.utils.set_random_seed` seeds. Defaults to `None`.
        **others: None. `layers` is refused with what to give in its place.

    Returns:
        A model of the class of `model`, compiled as it is, with an optimizer that begins anew. (If what
        `compile` was given cannot be made again, it is not compiled, with a warning.)

    Raises:
        ValueError: If the model is not built, or is neither functional nor Sequential; if a selector
            matches nothing; if a layer that is selected cannot be wrapped (the message says which); if a
            layer cannot be made again from its configuration. Layers whose
            reads are hidden, as in a `tf.function` of their own, are found only in training, which then
            raises and names them: leave them out with `exclude`.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras
    >>> from keras_weightnoise import add_weight_noise, strip_weight_noise
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    >>> noisy = add_weight_noise(model, 0.1, variables="head", seed=1)
    >>> x = keras.ops.ones((2, 4))
    >>> bool(keras.ops.all(noisy(x) == model(x)))
    True
    >>> bool(keras.ops.all(noisy(x, training=True) == model(x)))
    False
    >>> type(strip_weight_noise(noisy).get_layer("head")).__name__
    'Dense'
    """
    for name, value in others.items():
        advice = " It is `variables`, here as everywhere." if name == "layers" else ""
        raise TypeError(
            f"`add_weight_noise` has no argument `{name}`.{advice} Received: {name}={value!r}"
        )
    _check_graph(model, _INSTEAD_OF_ADDING)
    check_selectors(variables=variables, exclude=exclude)
    arguments: dict[str, Any] = {
        "stddev": stddev,
        "relative_to": relative_to,
        "estimator": estimator,
    }
    # Checks them.
    GaussianWeightNoise(keras.layers.Dense(1, name="any"), **arguments, seed=seed, name="any")
    chosen = choose(model, variables, exclude, estimator)
    places = {id(layer): place for place, (layer, *_) in enumerate(chains(model))}

    def replace(layer: Layer, copy: Callable[[Layer], Layer]) -> Layer:
        if id(layer) not in chosen:
            return copy(layer)
        return GaussianWeightNoise(
            copy(layer),
            **arguments,
            variables=chosen[id(layer)],
            seed=None if seed is None else _seed_of(seed, places[id(layer)]),
            name=layer.name,
            trainable=layer.trainable,
        )

    new = rebuild(model, replace, instead=_INSTEAD_OF_ADDING, variables=_without_seeds)
    compile_like(model, new)
    return new


def strip_weight_noise(model: Any) -> Any:
    """Returns a copy of a model without `GaussianWeightNoise`, its layers and weights kept.

    Use it when training under noise is done. The copy needs nothing of this library: it is saved, loaded
    and exported as any other model. (But constraints such as `constraints.ClipToStddev` stay.) What the
    wrapper does with `training=False`, its layer does always: outputs are the same, bit for bit. `model`
    itself is not touched, and shares nothing with the copy.

    Wrappers are taken off in nested models too, at any depth, and inside of layers that have theirs from
    their configuration, such as `keras.layers.TimeDistributed`. A layer gets its wrapper's name, which
    others may refer to, unless that is one that Keras made up: then it keeps its own.

    Args:
        model: A built functional or Sequential model, compiled or not.

    Returns:
        A model of the class of `model`, compiled as it is, with an optimizer that begins anew. (If what
        `compile` was given cannot be made again, it is not compiled, with a warning.)

    Raises:
        ValueError: If there is nothing to strip; if the model is not built, or is neither functional nor
            Sequential; if a wrapper cannot be taken off, because a layer makes it by itself; if a layer
            cannot be made again from its configuration.
        TypeError: If `model` is no model.

    Example:

    See `add_weight_noise`.
    """
    _check_graph(model, _INSTEAD_OF_STRIPPING)
    if not is_noisy(model):
        raise ValueError(
            f"Model {model.name!r} has nothing to strip. Expected a `GaussianWeightNoise` in it."
        )
    names = {layer.name: layer for layer, *_ in chains(model)}

    def replace(layer: Layer, copy: Callable[[Layer], Layer]) -> Layer:
        if not isinstance(layer, GaussianWeightNoise):
            return copy(layer)
        inner = layer.layer
        new = replace(inner, copy)
        automatic = re.fullmatch(r"gaussian_weight_noise(_\d+)?", layer.name)
        if not automatic or names.get(inner.name, inner) is not inner:
            new.name = layer.name
        return new

    new = rebuild(
        model, replace, instead=_INSTEAD_OF_STRIPPING, edit=_strip, variables=_without_seeds
    )
    compile_like(model, new)
    for layer, *_ in chains(new):
        if is_noisy(layer):
            raise ValueError(
                f"The layer {layer.name!r} (of type {type(layer).__name__}) keeps its "
                "`GaussianWeightNoise`. Expected wrappers in functional and Sequential models, or in "
                "layers that have theirs from `get_config`. This one makes it by itself."
            )
    return new


def _strip(config: Any) -> Any:
    """A config without the wrappers in it, at any depth."""
    if isinstance(config, dict):
        if config.get("registered_name") == _REGISTERED_NAME:
            return _strip(config["config"]["layer"])
        return {key: _strip(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_strip(each) for each in config)
    return config


def _without_seeds(layer: Layer) -> list[Variable]:
    """The variables of a layer without those that `GaussianWeightNoise` adds, its seeds."""
    seeds = {
        id(each.seed_generator.state)
        for each in reachable.sublayers(layer)
        if isinstance(each, GaussianWeightNoise)
    }
    return [variable for variable in layer.variables if id(variable) not in seeds]


def _check_graph(model: Any, instead: str) -> None:
    check_model(model)
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built. Expected a built model: call it once on a batch."
        )
    if not is_graph(model):
        raise refusal(model, "Keras knows no graph of its layers.", instead)


def _seed_of(seed: int, place: int) -> int:
    """A seed for the layer at a place."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1)[0])

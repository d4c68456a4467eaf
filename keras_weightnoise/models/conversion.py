"""Weight noise for the layers of an existing model, and without it again."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_weightnoise._checks import check_flag, check_order, refuse_unknown
from keras_weightnoise._weights.noise_parameters import stddevs_of, trained_rhos
from keras_weightnoise._weights.reachable import Layer, Variable
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.layers._estimators import Estimator
from keras_weightnoise.layers._weight_noise_wrapper import WeightNoiseWrapper
from keras_weightnoise.layers.gaussian_weight_noise import GaussianWeightNoise
from keras_weightnoise.models._compiling import compile_like
from keras_weightnoise.models._layer_selection import chains, wrappers
from keras_weightnoise.models._rebuilding import rebuild
from keras_weightnoise.models._wrapping import FUNCTIONAL, check_graph, wrap_layers
from keras_weightnoise.noises import Noise, Scale

_INSTEAD_OF_STRIPPING = f"Take the wrappers out of its code, and load the weights; or, {FUNCTIONAL}"


def add_weight_noise(
    model: Any,
    stddev: float | None = None,
    *,
    relative_to: Scale | None = None,
    noise: Noise | None = None,
    estimator: Estimator = "shared",
    variables: Selector | None = None,
    exclude: Selector | None = None,
    frozen: bool = False,
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
            Defaults to `None`: `0.1`, or with a `noise` none.
        relative_to: The scale: see `GaussianWeightNoise`. Defaults to `None`.
        noise: One of `keras_weightnoise.noises` in place of these: see `GaussianWeightNoise`. Defaults to
            `None`.
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
            have noise already (in a wrapper, or of their own, as `NoisyDense`) stay as they are. Defaults
            to `None`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        frozen: Whether layers that are frozen are wrapped, too, and frozen weights noisy: see
            `GaussianWeightNoise`. Defaults to `False`.
        seed: Int in [0, 2^32), from which each wrapper gets one of its own, whatever else is wrapped.
            `None`: each takes one from what `keras.utils.set_random_seed` seeds. Defaults to `None`.
        **others: None. What other functions call otherwise is refused with its name here.

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
        known = inspect.signature(add_weight_noise).parameters
        names = {"layers": "variables", "sigma": "stddev", "magnitude": "stddev"}
        refuse_unknown(name, value, [*known][:-1], names)
    check_order(model, keras.Model, "model", stddev=stddev)
    new, _ = wrap_layers(
        model,
        GaussianWeightNoise,
        {
            "stddev": stddev,
            "relative_to": relative_to,
            "noise": noise,
            "estimator": estimator,
            "frozen": frozen,
        },
        variables=variables,
        exclude=exclude,
        seed=seed,
    )
    compile_like(model, new)
    return new


def strip_weight_noise(model: Any, *, return_stddevs: bool = False) -> Any:
    """Returns a copy of a model without the wrappers of weight noise, its layers and weights kept.

    Use it when training under noise is done. The copy needs nothing of this library: it is saved, loaded
    and exported as any other model. (But constraints such as `constraints.ClipToStddev` stay.) What
    `GaussianWeightNoise` and `VariationalWeightNoise` do with `training=False`, their layer does always:
    outputs are the same, bit for bit. `model` itself is not touched, and shares nothing with the copy.

    Wrappers are taken off in nested models too, at any depth, and inside of layers that have theirs from
    their configuration, such as `keras.layers.TimeDistributed`. A layer gets its wrapper's name, which
    others may refer to, unless that is one that Keras made up: then it keeps its own.

    Args:
        model: A built functional or Sequential model, compiled or not.
        return_stddevs: Whether to return the learned standard deviations, too. Defaults to `False`.

    Returns:
        A model of the class of `model`, compiled as it is, with an optimizer that begins anew. (If what
        `compile` was given cannot be made again, it is not compiled, with a warning.) With
        `return_stddevs=True`, a tuple of it and of what `VariationalWeightNoise` has learned: a list of
        pairs of a variable of the new model and its standard deviations, as `prune_weights` and
        `signal_to_noise` take it.

    Raises:
        ValueError: If there is nothing to strip; if the model is not built, or is neither functional nor
            Sequential; if a wrapper cannot be taken off, because a layer makes it by itself; if a layer
            cannot be made again from its configuration.
        TypeError: If `model` is no model, or `return_stddevs` no bool.

    Example:

    See `add_weight_noise`.
    """
    check_graph(model, _INSTEAD_OF_STRIPPING)
    check_flag("return_stddevs", return_stddevs)
    if not wrappers(model):
        raise ValueError(
            f"Model {model.name!r} has nothing to strip. Expected a wrapper in it, such as "
            "`GaussianWeightNoise`."
        )
    names = {layer.name: layer for layer, *_ in chains(model)}

    def replace(layer: Layer, copy: Callable[[Layer], Layer]) -> Layer:
        if not isinstance(layer, WeightNoiseWrapper):
            return copy(layer)
        inner = layer.layer
        new = replace(inner, copy)
        if not _is_automatic(layer.name, type(layer)) or names.get(inner.name, inner) is not inner:
            new.name = layer.name
        return new

    new = rebuild(
        model, replace, instead=_INSTEAD_OF_STRIPPING, edit=_strip, variables=_without_noise
    )
    _refuse_what_stays(new)
    pairs = zip(_without_noise(model), new.variables, strict=True)
    learned = trained_rhos(model)
    stddevs = [
        (new_one, stddevs_of(learned[id(old)])) for old, new_one in pairs if id(old) in learned
    ]
    compile_like(model, new)
    return (new, stddevs) if return_stddevs else new


def _refuse_what_stays(model: Any) -> None:
    """Raises if a layer still has a wrapper."""
    for layer, *_ in chains(model):
        if left := wrappers(layer):
            raise ValueError(
                f"The layer {layer.name!r} (of type {type(layer).__name__}) keeps its "
                f"`{type(left[0]).__name__}`. Expected wrappers in functional and Sequential "
                "models, or in layers that have theirs from `get_config`. This one makes it by itself."
            )


def _strip(config: Any) -> Any:
    """A config without the wrappers in it, at any depth."""
    registered = {keras.saving.get_registered_name(kind) for kind in _kinds(WeightNoiseWrapper)}

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("registered_name") in registered:
                return strip(value["config"]["layer"])
            return {key: strip(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(strip(each) for each in value)
        return value

    return strip(config)


def _kinds(base: type[WeightNoiseWrapper]) -> Iterator[type[WeightNoiseWrapper]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


def _is_automatic(name: str, kind: type[WeightNoiseWrapper]) -> bool:
    """Whether Keras made up a name for a layer of this class: the class's in snake case, and a number."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
    return re.fullmatch(rf"{snake}(_\d+)?", name) is not None


def _without_noise(layer: Layer) -> list[Variable]:
    """The variables of a layer without those that wrappers have beside their layers'."""
    own = {
        id(variable)
        for each in wrappers(layer)
        for variable in each.variables
        if not any(variable is other for other in each.layer.variables)
    }
    return [variable for variable in layer.variables if id(variable) not in own]

"""Models built again, with other layers in the place of some."""

import contextlib
import inspect
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.noise_parameters import is_noise_parameter
from keras_weightnoise._weights.reachable import Layer, Variable

Config = dict[str, Any]


Replace = Callable[[Layer, Callable[[Layer], Layer]], Layer]


def rebuild(
    model: Any,
    replace: Replace = lambda layer, copy: copy(layer),
    *,
    instead: str,
    edit: Callable[[Config], Config] = lambda config: config,
    variables: Callable[[Layer], list[Variable]] = lambda layer: list(layer.variables),
) -> Any:
    """A model with the same graph and weights, not compiled, and with other layers in it.

    Args:
        model: A built functional or Sequential model: see `is_graph`.
        replace: Called as `replace(layer, copy)` once for each layer in the graph of `model` and of the
            models nested in it. Returns the layer to put in its place; `copy(layer)` is a copy, to
            return or to build upon. Defaults to `copy(layer)`.
        instead: What to do where the model cannot be rebuilt, for the error.
        edit: Called with the config of each layer that is copied. Returns the config of the copy.
        variables: Called with a layer or model, old or new. Returns the variables that both have.

    Returns:
        A model that shares nothing with `model`.

    Raises:
        ValueError: If Keras cannot make a layer or model from its configuration, or if variables of the
            copy do not correspond to those of the model.
    """
    copier = _Copier(replace, edit)
    try:
        new = copier.copy(model)
        # Noise has variables, too, where it learns: wrappers bring them, and take them away.
        check_shapes(
            *([v for v in variables(each) if not is_noise_parameter(v)] for each in (model, new))
        )
        for old, new_layer in copier.leaves:
            copy_state(old, new_layer, variables)
    except Exception as error:
        raise refusal(model, str(error), instead) from error
    return new


def refusal(model: Any, reason: str, instead: str) -> ValueError:
    """The error about a model that cannot be rebuilt, and what to do instead."""
    return ValueError(
        f"Model {model.name!r} cannot be rebuilt: Keras does not make the same one from its configuration. "
        f"Expected a functional or Sequential model, of a class whose constructor takes what theirs does. "
        f"{instead} Received: model={model} (of type {type(model).__name__}): {reason}"
    )


class _Copier:
    """Copies of layers. What is in several places is one layer in the copy, too.

    Attributes:
        leaves: Pairs of a layer and its copy, of layers that are no graphs themselves.
    """

    def __init__(self, replace: Replace, edit: Callable[[Config], Config]) -> None:
        self.leaves: list[tuple[Layer, Layer]] = []
        self._replace = replace
        self._edit = edit
        self._placed: dict[int, Layer] = {}
        self._copies: dict[int, Layer] = {}

    def place(self, layer: Layer) -> Layer:
        """What comes in the place of a layer."""
        if id(layer) not in self._placed:
            self._placed[id(layer)] = self._replace(layer, self.copy)
        return self._placed[id(layer)]

    def copy(self, layer: Layer) -> Layer:
        """The copy of a layer, or of a model with other layers in it."""
        if id(layer) not in self._copies:
            graph = is_graph(layer)
            new = _copy_graph(layer, self.place) if graph else _copy_leaf(layer, self._edit)
            self._copies[id(layer)] = new
            # And not an operation, as `keras.ops` puts into graphs.
            if not graph and isinstance(layer, keras.Layer):
                self.leaves.append((layer, new))
        return self._copies[id(layer)]


def check_shapes(old: Sequence[Variable], new: Sequence[Variable]) -> None:
    """Raises unless variables correspond to those of the model that they are made after."""
    shapes = [[tuple(v.shape) for v in variables] for variables in (new, old)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"From their configurations, its layers get variables of the shapes {shapes[0]} in place of "
            f"{shapes[1]}. Expected layers that do not create others, or hold variables in common, in ways "
            "that `get_config` does not tell."
        )


def is_graph(layer: Layer) -> bool:
    """Whether a layer is a functional or Sequential model, which can be rebuilt around other layers."""
    if not isinstance(layer, keras.Model):
        return False
    try:
        return isinstance(layer, keras.Sequential) or "input_layers" in _config(layer)
    except NotImplementedError:  # Its constructor has arguments that Keras cannot write down.
        return False


def _copy_graph(model: Any, place: Callable[[Layer], Layer]) -> Any:
    if isinstance(model, keras.Sequential):
        # `clone_model` would make a subclass a plain Sequential.
        config, shape = _config(model), model.inputs[0].shape
        new = type(model).from_config(
            {**config, "layers": config["layers"][:1], "build_input_shape": None}  # The input.
        )
        new.trainable, new.dtype_policy = model.trainable, model.dtype_policy
        for layer in model.layers:
            new.add(place(layer), rebuild=False)
        new.build(shape)
        return new
    # Anew, and not by `clone_model`, in which they lose their options in Keras 3.5.
    inputs = {
        id(each.output): type(each).from_config(each.get_config()).output
        for each in model.layers
        if isinstance(each, keras.layers.InputLayer)
    }
    with _uncompiled(model):
        new = keras.models.clone_model(
            model,
            input_tensors=keras.tree.map_structure(lambda x: inputs[id(x)], model.input),
            clone_function=place,
        )
    new.dtype_policy = model.dtype_policy
    if new.trainable != model.trainable:
        # Which sets all layers below.
        flags = [(each, each.trainable) for each in reachable.sublayers(new) if each is not new]
        new.trainable = model.trainable
        for each, flag in reversed(flags):
            each.trainable = flag
    return new


def _copy_leaf(layer: Layer, edit: Callable[[Config], Config]) -> Layer:
    config = edit(_config(layer))
    with with_code_of(layer):
        if not isinstance(layer, keras.layers.Lambda):
            return type(layer).from_config(config)
        new = type(layer).from_config(config, safe_mode=False)
    # Read back, a lambda has lost its module's globals.
    new.function = layer.function
    return new


@contextlib.contextmanager
def with_code_of(*objects: Any) -> Iterator[None]:
    """Within it, Keras finds the classes and functions that these are made of, registered or not.

    Raises:
        ValueError: If two of them have one name, by which Keras could not tell them apart.
    """
    code: dict[str, Any] = {}
    for each in _code_of(objects, set()):
        if code.setdefault(each.__name__, each) is not each:
            raise ValueError(
                f"Two classes or functions have the name {each.__name__!r}, by which Keras looks them up. "
                "Expected one of a name, or `keras.saving.register_keras_serializable`. "
                f"Received: {code[each.__name__]} and {each}"
            )
    # A `custom_object_scope` would hide the one that the caller may be in.
    registered = keras.saving.get_custom_objects()
    before = dict(registered)
    registered.update(code)
    try:
        yield
    finally:
        registered.clear()
        registered.update(before)


def _code_of(value: Any, seen: set[int]) -> Iterator[Any]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if inspect.isfunction(value):
        yield value
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _code_of(each, seen)
    elif hasattr(value, "get_config") and not isinstance(value, type):
        yield type(value)
        # Not what stands in for methods, as Keras's own wrappers of `build` do.
        for name, each in vars(value).items():
            if not hasattr(type(value), name):
                yield from _code_of(each, seen)


def _config(layer: Layer) -> Config:
    with silent_about_lambdas():
        config: Config = layer.get_config()
    return config


@contextlib.contextmanager
def silent_about_lambdas() -> Iterator[None]:
    with warnings.catch_warnings():
        # Keras warns of loading lambdas from files; these are the caller's own.
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        yield


@contextlib.contextmanager
def _uncompiled(model: Any) -> Iterator[None]:
    """Within it, `clone_model` does not compile, as it would in Keras 3.15: `compile_like` does."""
    compiled = model.compiled
    try:
        model.compiled = False
        yield
    finally:
        model.compiled = compiled


def copy_state(
    old: Layer,
    new: Layer,
    variables: Callable[[Layer], list[Variable]] = lambda layer: list(layer.variables),
) -> None:
    """Copies all that a layer has beyond its configuration."""
    for source, target in zip(variables(old), variables(new), strict=True):
        target.assign(source)
        if target.trainable != source.trainable:
            target.trainable = source.trainable
        if target.constraint is None:  # One that a layer has no argument for.
            target.constraint = source.constraint
    # Preprocessing layers know more than that: vocabularies, and what they make of their variables.
    sources, targets = (
        [each for each in reachable.sublayers(layer) if hasattr(each, "finalize_state")]
        for layer in (old, new)
    )
    for source, target in zip(sources, targets, strict=True):
        store: dict[str, Any] = {}
        source.save_own_variables(store)
        target.load_own_variables(store)
        if hasattr(source, "save_assets"):
            with tempfile.TemporaryDirectory() as directory:
                source.save_assets(directory)
                target.load_assets(directory)

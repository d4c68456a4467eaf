"""Copies of models."""

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from keras_weightnoise import selection
from keras_weightnoise.rebuilding import copy_state


def copy_model(model: Any) -> Any:
    """A model of its own with the same architecture, weights, and compile settings.

    Args:
        model: A built `keras.Model`.

    Returns:
        A model whose optimizer, if any, begins anew.

    Raises:
        ValueError: If Keras cannot make the model from its configuration.
    """
    try:
        with warnings.catch_warnings():
            # It warns of loading lambdas from files; these are the caller's own.
            warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
            config = keras.saving.serialize_keras_object(model)
        copy = _make(config, {each.__name__: each for each in _code_of(model)})
        shapes = [[tuple(v.shape) for v in each.variables] for each in (copy, model)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The model made from its configuration has variables of the shapes {shapes[0]} in "
                f"place of {shapes[1]}."
            )
    except Exception as error:
        raise ValueError(
            f"Model {model.name!r} cannot be copied: Keras does not make the same one from its "
            "configuration. Expected a functional or Sequential model, or a subclass with `get_config` "
            "(and `build`, or `get_build_config`); or use `inplace=True`, or `perturbed_weights`. "
            f"Received: model={model} (of type {type(model).__name__}): {error}"
        ) from error
    copy_state(model, copy)
    return copy


def _make(config: dict[str, Any], known: dict[str, Any]) -> Any:
    def make(config: dict[str, Any]) -> Any:
        return keras.saving.deserialize_keras_object(config, known, safe_mode=False)

    settings = config.get("compile_config")
    if settings is None:
        return make(config)
    try:
        if "__lambda__" in str(settings):
            raise ValueError("A lambda, read from a configuration, has lost its surroundings.")
        return make(config)
    except Exception as error:
        copy = make({**config, "compile_config": None})
        warnings.warn(
            f"The copy of model {copy.name!r} is not compiled: what the original was compiled with "
            f"cannot be made from its configuration. Compile it. ({error})",
            stacklevel=4,
        )
        return copy


def _code_of(model: Any) -> Iterator[Any]:
    """The classes and functions that a model is made of and compiled with, registered or not."""
    seen: set[int] = set()

    def visit(value: Any) -> Iterator[Any]:
        if id(value) in seen:
            return
        seen.add(id(value))
        if inspect.isfunction(value):
            yield value
        elif isinstance(value, list | tuple | dict):
            for each in value.values() if isinstance(value, dict) else value:
                yield from visit(each)
        elif isinstance(value, keras.Layer | keras.metrics.Metric | keras.losses.Loss):
            yield type(value)
            yield from visit(vars(value))

    yield from visit([*selection.sublayers(model), model.metrics])

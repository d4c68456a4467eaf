"""Copies of models."""

import warnings
from typing import Any

import keras

from keras_weightnoise.models._rebuilding import (
    compile_like,
    copy_state,
    is_graph,
    known,
    rebuild,
    silent_about_lambdas,
)


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
        copy = _copy_graph(model) if is_graph(model) else _copy_by_config(model)
    except Exception as error:
        raise ValueError(
            f"Model {model.name!r} cannot be copied: Keras does not make the same one from its "
            "configuration. Expected a functional or Sequential model, or a subclass with `get_config` "
            "(and `build`, or `get_build_config`); or use `inplace=True`, or `perturbed_weights`. "
            f"Received: model={model} (of type {type(model).__name__}): {error}"
        ) from error
    try:
        with known(model.metrics):
            compile_like(model, copy)
    except Exception as error:
        warnings.warn(
            f"The copy of model {model.name!r} is not compiled: what the original was compiled with "
            f"cannot be made from its configuration. Compile it. ({error})",
            stacklevel=3,
        )
    return copy


def _copy_graph(model: Any) -> Any:
    return rebuild(model, lambda layer, copy: copy(layer))


def _copy_by_config(model: Any) -> Any:
    """A copy of a model whose layers are in no graph, but in its own code."""
    with silent_about_lambdas():
        config = {**keras.saving.serialize_keras_object(model), "compile_config": None}
    with known(model):
        copy = keras.saving.deserialize_keras_object(config, safe_mode=False)
    shapes = [[tuple(v.shape) for v in each.variables] for each in (copy, model)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The model made from its configuration has variables of the shapes {shapes[0]} in place of "
            f"{shapes[1]}."
        )
    copy_state(model, copy)
    return copy

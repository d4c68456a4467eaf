"""Copies of models."""

import warnings
from typing import Any

import keras

from keras_weightnoise import selection


def copy_model(model: Any) -> Any:
    """A model of its own with the same architecture, weights, and compile settings.

    Args:
        model: A built `keras.Model`.

    Returns:
        A model whose optimizer, if any, begins anew.

    Raises:
        ValueError: If Keras cannot make the model from its configuration.
    """
    # So that classes need not be registered, nor be found by their module.
    classes = {type(layer).__name__: type(layer) for layer in selection.sublayers(model)}
    try:
        with warnings.catch_warnings():
            # It warns of loading lambdas from files; these are the caller's own.
            warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
            config = keras.saving.serialize_keras_object(model)
        copy = keras.saving.deserialize_keras_object(config, classes, safe_mode=False)
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
    for variable, value in zip(copy.variables, model.variables, strict=True):
        variable.assign(value)
    return copy

"""Copies of models."""

from typing import Any

import keras

from keras_weightnoise.models._compiling import compile_like
from keras_weightnoise.models._rebuilding import (
    check_shapes,
    copy_state,
    is_graph,
    rebuild,
    refusal,
    silent_about_lambdas,
    with_code_of,
)

_INSTEAD = (
    "Or a subclass with `get_config` (and `build`, or `get_build_config`). Or use `inplace=True`, or "
    "`perturbed_weights`."
)


def copy_model(model: Any) -> Any:
    """A model of its own with the same architecture, weights, and compile settings.

    Args:
        model: A built `keras.Model`, or layer.

    Returns:
        A model whose optimizer, if any, begins anew.

    Raises:
        ValueError: If Keras cannot make the model from its configuration.
    """
    copy = rebuild(model, instead=_INSTEAD) if is_graph(model) else _copy_by_config(model)
    compile_like(model, copy)
    return copy


def _copy_by_config(model: Any) -> Any:
    """A copy of a model whose layers are in no graph, but in its own code."""
    try:
        with silent_about_lambdas():
            config = {**keras.saving.serialize_keras_object(model), "compile_config": None}
        with with_code_of(model):
            copy = keras.saving.deserialize_keras_object(config, safe_mode=False)
        check_shapes(model.variables, copy.variables)
        copy_state(model, copy)
    except Exception as error:
        raise refusal(model, str(error), _INSTEAD) from error
    return copy

"""The inputs of a model, for an ensemble that takes the same."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def symbolic_inputs(model: Any) -> Any:
    """The symbolic inputs of a functional or Sequential model, in their structure; else `None`."""
    if not getattr(model, "inputs", None):
        return None
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def input_shape(model: Any) -> Any:
    """The shape of a model's inputs in their structure, or `None` if that is not known."""
    if (inputs := symbolic_inputs(model)) is not None:
        return keras.tree.map_structure(lambda each: each.shape, inputs)
    return (model.get_build_config() or {}).get("input_shape")


class MeanLayer(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no types.
    """What an ensemble computes, as a layer: a model inside of a model is traced with inputs of floats.

    Args:
        model: The ensemble's model, whose variables TensorFlow exports then, as
        magnitudes: its variable.
        function: Called with inputs and `training`. Returns outputs, and losses.
    """

    def __init__(
        self, model: Any, magnitudes: tf.Variable, function: Callable[[Any, None], Any]
    ) -> None:
        super().__init__(autocast=False)
        self.model = model
        self._magnitudes = magnitudes
        self._function = function

    def call(self, inputs: Any) -> Any:
        return self._function(inputs, None)[0]

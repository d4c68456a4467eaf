"""What variables hold."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._random.sampling import Tensor
from keras_weightnoise._weights.reachable import Variable


def stored_values(variables: Sequence[Variable]) -> list[Tensor]:
    """The variables' values in the dtype they are stored in, also where reads are autocast."""
    values: list[Tensor] = without_autocast(
        function=lambda: [tf.convert_to_tensor(variable) for variable in variables]
    )
    return values


class _WithoutAutocast(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no types.
    """Calls a function outside of autocast: Keras suspends it for layers that opt out."""

    def call(self, *, function: Callable[[], Any]) -> Any:
        return function()


without_autocast = _WithoutAutocast(autocast=False, dtype="float32", name="weight_noise")

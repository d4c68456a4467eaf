"""What wrappers train beside the weights: the parameters of their noise."""

from collections.abc import Callable
from typing import Any

import keras

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.noise_parameters import mark
from keras_weightnoise._weights.reachable import Layer, Variable


class NoiseParameters(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no types.
    """Holds the variables of a wrapper's noise, and does nothing else.

    A layer of its own, so that they come after the weights of the wrapped layer, which is in the wrapper
    before it: Keras lists a layer's own variables before those of its sublayers.

    Args:
        dtype: A dtype policy.
        is_quantized: Returns whether the wrapped layer is quantized.
    """

    def __init__(self, dtype: Any, is_quantized: Callable[[], bool]) -> None:
        super().__init__(name="noise", dtype=dtype)
        self._was_quantized = is_quantized

    def build(self) -> None:
        """Builds nothing: what there is has been added."""

    def load_own_variables(self, store: Any) -> None:
        """Loads the variables, if the layer that they are for has not been quantized since it had them."""
        if self.built or not self._was_quantized():
            super().load_own_variables(store)

    def add_parameter(
        self,
        name: str,
        shape: tuple[int, ...],
        initializer: Callable[..., Tensor],
        dtype: str | None = None,
        loss: Callable[[], Tensor] | None = None,
        means: Variable | None = None,
    ) -> Variable:
        """Adds a trained parameter: a variable that no noise perturbs.

        Args:
            name: Its name.
            shape: Its shape.
            initializer: Its initializer.
            dtype: Its dtype. Defaults to that of the layer's variables.
            loss: Returns a loss. Keras asks it as it asks a regularizer: each time it sums the losses of a
                step, however often a layer was called, and wherever. A loss that a call adds would be added
                by each call, and be out of reach where that is in a loop, as in `TimeDistributed`.
            means: Of rho, the variable that it is learned for.
        """
        regularizer = None if loss is None else _Loss(loss)
        variable = self.add_weight(
            name=name, shape=shape, initializer=initializer, dtype=dtype, regularizer=regularizer
        )
        mark(variable, means)
        return variable

    def add_step(self) -> None:
        """Adds `step`, a count of training steps."""
        self.step = self.add_weight(
            name="step",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        mark(self.step)


class _Loss(keras.Regularizer):  # type: ignore[misc]
    def __init__(self, function: Callable[[], Tensor]) -> None:
        self._function = function

    def __call__(self, x: Tensor) -> Tensor:
        return self._function()


def name_in(layer: Layer, variable: Variable) -> str:
    """A variable's path inside of a layer, as a name: `"query_kernel"`, which other names are made of."""
    path = str(variable.path)
    inside = path.split(f"{layer.name}/", 1)[-1] if f"{layer.name}/" in path else variable.name
    return inside.replace("/", "_")

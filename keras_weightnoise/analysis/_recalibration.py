"""The statistics of BatchNormalization, estimated again while the weights hold noise."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_weightnoise._attributes import replaced
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.state import Snapshot
from keras_weightnoise._weights.values import stored_values
from keras_weightnoise.analysis._repeated_data import RepeatedData
from keras_weightnoise.models._batch_function import BatchFunction

Calls = list[list[Tensor]]  # For each call of a layer: the batch's size, mean and variance.


class Recalibration:
    """Estimates the moving statistics of a model's BatchNormalization layers from data.

    In one pass over the data, these layers behave as in training, all others as in inference. A
    layer's statistics become the means, over the batches and weighted by their sizes, of a batch's
    mean and variance.

    Args:
        model: A built model.
        data: What to run it on. Targets are ignored.

    Raises:
        ValueError: If the model has no such layer.
    """

    def __init__(self, model: Any, data: RepeatedData) -> None:
        self._model = model
        self._data = data
        self._layers = [
            layer
            for layer in reachable.sublayers(model)
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        if not self._layers:
            raise ValueError(
                f"Model {model.name!r} has no `keras.layers.BatchNormalization` to recalibrate. "
                "Expected recalibrate=None."
            )
        self._seen: list[Calls] = [[] for _ in self._layers]
        with model.distribute_strategy.scope():
            self._observer = BatchFunction(self._observe)
            self._observer.compile(run_eagerly=model.run_eagerly, jit_compile=False)

    @contextlib.contextmanager
    def recalibrated(self) -> Iterator[None]:
        """Inside, the statistics are those of the model as it is now; after, what they were."""
        # All of their variables: renormalization has more.
        before = Snapshot([variable for layer in self._layers for variable in layer.variables])
        try:
            self._estimate()
            yield
        finally:
            before.restore()

    def _estimate(self) -> None:
        with contextlib.ExitStack() as stack:
            for layer, calls in zip(self._layers, self._seen, strict=True):
                stack.enter_context(_as_in_training(layer, calls))
            batches = self._observer.predict(**self._data.inputs(), verbose=0)
        if not any(batches):
            raise ValueError(
                f"Model {self._model.name!r} calls its BatchNormalization layers where they cannot be "
                "recalibrated, such as in a `tf.function` of its own. Expected recalibrate=None."
            )
        for layer, calls in zip(self._layers, batches, strict=True):
            if calls:  # Else this model does not call it.
                sizes, means, variances = (
                    np.concatenate(x, dtype=float) for x in zip(*calls, strict=True)
                )
                layer.moving_mean.assign(np.average(means, 0, sizes[:, 0]))
                layer.moving_variance.assign(np.average(variances, 0, sizes[:, 0]))

    def _observe(self, x: Any) -> list[Calls]:
        for calls in self._seen:
            calls.clear()
        self._model(x, training=False)
        return [list(calls) for calls in self._seen]


@contextlib.contextmanager
def _as_in_training(layer: Any, calls: Calls) -> Iterator[None]:
    """Has a layer behave as in training, whatever it is told, and notes each batch's statistics."""
    call, trainable = layer.call, layer.trainable

    def observed(inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Any:
        outputs = call(inputs, training=True, mask=mask)
        # Without momentum, these are the batch's own.
        statistics = stored_values([layer.moving_mean, layer.moving_variance])
        size = keras.ops.cast(keras.ops.shape(inputs)[0], "float32")
        calls.append([keras.ops.reshape(each, (1, -1)) for each in (size, *statistics)])
        return outputs

    with replaced(layer, momentum=0.0, call=observed):
        try:
            if not trainable:  # Frozen, it would keep to its statistics.
                layer.trainable = True
            yield
        finally:
            if not trainable:
                layer.trainable = False

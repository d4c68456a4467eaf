"""The model that is fitted: whether noise can train it, and building it from its data."""

from typing import Any

import keras

from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.building import build


def refuse_several_workers(model: Any) -> None:
    """Raises if replicas of a model are trained by other processes.

    Keras 3 cannot `fit` there: https://github.com/keras-team/keras/issues/20585 (3.5 to 3.15). Where it is
    patched to, replicas would have to be counted over all workers for `per_replica`.
    """
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    here = 1 if replicas == 1 else len(strategy.extended.worker_devices)
    if replicas > here:
        raise ValueError(
            f"`WeightNoiseCallback` cannot train model {model.name!r} on several workers, as Keras's `fit` "
            "cannot. Expected all replicas in one process, or a training loop of your own: call "
            "`keras_weightnoise.noisy_call` in a function that `strategy.run` runs. "
            f"Received: strategy={type(strategy).__name__}, with {replicas} replicas, {here} of them in "
            "this process"
        )


def is_built(model: Any) -> bool:
    """Whether a model and all layers in it are built."""
    return all(layer.built for layer in reachable.sublayers(model))


def build_from_data(model: Any, element_spec: Any) -> None:
    """Builds a model from the shapes of its data, as Keras itself would in its first step."""
    if (
        isinstance(element_spec, tuple)
        and len(element_spec) == 1
        and isinstance(element_spec[0], tuple)
    ):
        element_spec = element_spec[0]
    if type(model).call is keras.Model.call:
        return  # It is trained by other means than being called.
    inputs, _, _ = keras.utils.unpack_x_y_sample_weight(element_spec)
    try:
        build(model, (inputs,), {})
    except Exception as error:
        raise ValueError(
            f"Model {model.name!r} cannot be built from its data alone. Expected a built model. Build it, "
            f"or call it once on a batch, before `fit`. Received: data of {inputs}"
        ) from error

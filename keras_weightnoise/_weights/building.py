"""Layers that are not built yet: making their variables."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.reachable import Layer


def build(layer: Layer, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Builds a layer that is not built yet as its first call with these arguments would."""
    if layer.built:
        return

    # A call with symbolic tensors builds, computes nothing and assigns nothing.
    def symbolic(x: Any) -> Any:
        if not (hasattr(x, "shape") and hasattr(x, "dtype")):
            return x
        return keras.KerasTensor(x.shape, keras.backend.standardize_dtype(x.dtype))

    layer(
        *keras.tree.map_structure(symbolic, tuple(args)),
        **keras.tree.map_structure(symbolic, kwargs),
    )


def built_by_calling(layer: Layer) -> bool:
    """Whether the layer has parts to build, but no `build` that does it: its first call will."""
    return type(layer).build is keras.Layer.build and not all(
        part.built for part in reachable.sublayers(layer) if part is not layer
    )

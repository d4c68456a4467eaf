"""The plane in which a run went through the weights."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.kernels import is_float
from keras_weightnoise._weights.state import Snapshot, reachable_variables
from keras_weightnoise._weights.values import stored_values
from keras_weightnoise.analysis._directions import (
    Direction,
    Directions,
    check_same_shapes,
    differences,
)

Array = npt.NDArray[Any]

_NAMES = ("first component", "second component")


def principal_directions(model: Any, trajectory: Any, count: Any) -> Directions:
    """The principal components of the weights of a run, which ends at the model.

    They are found in the learned weights. What else a model keeps, such as BatchNormalization's statistics,
    moves along. Each is as long as the run extends along it, and begins on the left.

    Args:
        model: A built model.
        trajectory: See `loss_landscape`.
        count: How many directions: 1 or 2.
    """
    if isinstance(count, bool) or count not in (1, 2):
        raise ValueError(
            "Invalid `directions`. Expected 1 or 2 along a trajectory, which says itself where it leads. "
            f"Received: directions={count!r}"
        )
    if not isinstance(trajectory, list | tuple) or len(trajectory) < count:
        raise ValueError(
            f"Invalid `trajectory`. Expected a list of at least {count} of files, models, or lists of "
            f"arrays. Received: trajectory={trajectory!r}"
        )
    moved = [variable for variable in model.weights if is_float(variable)]
    here = stored_values(moved)
    ways = [differences(here, _weights_of(model, each)) for each in trajectory]
    learned = {id(variable) for variable in reachable.learned(model)}
    products = _products(
        [[d for d, v in zip(w, moved, strict=True) if id(v) in learned] for w in ways]
    )
    coefficients, shares = _principal_components(products, count)
    along = products @ coefficients
    # Each from left to right, and 1 long.
    coefficients *= np.where(along[0] > 0.0, -1.0, 1.0)
    along = products @ coefficients
    extents = np.ptp(along, axis=0)
    vectors = [
        _combine(ways, extent * c) for extent, c in zip(extents, coefficients.T, strict=True)
    ]
    labels = [f"{n}, {s:.1%} of variance" for n, s in zip(_NAMES, shares, strict=False)]
    return Directions(moved, vectors, labels, along / extents)


def _products(ways: Sequence[Direction]) -> Array:
    """The inner products of the ways to each weights of a run, the last of which are the model's own."""
    count = len(ways)
    products = np.zeros((count + 1, count + 1))
    for parts in zip(*ways, strict=True):
        rows = np.stack([np.ravel(part) for part in parts])
        products[:count, :count] += rows @ rows.T
    return products


def _principal_components(products: Array, count: int) -> tuple[Array, Array]:
    """What to multiply the ways with to get directions of length 1; and their shares of the variance."""
    centred = products - products.mean(axis=0) - products.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(centred + products.mean())
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    total = np.trace(centred + products.mean())
    if not values[-1] > 1e-10 * total > 0.0:
        raise ValueError(
            f"Invalid `trajectory`. Expected weights that differ from each other and from the model's in at "
            f"least {count} directions. Received: variances {values} along the first of them"
        )
    return vectors / np.sqrt(values), values / total


def _combine(ways: Sequence[Direction], coefficients: Array) -> Direction:
    return [
        tf.add_n([c * part for c, part in zip(coefficients[:-1], parts, strict=True)])
        for parts in zip(*ways, strict=True)
    ]


def _weights_of(model: Any, source: Any) -> list[Tensor]:
    """The float weights that a file, a model, or a list of arrays has for a model."""
    if isinstance(source, str | os.PathLike):
        return _read(model, source)
    weights = source.weights if isinstance(source, keras.Model) else source
    if not isinstance(weights, list | tuple):
        raise TypeError(
            "Invalid `trajectory`. Expected files of weights, models, or lists of arrays as `get_weights` "
            f"returns. Received: {source!r} (of type {type(source).__name__})"
        )
    name = getattr(source, "name", "a list of arrays")
    check_same_shapes("trajectory", model.weights, weights, name)
    values = stored_values(weights) if weights is not source else map(tf.convert_to_tensor, weights)
    return [v for v, w in zip(values, model.weights, strict=True) if is_float(w)]


def _read(model: Any, path: str | os.PathLike[str]) -> list[Tensor]:
    """The float weights in a file, by way of the model, which is afterwards what it was."""
    others = [v for optimizer in reachable.optimizers(model) for v in optimizer.variables]
    before = Snapshot([*reachable_variables(model), *others])
    try:
        with warnings.catch_warnings():
            # A model that is only evaluated has no state of the optimizer to read into.
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            model.load_weights(path)
        return stored_values([variable for variable in model.weights if is_float(variable)])
    finally:
        before.restore()

"""Directions through the weights of a model: random ones, and those to other models."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.kernels import is_float
from keras_weightnoise._weights.values import stored_values
from keras_weightnoise.models.perturb import PerturbedWeights
from keras_weightnoise.noises import Gaussian

Normalize = Literal["filter", "variable"]
Direction = list[Tensor]  # For each variable, in float64.


@dataclasses.dataclass(frozen=True, eq=False)
class Directions:
    """Where a landscape goes.

    Attributes:
        moved: The variables that move.
        vectors: The directions.
        labels: What they are called.
        trajectory: Of a run, the coordinates of its weights, of shape (weights, directions).
    """

    moved: list[Any]
    vectors: list[Direction]
    labels: list[str]
    trajectory: npt.NDArray[Any] | None = None


def random_directions(
    model: Any, count: int, variables: Any, exclude: Any, seed: int, normalize: Normalize | None
) -> Directions:
    """Random directions: see `loss_landscape`."""
    noisy = PerturbedWeights(model, Gaussian(1.0), variables, exclude, seed)
    targets = [target for _, each in noisy.assigned for target in each]
    clean = stored_values(noisy.variables)
    nothing = [tf.zeros_like(value, tf.float32) for value in clean]
    directions = []
    for step in range(count):
        direction = []
        for target, w, n in zip(targets, clean, noisy.draw(nothing, step), strict=True):
            axes = target.axes if normalize == "filter" else tuple(range(len(w.shape)))
            d = tf.cast(n, tf.float64)
            if normalize is not None:
                d *= tf.math.divide_no_nan(_norm(tf.cast(w, tf.float64), axes), _norm(d, axes))
            direction.append(d)
        directions.append(direction)
    labels = ["first direction", "second direction"] if count == 2 else ["random direction"]
    return Directions(noisy.variables, directions, labels)


def _norm(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return tf.sqrt(tf.reduce_sum(tf.square(x), axes, keepdims=True))


def directions_to(model: Any, others: Sequence[Any]) -> Directions:
    """The ways to other models, with all that differs between them."""
    places = [i for i, variable in enumerate(model.variables) if is_float(variable)]
    moved = [model.variables[i] for i in places]
    here = stored_values(moved)
    vectors = [
        differences(here, stored_values([other.variables[i] for i in places])) for other in others
    ]
    for other, vector in zip(others, vectors, strict=True):
        if not any(bool(tf.reduce_any(each != 0.0)) for each in vector):
            raise ValueError(
                "Invalid `directions`. Expected another model, with weights of its own. "
                f"Received: {other.name!r}, whose weights are those of the model"
            )
    return Directions(moved, vectors, [f"towards {other.name!r}" for other in others])


def differences(here: Sequence[Tensor], there: Sequence[Tensor]) -> Direction:
    """The way from weights to others."""
    return [
        tf.cast(b, tf.float64) - tf.cast(a, tf.float64) for a, b in zip(here, there, strict=True)
    ]


def check_directions(model: Any, directions: Any) -> list[Any] | None:
    """The models that directions lead to, or `None` if they are random."""
    if isinstance(directions, int) and not isinstance(directions, bool) and directions in (1, 2):
        return None
    others = list(directions) if isinstance(directions, list | tuple) else [directions]
    if not (len(others) in (1, 2) and all(isinstance(other, keras.Model) for other in others)):
        raise ValueError(
            "Invalid `directions`. Expected 1, 2, a `keras.Model`, or a list of one or two of these. "
            f"Received: directions={directions!r}"
        )
    for other in others:
        check_same_shapes("directions", model.variables, other.variables, other.name)
    return others


def check_same_shapes(name: str, mine: Sequence[Any], others: Sequence[Any], what: Any) -> None:
    """Raises unless weights have the shapes that a model's have."""
    shapes, found = ([tuple(np.shape(each)) for each in every] for every in (mine, others))
    if shapes != found:
        raise ValueError(
            f"Invalid `{name}`. Expected weights of the shapes that the model's have, {shapes}. "
            f"Received: {what!r}, with weights of the shapes {found}"
        )

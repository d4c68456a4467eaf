"""The optimizers of a model, and the steps they count.

An optimizer may hold others and pass its updates on to them, as `LossScaleOptimizer` and `MultiOptimizer`
do. Each of them counts the same step in `iterations` of its own, or does not count.
"""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from keras_weightnoise._not_public import updated_variables
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.reachable import inner_optimizers

Optimizer = Any  # keras.optimizers.Optimizer; Keras ships no types.


def held_optimizers(model: Any) -> list[Optimizer]:
    """The optimizers that a model or a layer in it holds as attributes, without those inside of others."""
    found = reachable.optimizers(model)
    inside = {id(each) for optimizer in found for each in inner_optimizers(optimizer)}
    return [optimizer for optimizer in found if id(optimizer) not in inside]


def steps_taken(optimizer: Optimizer) -> Tensor:
    """The steps that an optimizer has counted, a scalar `int64` tensor.

    Of one that passes updates on, those of the optimizers that make them: they know how many gradients they
    accumulate. Each is given a part of the variables in each step, so that the largest count is right.
    """
    counts = [
        tf.cast(tf.convert_to_tensor(each.iterations), tf.int64) for each in _innermost(optimizer)
    ]
    return counts[0] if len(counts) == 1 else tf.reduce_max(tf.stack(counts))


def counters(optimizer: Optimizer) -> list[Any]:
    """The variables that count the steps of an optimizer: integers without a shape."""
    return [
        variable
        for each in _innermost(optimizer)
        for variable in each.variables
        if variable.shape == () and "int" in variable.dtype
    ]


def built_with(optimizer: Optimizer) -> list[Any]:
    """The variables that an optimizer, or those inside of it, were built with."""
    found = (optimizer, *inner_optimizers(optimizer))
    return [variable for each in found for variable in updated_variables(each)]


def not_among(called: Iterable[Optimizer], optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """Those optimizers that were not called, nor any inside of them."""
    ids = {id(each) for each in called}
    return [
        each for each in optimizers if not ids & {id(o) for o in (each, *inner_optimizers(each))}
    ]


def reads_all(optimizer: Optimizer) -> bool:
    """Whether an update reads variables that it is not given: those an average (EMA) is kept of."""
    return any(
        getattr(each, "use_ema", False) for each in (optimizer, *inner_optimizers(optimizer))
    )


def _innermost(optimizer: Optimizer) -> list[Optimizer]:
    inner = inner_optimizers(optimizer)
    return [each for each in inner if not inner_optimizers(each)] or [optimizer]

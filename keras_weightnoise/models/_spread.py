"""How far the members of an ensemble are apart: sums over members, and what is made of them."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise._types import Tensor

# Mean, sum of squared deviations from it, and mean entropy of the members so far.
State = tuple[Tensor, Tensor, Tensor]


class EnsembleSpread(NamedTuple):
    """What `WeightNoiseEnsemble.predict_spread` returns, each in the structure of the model's outputs.

    Attributes:
        mean: The mean over members, in the shape of the model's output.
        stddev: The standard deviation over members (their mean squared deviation's root), in that shape.
        predictive_entropy: The entropy of the mean in nats, without the last axis; `None` for an output
            that is no class probabilities: see `WeightNoiseEnsemble.predict_spread`.
        mutual_information: The entropy of the mean less the mean of the entropies, in nats: what the
            members disagree about. `None` where the entropy is.
    """

    mean: Any
    stddev: Any
    predictive_entropy: Any
    mutual_information: Any


def start(x: Tensor) -> State:
    """The state of one member with outputs `x`."""
    x = widen(x)
    return x, tf.zeros_like(x), _entropy(x)


def update(state: State, x: Tensor, count: Tensor) -> State:
    """The state of `count` members, the last with outputs `x` (Welford's algorithm)."""
    mean, squares, entropy = state
    x = widen(x)
    new = update_mean(mean, x, count)
    squares += (x - mean) * (x - new)
    return new, squares, update_mean(entropy, _entropy(x), count)


def summarize(state: State, members: int) -> tuple[Tensor, ...]:
    """Mean, standard deviation, entropy of the mean, and mean entropy."""
    mean, squares, entropy = state
    return mean, tf.sqrt(squares / members), _entropy(mean), entropy


def assemble(mean: Any, stddev: Any, entropy: Any, mean_entropy: Any) -> EnsembleSpread:
    """Makes an `EnsembleSpread` of what `summarize` returned, in the structure of the outputs."""

    def if_known(value: Any, h: Any) -> Any:
        return None if np.isnan(h).any() else value

    def information(h: Any, mean_h: Any) -> Any:
        return if_known(np.maximum(h - mean_h, 0), mean_h)  # Rounding apart, never negative.

    return EnsembleSpread(
        mean,
        stddev,
        keras.tree.map_structure(if_known, entropy, mean_entropy),
        keras.tree.map_structure(information, entropy, mean_entropy),
    )


def widen(x: Tensor) -> Tensor:
    """`x` in at least `float32`."""
    if not (x.dtype.is_floating or x.dtype.is_integer or x.dtype.is_bool):
        raise TypeError(
            "There is no mean over members of what the model returns. Expected tensors of real numbers. "
            f"Received: an output of dtype {x.dtype.name!r}"
        )
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


def update_mean(mean: Tensor, x: Tensor, count: Tensor) -> Tensor:
    """The mean of `count` values, from that of all but the last: of equal values, that value."""
    return mean + (tf.cast(x, mean.dtype) - mean) / tf.cast(count, mean.dtype)


def _entropy(p: Tensor) -> Tensor:
    """The entropies of distributions on the last axis, in nats; NaN of what is none.

    A single entry is the probability of one of two classes.
    """
    if p.shape.rank == 1:
        p = p[:, tf.newaxis]
    if p.shape[-1] == 1:
        p = tf.concat([1 - p, p], -1)
    entropy = -tf.reduce_sum(tf.math.xlogy(p, p), -1)
    # Where p is negative, this is NaN by now. Softmax in low precision sums to one within 0.01.
    sums_to_one = tf.abs(tf.reduce_sum(p, -1) - 1) < 0.01
    return tf.where(sums_to_one, entropy, tf.constant(math.nan, p.dtype))

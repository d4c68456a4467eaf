"""What the size of additive noise is relative to."""

from collections.abc import Callable
from typing import Literal, get_args

import tensorflow as tf

from keras_weightnoise._checks import check_choice
from keras_weightnoise._types import Tensor

Scale = Literal["std", "rms", "max", "range", "channel_max", "filter_norm", "weight"]


def check_scale(relative_to: object) -> None:
    """Raises unless `relative_to` is `None` or names a scale."""
    check_choice("relative_to", relative_to, (None, *get_args(Scale)))


def scale(
    w: Tensor,
    relative_to: Scale | None,
    axes: tuple[int, ...],
    over: tuple[int, ...] | None = None,
) -> Tensor:
    """The scale of a weight that noise is relative to, without gradient.

    Args:
        w: The clean weight.
        relative_to: See `Gaussian`.
        axes: The axes of `w` that one output channel extends over.
        over: The axes that what has a scale of its own extends over. Defaults to `None`: all.

    Returns:
        A tensor that broadcasts against `w`.
    """
    w = tf.stop_gradient(w)
    match relative_to:
        case None:
            return tf.ones((), w.dtype)
        case "std":
            return tf.math.reduce_std(w, over, keepdims=over is not None)
        case "rms":
            return tf.sqrt(tf.reduce_mean(tf.square(w), over, keepdims=over is not None))
        case "max":
            return largest(w, over)
        case "range":
            return greatest_value(w, over) - least_value(w, over)
        case "channel_max":
            return largest(w, axes)
        case "filter_norm":
            return tf.sqrt(tf.reduce_sum(tf.square(w), axes, keepdims=True))
        case "weight":
            return tf.abs(w)


def largest(w: Tensor, over: tuple[int, ...] | None) -> Tensor:
    """The largest |w| over these axes, which are kept; or (`None`) of all."""
    # By its ends: |w| itself would be another tensor of its size.
    return tf.maximum(tf.abs(greatest_value(w, over)), tf.abs(least_value(w, over)))


def greatest_value(w: Tensor, over: tuple[int, ...] | None) -> Tensor:
    """The greatest w: see `largest`."""
    return _reduced(tf.reduce_max, w, over)


def least_value(w: Tensor, over: tuple[int, ...] | None) -> Tensor:
    """The least w: see `largest`."""
    return _reduced(tf.reduce_min, w, over)


def _reduced(reduce: Callable[..., Tensor], w: Tensor, over: tuple[int, ...] | None) -> Tensor:
    if over is None:
        return reduce(w)
    for axis in over:  # One after another: TensorFlow transposes for axes that are not neighbours.
        w = reduce(w, axis, keepdims=True)
    return w

"""What the size of additive noise is relative to."""

from typing import Literal, get_args

import tensorflow as tf

from keras_weightnoise._checks import check_choice
from keras_weightnoise._types import Tensor

Scale = Literal["std", "rms", "max", "range", "channel_max", "filter_norm", "weight"]


def check_scale(relative_to: object) -> None:
    """Raises unless `relative_to` is `None` or names a scale."""
    check_choice("relative_to", relative_to, (None, *get_args(Scale)))


def scale(w: Tensor, relative_to: Scale | None, axes: tuple[int, ...]) -> Tensor:
    """The scale of a weight that noise is relative to, without gradient.

    Args:
        w: The clean weight.
        relative_to: See `Gaussian`.
        axes: The axes of `w` that one output channel extends over.

    Returns:
        A tensor that broadcasts against `w`.
    """
    w = tf.stop_gradient(w)
    match relative_to:
        case None:
            return tf.ones((), w.dtype)
        case "std":
            return tf.math.reduce_std(w)
        case "rms":
            return tf.sqrt(tf.reduce_mean(tf.square(w)))
        case "max":
            return tf.reduce_max(tf.abs(w))
        case "range":
            return tf.reduce_max(w) - tf.reduce_min(w)
        case "channel_max":
            return tf.reduce_max(tf.abs(w), axes, keepdims=True)
        case "filter_norm":
            return tf.sqrt(tf.reduce_sum(tf.square(w), axes, keepdims=True))
        case "weight":
            return tf.abs(w)

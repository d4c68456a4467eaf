"""The inverse of softplus: what a trained standard deviation begins with."""

import math
from typing import Any

import tensorflow as tf

from keras_weightnoise._checks import is_number


def softplus_inverse(y: Any) -> Any:
    """x such that softplus(x) = log(1 + exp(x)) is `y`: a number, or a tensor."""
    if is_number(y):
        return y + math.log(-math.expm1(-y))
    return y + tf.math.log(-tf.math.expm1(-y))

"""One draw for many weights: from clean values, a seed and a step to perturbed values."""

from collections.abc import Sequence

import tensorflow as tf

from keras_weightnoise import sampling
from keras_weightnoise.noises import Noise
from keras_weightnoise.sampling import Tensor
from keras_weightnoise.selection import Target


def perturb(
    noise: Noise,
    targets: Sequence[Target],
    values: Sequence[Tensor],
    *,
    seed: Tensor,
    step: Tensor,
    magnitude: Tensor,
) -> list[Tensor]:
    """Returns the perturbed values, a pure function of the arguments.

    Args:
        noise: The noise model.
        targets: What is perturbed.
        values: The clean value of each target, in its own dtype.
        seed: A scalar integer, modulo 2^32.
        step: A scalar integer, modulo 2^32: draws of different steps are independent.
        magnitude: The noise's magnitude, a scalar `float32`.

    Returns:
        A list of tensors, each in its target's shape and dtype. The arithmetic is done in at least
        `float32` and rounded once.
    """
    units = sampling.draw(
        noise.law,
        sampling.make_key(seed, step),
        [target.start for target in targets],
        [tuple(target.variable.shape) for target in targets],
    )
    results = []
    for target, value, unit in zip(targets, values, units, strict=True):
        dtype = tf.float64 if value.dtype == tf.float64 else tf.float32
        perturbed = noise.perturb(
            tf.cast(value, dtype), tf.cast(unit, dtype), tf.cast(magnitude, dtype), target.axes
        )
        results.append(tf.cast(perturbed, value.dtype))
    return results

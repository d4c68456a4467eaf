"""How large noise is in a variable, and whether the variable's dtype can hold it."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_weightnoise._random.laws import Law
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.perturbation import perturb
from keras_weightnoise._weights.selection import Target
from keras_weightnoise.noises import Noise
from keras_weightnoise.noises.additive import Additive

_SMALL = 2**14  # Elements: fewer are copied sooner than an op cuts a corner from them.


def root_mean_squares(
    noise: Noise, targets: Sequence[Target], magnitudes: Sequence[Tensor]
) -> list[float]:
    """The size of the noise in each target, the root of the mean of (w' - w)^2.

    Of additive noise, the expectation; of other noise, what one draw has.

    Args:
        noise: The noise model.
        targets: What is perturbed.
        magnitudes: What `noise.magnitudes_at` returns.
    """
    clean = [tf.cast(tf.convert_to_tensor(t.variable.value), tf.float64) for t in targets]
    noisy = _perturb_typically(noise, targets, clean, magnitudes, lambda law: law.stddev)
    return [float(tf.sqrt(tf.reduce_mean((a - b) ** 2))) for a, b in zip(noisy, clean, strict=True)]


def warn_below_resolution(
    noise: Noise, targets: Sequence[Target], magnitudes: Sequence[Tensor]
) -> None:
    """Warns of the variables that are too coarse for the noise.

    That is where more than half of a noise (of the sum of its squares) falls on weights that come back
    unchanged, because it is less than half the distance to the next number of their dtype. Of additive
    noise, the number is looked at that has half of it below and half above; of other noise, one draw.

    Args:
        noise: The noise model.
        targets: What is perturbed.
        magnitudes: What `noise.magnitudes_at` returns.
    """
    for member, size in zip(noise.members, map(float, magnitudes), strict=True):
        values = [tf.convert_to_tensor(target.variable.value) for target in targets]
        if isinstance(member, Additive):
            # What moves every weight shows in a corner of them.
            values = [_corner(value) for value in values]
        # In double precision, what is lost to the variable's dtype is still there.
        clean = [np.asarray(value, np.float64) for value in values]
        noisy = _typical(member, targets, clean, size)
        coarse = [
            f"{target.variable.path} ({target.variable.dtype})"
            for target, before, after in zip(targets, clean, noisy, strict=True)
            if _is_lost(before, after, target.variable.dtype)
        ]
        if coarse:
            warnings.warn(
                f"Most of the noise is lost to rounding in {', '.join(coarse)}. Expected a "
                "magnitude above the resolution of the variable's dtype at the size of its "
                f"weights. Received: noise={member}, of magnitude {size:g}",
                stacklevel=3,
            )


def _corner(value: Tensor) -> np.ndarray:
    if value.shape.num_elements() > _SMALL:
        value = tf.slice(value, [0] * len(value.shape), [min(size, 16) for size in value.shape])
    corner: np.ndarray = value.numpy()[tuple(slice(16) for _ in value.shape)]
    return corner


def _typical(
    member: Noise, targets: Sequence[Target], clean: Sequence[np.ndarray], size: float
) -> list[np.ndarray]:
    """Values perturbed as `warn_below_resolution` looks at them."""
    if not isinstance(member, Additive) or member.relative_to is not None:
        values = list(map(tf.constant, clean))
        noisy = _perturb_typically(member, targets, values, [size], lambda law: law.half_power)
        return [each.numpy() for each in noisy]
    # All at once: in a large model, eager ops on each variable take longer than its first step's noise.
    together = tf.constant(np.concatenate([each.ravel() for each in clean]))
    (noisy,) = _perturb_typically(
        member, targets[:1], [together], [size], lambda law: law.half_power
    )
    ends = np.cumsum([each.size for each in clean])[:-1]
    parts = np.split(noisy.numpy(), ends)
    return [part.reshape(each.shape) for part, each in zip(parts, clean, strict=True)]


def _is_lost(before: np.ndarray, after: np.ndarray, dtype: str) -> bool:
    """Whether more than half of the sum of squares of a noise is gone in a dtype."""
    narrow = tf.as_dtype(dtype).as_numpy_dtype
    with np.errstate(all="ignore"):  # Weights may be infinite, there or already here.
        power = np.square(after - before)
        return bool(
            2.0 * np.sum(power[before.astype(narrow) == after.astype(narrow)]) > np.sum(power)
        )


def _perturb_typically(
    noise: Noise,
    targets: Sequence[Target],
    clean: Sequence[Tensor],
    magnitudes: Sequence[Tensor],
    typical: Callable[[Law], float],
) -> list[Tensor]:
    """Perturbs values in `float64`: additively by the number that stands for its law, else by a draw."""
    if not isinstance(noise, Additive):
        return perturb(noise, targets, clean, seed=0, step=0, magnitudes=magnitudes)
    size = tf.cast(magnitudes[0], tf.float64)
    return [
        noise.perturb(
            w, [typical(draw.law) * tf.ones_like(w) for draw in noise.draws], size, t.axes
        )
        for w, t in zip(clean, targets, strict=True)
    ]

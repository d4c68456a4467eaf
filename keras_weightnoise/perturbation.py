"""One draw for many weights: from clean values, a seed and a step to perturbed values."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_weightnoise import sampling
from keras_weightnoise.noises import Noise
from keras_weightnoise.noises.additive import Additive
from keras_weightnoise.sampling import Tensor
from keras_weightnoise.selection import Target

Draws = list[list[Tensor] | None]

# The standard deviations of the draws.
_UNIT = {"normal": 1.0, "truncated_normal": 0.8796256610342398, "uniform": 3**-0.5, "sign": 1.0}


# AutoGraph has nothing to convert here, and TensorFlow 2.18 stumbles over `match`.
@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def perturb(
    noise: Noise,
    targets: Sequence[Target],
    values: Sequence[Tensor],
    *,
    seed: Tensor,
    step: Tensor,
    magnitude: Tensor,
    replica: int = 0,
) -> list[Tensor]:
    """Returns the perturbed values, a pure function of the arguments.

    The gradient of a perturbed value is passed straight through to the clean one. Where the
    magnitude is 0, nothing is drawn, and the values come back bit for bit.

    Args:
        noise: The noise model.
        targets: What is perturbed.
        values: The clean value of each target, in its own dtype.
        seed: A scalar integer, modulo 2^32.
        step: A scalar integer, modulo 2^32: draws of different steps are independent.
        magnitude: What `noise.magnitude_at` returns: a scalar, or an entry for each member.
        replica: Draws of different replicas are independent. Defaults to `0`.

    Returns:
        A list of tensors, each in its target's shape and dtype. The arithmetic is done in at least
        `float32` and rounded once.
    """
    results: list[Tensor] = perturb_assigned(
        [(noise, targets)],
        values,
        seed=seed,
        step=step,
        magnitudes=[magnitude],
        replica=replica,
    )
    return results


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def perturb_assigned(
    assigned: Sequence[tuple[Noise, Sequence[Target]]],
    values: Sequence[Tensor],
    *,
    seed: Tensor,
    step: Tensor,
    magnitudes: Sequence[Tensor],
    replica: int = 0,
    draws: Sequence[Draws] | None = None,
    differentiable: bool = True,
) -> list[Tensor]:
    """Perturbs the variables of several noises, each as `perturb` does.

    Args:
        assigned: Pairs of a noise and its targets, as `assignment.assign` returns.
        values: The clean values of all targets, in that order.
        seed: See `perturb`.
        step: See `perturb`.
        magnitudes: For each noise, what its `magnitude_at` returns.
        replica: See `perturb`.
        draws: For each noise, what `draw` returns, where it is at hand. Defaults to `None`.
        differentiable: Whether gradients will be asked for. Without, there are fewer ops to trace.
            Defaults to `True`.
    """

    sizes = [tf.cast(magnitude, tf.float32) for magnitude in magnitudes]

    def perturbed(*clean: Tensor) -> list[Tensor]:
        results: list[Tensor] = []
        for i, (noise, targets) in enumerate(assigned):
            own = clean[len(results) : len(results) + len(targets)]
            if draws is None:
                numbers = functools.partial(
                    draw, noise, targets, seed=seed, step=step, replica=replica
                )
            else:
                numbers = functools.partial(draws.__getitem__, i)
            results += _perturb_if_active(noise, targets, own, sizes[i], numbers)
        return results

    if differentiable:
        perturbed = tf.grad_pass_through(perturbed)
    return list(perturbed(*values))


def draw(
    noise: Noise, targets: Sequence[Target], *, seed: Tensor, step: Tensor, replica: int = 0
) -> Draws:
    """The random numbers that a noise wants: for each member one per element of each target, or `None`.

    Args:
        noise: The noise model.
        targets: What is perturbed.
        seed: See `perturb`.
        step: See `perturb`.
        replica: See `perturb`.
    """
    key = sampling.make_key(seed, step)
    starts = [target.start for target in targets]
    shapes = [tuple(target.variable.shape) for target in targets]
    stream = replica * len(noise.members)
    draws: Draws = []
    for member in noise.members:
        if member.law is None:
            draws.append(None)
        else:
            draws.append(sampling.draw(member.law, key, starts, shapes, stream))
            stream += 1
    return draws


def is_active(*magnitudes: Tensor) -> bool | Tensor:
    """Whether noise of any of these magnitudes does something: a bool where that is known by now."""
    known = [tf.get_static_value(magnitude) for magnitude in magnitudes]
    certain = any(np.any(value) for value in known if value is not None)
    if certain or all(value is not None for value in known):
        return certain
    return tf.reduce_any([tf.reduce_any(magnitude != 0.0) for magnitude in magnitudes])


def same_bits(a: Tensor, b: Tensor) -> Tensor:
    """Whether two tensors of one dtype are the same bit for bit. NaN is like NaN, 0 unlike -0."""
    bits = {1: tf.int8, 2: tf.int16, 4: tf.int32, 8: tf.int64}[a.dtype.size]
    return tf.reduce_all(tf.equal(tf.bitcast(a, bits), tf.bitcast(b, bits)))


def _perturb_if_active(
    noise: Noise,
    targets: Sequence[Target],
    values: Sequence[Tensor],
    magnitude: Tensor,
    draws: Callable[[], Draws],
) -> list[Tensor]:
    def noisy() -> list[Tensor]:
        return _apply(noise, targets, values, magnitude, draws())

    active = is_active(magnitude)
    if isinstance(active, bool):
        return noisy() if active else list(values)
    return tf.cond(active, noisy, lambda: list(values))  # type: ignore[no-any-return]


def _apply(
    noise: Noise,
    targets: Sequence[Target],
    values: Sequence[Tensor],
    magnitude: Tensor,
    draws: Draws,
) -> list[Tensor]:
    sizes = tf.unstack(magnitude) if len(noise.members) > 1 else [magnitude]
    results = [tf.cast(v, tf.float64 if v.dtype == tf.float64 else tf.float32) for v in values]
    for member, size, of_member in zip(noise.members, sizes, draws, strict=True):
        results = [
            member.perturb(
                w, None if n is None else tf.cast(n, w.dtype), tf.cast(size, w.dtype), t.axes
            )
            for w, n, t in zip(results, of_member or [None] * len(targets), targets, strict=True)
        ]
    return [tf.cast(w, value.dtype) for w, value in zip(results, values, strict=True)]


def root_mean_squares(noise: Noise, targets: Sequence[Target], magnitude: Tensor) -> list[float]:
    """The size of the noise in each target, the root of the mean of (w' - w)^2.

    Of additive noise, the expectation; of other noise, what one draw has.

    Args:
        noise: The noise model.
        targets: What is perturbed.
        magnitude: What `noise.magnitude_at` returns.
    """
    clean = [tf.cast(tf.convert_to_tensor(t.variable.value), tf.float64) for t in targets]
    if isinstance(noise, Additive):
        size = tf.cast(magnitude, tf.float64)
        noisy = [
            noise.perturb(
                w, tf.fill(w.shape, tf.cast(_UNIT[noise.law], tf.float64)), size, target.axes
            )
            for w, target in zip(clean, targets, strict=True)
        ]
    else:
        noisy = perturb(noise, targets, clean, seed=0, step=0, magnitude=magnitude)
    return [float(tf.sqrt(tf.reduce_mean((a - b) ** 2))) for a, b in zip(noisy, clean, strict=True)]


def warn_below_resolution(noise: Noise, targets: Sequence[Target], magnitude: Tensor) -> None:
    """Warns of the variables that are too coarse for the noise.

    That is where, in one draw, more than half of a noise (of the sum of its squares) falls on
    weights that come back unchanged, because it is less than half the distance to the next number
    of their dtype.

    Args:
        noise: The noise model.
        targets: What is perturbed.
        magnitude: What `noise.magnitude_at` returns.
    """
    for member, size in zip(noise.members, np.ravel(magnitude), strict=True):
        coarse = []
        # What moves every weight shows in a corner of them.
        parts = _corners(targets) if isinstance(member, Additive) else targets
        # In double precision, what is lost to the variable's dtype is still there.
        clean = [tf.cast(tf.convert_to_tensor(part.variable), tf.float64) for part in parts]
        noisy = perturb(member, parts, clean, seed=0, step=0, magnitude=size)
        for target, before, after in zip(targets, clean, noisy, strict=True):
            dtype = target.variable.dtype
            power = tf.square(after - before)
            lost = tf.where(tf.equal(tf.cast(before, dtype), tf.cast(after, dtype)), power, 0.0)
            if 2.0 * tf.reduce_sum(lost) > tf.reduce_sum(power):
                coarse.append(f"{target.variable.path} ({dtype})")
        if coarse:
            warnings.warn(
                f"Most of the noise is lost to rounding in {', '.join(coarse)}. Expected a "
                "magnitude above the resolution of the variable's dtype at the size of its "
                f"weights. Received: noise={member}, of magnitude {size:g}",
                stacklevel=3,
            )


def _corners(targets: Sequence[Target]) -> list[Target]:
    """The targets cut to at most 16 along each axis, as constants, and next to each other."""
    values = [tf.convert_to_tensor(target.variable.value) for target in targets]
    corners = [value[tuple(slice(16) for _ in value.shape)] for value in values]
    starts = sampling.offsets([corner.shape for corner in corners])
    return [
        dataclasses.replace(target, variable=corner, start=start)
        for target, corner, start in zip(targets, corners, starts, strict=True)
    ]

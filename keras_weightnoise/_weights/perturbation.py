"""One draw for many weights: from clean values, a seed and a step to perturbed values."""

import functools
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_weightnoise._random import sampling
from keras_weightnoise._random.sampling import Tensor
from keras_weightnoise._weights.selection import Target
from keras_weightnoise.noises import Noise
from keras_weightnoise.noises.additive import Additive

Draws = list[list[Tensor] | None]

# The standard deviations of the draws.
_UNIT = {
    "normal": 1.0,
    "exact_normal": 1.0,
    "truncated_normal": 0.8796256610342398,
    "uniform": 3**-0.5,
    "sign": 1.0,
}
# The numbers that half of the draws' sum of squares is below.
_HALF = {
    "normal": 1.5381722545,
    "exact_normal": 1.5381722545,
    "truncated_normal": 1.3145250803,
    "uniform": 0.5 ** (1 / 3),
    "sign": 1.0,
}


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
        draws: For each noise, what `draw` returns without a magnitude, where it is at hand. Defaults to
            `None`.
        differentiable: Whether gradients will be asked for. Without, there are fewer ops to trace.
            Defaults to `True`.
    """

    sizes = [tf.cast(magnitude, tf.float32) for magnitude in magnitudes]

    def perturbed(*clean: Tensor) -> list[Tensor]:
        results: list[Tensor] = []
        for i, (noise, targets) in enumerate(assigned):
            own = clean[len(results) : len(results) + len(targets)]
            kept = None if draws is None else draws[i]
            noisy = functools.partial(
                _apply, noise, targets, own, sizes[i], seed, step, replica, kept
            )
            results += _if_active(sizes[i], noisy, own)
        return results

    if not differentiable:
        return perturbed(*values)
    # An eager tape would look inside, and trace kernels for gradients that nobody asks for.
    straight = tf.grad_pass_through(lambda *clean: perturbed(*map(tf.stop_gradient, clean)))
    return list(straight(*values))


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
    return [
        _draw_for(member, targets, key, stream)
        for member, stream in zip(noise.members, _streams(noise, replica), strict=True)
    ]


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


def _if_active(
    magnitude: Tensor, noisy: Callable[[], list[Tensor]], clean: Sequence[Tensor]
) -> list[Tensor]:
    active = is_active(magnitude)
    if isinstance(active, bool):
        return noisy() if active else list(clean)
    return tf.cond(active, noisy, lambda: list(clean))  # type: ignore[no-any-return]


def _apply(
    noise: Noise,
    targets: Sequence[Target],
    values: Sequence[Tensor],
    magnitude: Tensor,
    seed: Tensor,
    step: Tensor,
    replica: int,
    kept: Draws | None,
) -> list[Tensor]:
    key = sampling.make_key(seed, step) if kept is None else None
    sizes = _split_magnitude(noise, magnitude)
    results = [tf.cast(v, tf.float64 if v.dtype == tf.float64 else tf.float32) for v in values]
    streams = _streams(noise, replica)
    for i, (member, size) in enumerate(zip(noise.members, sizes, strict=True)):
        if kept is None and member.law and member.adds_draw:
            starts = [target.start for target in targets]
            results = sampling.add(member.law, key, starts, results, size, streams[i])
            continue
        numbers = _draw_for(member, targets, key, streams[i]) if kept is None else kept[i]
        if numbers and member.adds_draw:
            numbers = [size * n for n in numbers]
        results = [
            member.perturb(
                w, None if n is None else tf.cast(n, w.dtype), tf.cast(size, w.dtype), t.axes
            )
            for w, n, t in zip(results, numbers or [None] * len(targets), targets, strict=True)
        ]
    return [tf.cast(w, value.dtype) for w, value in zip(results, values, strict=True)]


def _draw_for(
    member: Noise, targets: Sequence[Target], key: Tensor, stream: int
) -> list[Tensor] | None:
    if member.law is None:
        return None
    shapes = [tuple(target.variable.shape) for target in targets]
    return sampling.draw(member.law, key, [target.start for target in targets], shapes, stream)


def _streams(noise: Noise, replica: int) -> list[int]:
    """The stream of each member: counted among those that draw."""
    wants = [member.law is not None for member in noise.members]
    return [replica * len(wants) + sum(wants[:i]) for i in range(len(wants))]


def _split_magnitude(noise: Noise, magnitude: Tensor) -> list[Tensor]:
    """The magnitude of each member."""
    return tf.unstack(magnitude) if len(noise.members) > 1 else [magnitude]


def root_mean_squares(noise: Noise, targets: Sequence[Target], magnitude: Tensor) -> list[float]:
    """The size of the noise in each target, the root of the mean of (w' - w)^2.

    Of additive noise, the expectation; of other noise, what one draw has.

    Args:
        noise: The noise model.
        targets: What is perturbed.
        magnitude: What `noise.magnitude_at` returns.
    """
    clean = [tf.cast(tf.convert_to_tensor(t.variable.value), tf.float64) for t in targets]
    noisy = _perturb_typically(noise, targets, clean, magnitude, _UNIT)
    return [float(tf.sqrt(tf.reduce_mean((a - b) ** 2))) for a, b in zip(noisy, clean, strict=True)]


def warn_below_resolution(noise: Noise, targets: Sequence[Target], magnitude: Tensor) -> None:
    """Warns of the variables that are too coarse for the noise.

    That is where more than half of a noise (of the sum of its squares) falls on weights that come back
    unchanged, because it is less than half the distance to the next number of their dtype. Of additive
    noise, the number is looked at that has half of it below and half above; of other noise, one draw.

    Args:
        noise: The noise model.
        targets: What is perturbed.
        magnitude: What `noise.magnitude_at` returns.
    """
    for member, size in zip(noise.members, np.ravel(magnitude), strict=True):
        coarse = []
        values = [tf.convert_to_tensor(target.variable.value) for target in targets]
        if isinstance(member, Additive):
            # What moves every weight shows in a corner of them.
            values = [value[tuple(slice(16) for _ in value.shape)] for value in values]
        # In double precision, what is lost to the variable's dtype is still there.
        clean = [tf.cast(value, tf.float64) for value in values]
        noisy = _perturb_typically(member, targets, clean, size, _HALF)
        for target, before, after in zip(targets, clean, noisy, strict=True):
            if _is_lost(before.numpy(), after.numpy(), target.variable.dtype):
                coarse.append(f"{target.variable.path} ({target.variable.dtype})")
        if coarse:
            warnings.warn(
                f"Most of the noise is lost to rounding in {', '.join(coarse)}. Expected a "
                "magnitude above the resolution of the variable's dtype at the size of its "
                f"weights. Received: noise={member}, of magnitude {size:g}",
                stacklevel=3,
            )


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
    magnitude: Tensor,
    typical: dict[str, float],
) -> list[Tensor]:
    """Perturbs values in `float64`: additively by the number that stands for its law, else by a draw."""
    if not isinstance(noise, Additive):
        return perturb(noise, targets, clean, seed=0, step=0, magnitude=magnitude)  # type: ignore[no-any-return]
    size = tf.cast(magnitude, tf.float64)
    number = typical[noise.law] * (size if noise.adds_draw else 1.0)
    return [noise.perturb(w, number, size, t.axes) for w, t in zip(clean, targets, strict=True)]

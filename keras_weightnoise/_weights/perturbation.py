"""One draw for many weights: from clean values, a seed and a step to perturbed values."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeGuard

import tensorflow as tf

from keras_weightnoise._random import adding, portions
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.activity import both, if_active, is_active
from keras_weightnoise._weights.draws import Numbers, Source, asked_of
from keras_weightnoise._weights.noise_parameters import stddevs_of
from keras_weightnoise._weights.rules import needs_learned
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.values import widen
from keras_weightnoise.noises import Noise
from keras_weightnoise.noises.additive import Additive


def perturb(
    noise: Noise,
    targets: Sequence[Target],
    values: Sequence[Tensor],
    *,
    seed: Tensor,
    step: Tensor,
    magnitudes: Sequence[Tensor],
    chip: Tensor = 0,
    replica: int = 0,
) -> list[Tensor]:
    """Returns the perturbed values, a pure function of the arguments.

    The gradient of a perturbed value is passed straight through to the clean one. Where the noise is off
    at its magnitudes, nothing is drawn, and the values come back bit for bit.

    Args:
        noise: The noise model.
        targets: What is perturbed.
        values: The clean value of each target, in its own dtype.
        seed: A scalar integer, modulo 2^32.
        step: A scalar integer, modulo 2^32: draws of different steps are independent.
        magnitudes: What `noise.magnitudes_at` returns.
        chip: A scalar integer, modulo 2^32: draws that last as long as a chip differ between chips. In
            training 0, elsewhere the number of the draw. Defaults to `0`.
        replica: Draws of different replicas are independent. Defaults to `0`.

    Returns:
        A list of tensors, each in its target's shape and dtype. The arithmetic is done in at least
        `float32` and rounded once.
    """
    return perturb_assigned(
        [(noise, targets)],
        values,
        seed=seed,
        step=step,
        magnitudes=[magnitudes],
        chip=chip,
        replica=replica,
    )


def perturb_assigned(
    assigned: Sequence[tuple[Noise, Sequence[Target]]],
    values: Sequence[Tensor],
    *,
    seed: Tensor,
    step: Tensor,
    magnitudes: Sequence[Sequence[Tensor]],
    chip: Tensor = 0,
    replica: int = 0,
    numbers: Sequence[Numbers] | None = None,
    after: Tensor | None = None,
    differentiable: bool = True,
) -> list[Tensor]:
    """Perturbs the variables of several noises, each as `perturb` does.

    Args:
        assigned: Pairs of a noise and its targets, as `rules.assign` returns.
        values: The clean values of all targets, in that order.
        seed: See `perturb`.
        step: See `perturb`.
        magnitudes: For each noise, what its `magnitudes_at` returns.
        chip: See `perturb`.
        replica: See `perturb`.
        numbers: For each noise, what `draw` returns, where it is at hand. Defaults to `None`.
        after: A scalar bool, true, without which nothing is drawn: so that it is drawn after what that is
            made of. Defaults to `None`.
        differentiable: Whether gradients will be asked for. Without, there are fewer ops to trace.
            Defaults to `True`.
    """
    source = Source(seed, step, chip, replica)
    results: list[Tensor] = []
    for i, (noise, targets) in enumerate(assigned):
        own = values[len(results) : len(results) + len(targets)]
        sizes = [tf.cast(each, tf.float32) for each in magnitudes[i]]
        active = both(is_active([noise], [sizes]), after)
        if active is False:
            results += own
            continue
        apply = functools.partial(
            _apply_to_each,
            noise,
            targets,
            magnitudes=[tf.stop_gradient(size) for size in sizes],
            source=source,
            kept=None if numbers is None else numbers[i],
            learned=[stddevs_of(t.rho) for t in targets] if needs_learned(noise) else [],
        )
        # Eagerly, a branch costs nothing, and a sum would make the gradient of an embedding dense.
        in_graph = not tf.executing_eagerly()
        if in_graph and numbers is None and _is_only_added(noise, targets):
            results += apply(own, active=active)
        else:
            results += _if_active(active, apply, own, differentiable)
    return results


def _is_only_added(noise: Noise, targets: Sequence[Target]) -> bool:
    """Whether a noisy value is w + magnitude * n: w itself at 0, and its gradient that of w, as it is."""
    absolute = all(_has_kernel(each) and each.relative_to is None for each in noise.members)
    return absolute and all(target.code is None for target in targets)


def _if_active(
    active: bool | Tensor,
    apply: Callable[[Sequence[Tensor]], list[Tensor]],
    values: Sequence[Tensor],
    differentiable: bool,
) -> list[Tensor]:
    def noisy(*clean: Tensor) -> list[Tensor]:
        return if_active(active, lambda: apply(clean), clean)

    if not differentiable:
        return noisy(*values)
    # A tape would look inside, and trace kernels for gradients that nobody asks for.
    return list(tf.grad_pass_through(lambda *clean: noisy(*map(tf.stop_gradient, clean)))(*values))


def _apply_to_each(
    noise: Noise,
    targets: Sequence[Target],
    values: Sequence[Tensor],
    *,
    magnitudes: Sequence[Tensor],
    source: Source,
    kept: Numbers | None,
    learned: Sequence[Tensor],
    active: bool | Tensor = True,
) -> list[Tensor]:
    """Applies a noise to floats, and to integer codes what it is of them."""
    results = list(values)
    done: list[Tensor] = []
    for places in _in_turn(targets) if kept is None else [range(len(targets))]:
        alike = [targets[i] for i in places]
        bits = alike[0].bits
        member = noise if bits is None else noise.of_codes(bits)
        own = [values[i] for i in places]
        own_learned = [learned[i] for i in places] if learned else []
        with tf.control_dependencies([tf.group(*done)] if done else []):
            own = _apply(member, alike, own, magnitudes, source, kept, own_learned, active)
        for i, value in zip(places, own, strict=True):
            results[i] = value
        done = own
    return results


def _in_turn(targets: Sequence[Target]) -> Iterator[Sequence[int]]:
    """The numbers of targets that are perturbed together, one such portion after the other."""
    for portion in portions.portions([target.variable.shape for target in targets]):
        for bits in dict.fromkeys(targets[i].bits for i in portion):
            yield [i for i in portion if targets[i].bits == bits]


def _apply(
    noise: Noise,
    targets: Sequence[Target],
    values: Sequence[Tensor],
    magnitudes: Sequence[Tensor],
    source: Source,
    kept: Numbers | None,
    learned: Sequence[Tensor],
    active: bool | Tensor,
) -> list[Tensor]:
    results = [
        widen(value) if t.code is None else t.code.read(value)
        for value, t in zip(values, targets, strict=True)
    ]
    for i, (member, asked) in enumerate(asked_of(noise, source.replica)):
        factors = _factors(member, results, magnitudes[i]) if kept is None else None
        if factors is not None:
            # Faster, and to the bit what `perturb` makes of the same numbers.
            ((each, stream),) = asked
            starts = [target.start for target in targets]
            settings = starts, results, factors, stream, active
            results = adding.add(each.law, source.key(each), *settings)
            continue
        drawn = source.draw(member, asked, targets) if kept is None else kept[i]
        if member.needs_learned:
            drawn = [*drawn, list(learned)]
        results = [
            member.perturb(
                w,
                [_like(w, numbers[j]) for numbers in drawn],
                tf.cast(magnitudes[i], w.dtype),
                t.axes,
            )
            for j, (w, t) in enumerate(zip(results, targets, strict=True))
        ]
    return [
        tf.cast(w, value.dtype) if t.code is None else t.code.write(w, value)
        for w, value, t in zip(results, values, targets, strict=True)
    ]


def _like(w: Tensor, numbers: Tensor) -> Tensor:
    return tf.cast(numbers, w.dtype) if numbers.dtype.is_floating else numbers


def _factors(member: Noise, values: Sequence[Tensor], magnitude: Tensor) -> list[Tensor] | None:
    """The scalars of w + factor * n, which the kernel that draws n can add; `None` if it is not that."""
    if not _has_kernel(member):
        return None
    # In `float64`, a scale is, too.
    if member.relative_to is not None and any(w.dtype != tf.float32 for w in values):
        return None
    return [member.factor(w, magnitude) for w in values]


def _has_kernel(member: Noise) -> TypeGuard[Additive]:
    return isinstance(member, Additive) and member.generator == "threefry" and member.has_one_factor

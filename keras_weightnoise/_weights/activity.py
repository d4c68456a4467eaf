"""Whether noise does anything, as far as is known before it is drawn."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise.noises import Noise


def is_active(noises: Sequence[Noise], magnitudes: Sequence[Sequence[Tensor]]) -> bool | Tensor:
    """Whether any of these noises does something at its magnitudes: a bool where that is known by now."""
    return _any([_is_on(*pair) for pair in zip(noises, magnitudes, strict=True)])


def both(active: bool | Tensor, after: Tensor | None) -> bool | Tensor:
    """Whether noise is active, and this is true, too."""
    if after is None or active is False:
        return active
    return after if active is True else tf.logical_and(active, after)


def if_active(
    active: bool | Tensor, noisy: Callable[[], list[Tensor]], clean: Sequence[Tensor]
) -> list[Tensor]:
    """Noisy values where noise is active, else the clean ones."""
    if isinstance(active, bool):
        return noisy() if active else list(clean)
    return tf.cond(active, noisy, lambda: list(clean))  # type: ignore[no-any-return]


def _is_on(noise: Noise, magnitudes: Sequence[Tensor]) -> bool | Tensor:
    on: list[bool | Tensor] = []
    for member, magnitude in zip(noise.members, magnitudes, strict=True):
        known = tf.get_static_value(magnitude)
        off = member.is_off_at(magnitude if known is None else float(known))
        on.append(tf.logical_not(off) if tf.is_tensor(off) else not off)
    return _any(on)


def _any(flags: Sequence[bool | Tensor]) -> bool | Tensor:
    unknown = [flag for flag in flags if not isinstance(flag, bool)]
    if any(flag is True for flag in flags) or not unknown:
        return any(flag is True for flag in flags)
    return unknown[0] if len(unknown) == 1 else tf.reduce_any(tf.stack(unknown))

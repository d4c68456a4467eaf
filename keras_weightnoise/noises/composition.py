"""Several noises, one after the other."""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_weightnoise._random.sampling import Tensor
from keras_weightnoise.noises._get import get
from keras_weightnoise.noises.noise import Magnitude, Noise


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False)
class Compose(Noise):
    """Noises applied in order: `w' = b(a(w))` for `Compose([a, b])`, which is also `a + b`.

    Each has its own draw, independent of the others', its own magnitude, and reads its scale from
    what the one before it made of the weight. Use it where the hardware does several things to a
    weight: quantize it, then add noise, then break some. Gradient: straight through,
    `dL/dw = dL/dw'`.

    Args:
        noises: A list of noise models. A number or schedule s stands for `Gaussian(stddev=s)`, and
            a composition for its members.

    Raises:
        ValueError: If `noises` is empty.
        TypeError: If `noises` is not a list, or something in it is no noise.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.StuckAt(0.01) + noises.Gaussian(0.05, relative_to="max")
    Compose(noises=(StuckAt(rate=0.01, value='zero'), Gaussian(stddev=0.05, relative_to='max')))
    """

    noises: Sequence[Noise]

    def __post_init__(self) -> None:
        if not isinstance(self.noises, list | tuple):
            raise TypeError(
                "Invalid `noises`. Expected a list of noise models. "
                f"Received: noises={self.noises!r} (of type {type(self.noises).__name__})"
            )
        if not self.noises:
            raise ValueError("Invalid `noises`. Expected at least one noise. Received: noises=[]")
        flat = tuple(member for noise in self.noises for member in get(noise).members)
        object.__setattr__(self, "noises", flat)

    @property
    def members(self) -> tuple[Noise, ...]:
        return tuple(self.noises)

    @property
    def magnitude(self) -> Magnitude:
        return tuple(noise.magnitude for noise in self.noises)

    def magnitude_at(self, step: Tensor) -> Tensor:
        return tf.stack([noise.magnitude_at(step) for noise in self.noises])

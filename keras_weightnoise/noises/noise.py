"""What a noise model is, and several of them, one after the other."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import keras

from keras_weightnoise._checks import (
    check_choice,
    is_number,
    is_scalar_tensor,
    is_schedule,
)
from keras_weightnoise._perturbation import Magnitude as Magnitude
from keras_weightnoise._perturbation import Perturbation
from keras_weightnoise._perturbation import Schedule as Schedule
from keras_weightnoise._random.laws import Law
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises._get import coerce, message

Generator = Literal["threefry", "philox"]


@dataclasses.dataclass(frozen=True)
class Draw:
    """Random numbers that a noise asks for: one for each weight.

    Attributes:
        law: Their law: one of those in `noises.laws`.
        new_for: When there are new ones. `"step"`: in each draw of training, of a sweep, of an ensemble,
            and for each replica that has its own noise. `"chip"`: in each draw of a sweep or an ensemble,
            while all of training has those of draw 0. `"seed"`: never for one seed. Defaults to `"step"`.
    """

    law: Law
    new_for: Literal["step", "chip", "seed"] = "step"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Noise(Perturbation):
    """Base class of the noise models.

    A subclass is a frozen dataclass (`eq=False, repr=False`), registered with Keras, that says how it
    perturbs:

    - `magnitude_name`: the field that says how much, and that a schedule may drive.
    - `most`: the magnitude's upper limit.
    - `clean_at_zero`: whether the weight stays as it is at magnitude 0: then nothing is drawn.
    - `perturbs_codes`: whether it perturbs the integer codes of a quantized model, too: see `of_codes`.
    - `draws`: the random numbers it wants.
    - `needs_learned`: whether `perturb` gets learned standard deviations, too, as the last of its `draws`.
    - `perturb`: the formula.
    """

    generator: Generator = dataclasses.field(default="threefry", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("generator", self.generator, get_args(Generator))
        for draw in self.draws:
            if self.generator == "philox" and draw.law.tf_random is None:
                raise ValueError(
                    "Invalid `generator`. Expected 'threefry' for numbers of the law "
                    f"'{draw.law}', which `tf.random` does not have. "
                    f"Received: generator={self.generator!r}, noise={self!r}"
                )

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The random numbers it wants: none, or several of several laws."""
        raise NotImplementedError

    def perturb(
        self, w: Tensor, draws: Sequence[Tensor], magnitude: Tensor, axes: tuple[int, ...]
    ) -> Tensor:
        """Returns the perturbed weight. Called for each of `members`, never for a composition.

        Its gradient does not matter: `perturbation.perturb` passes gradients straight through.

        Args:
            w: The clean weight, `float32` or `float64`.
            draws: What was drawn for each of `draws`, in the shape of `w`, and in its dtype but for the law
                `BITS`.
            magnitude: A scalar of that dtype.
            axes: The axes of `w` that one output channel extends over.
        """
        raise NotImplementedError

    def of_codes(self, bits: int) -> "Noise":
        """What perturbs integer codes of so many bits in its place. Asked where `perturbs_codes`.

        Its `perturb` takes and returns codes, integers in floating point.
        """
        return self

    def __add__(self, other: Any) -> "Compose":
        """This noise, then the other: see `Compose`."""
        return Compose([self, other]) if _stands_for_noise(other) else NotImplemented

    def __radd__(self, other: Any) -> "Compose":
        """The other noise, then this: see `Compose`."""
        return Compose([other, self]) if _stands_for_noise(other) else NotImplemented


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Compose(Noise):
    """Noises applied in order: `w' = b(a(w))` for `Compose([a, b])`, which is also `a + b`.

    Each has its own draws, independent of the others', its own magnitude, and reads its scale from
    what the one before it made of the weight. Use it where the hardware does several things to a
    weight: quantize it, then add noise, then break some. Gradient: straight through,
    `dL/dw = dL/dw'`.

    Args:
        noises: A list of noise models. A number or schedule s stands for `Gaussian(stddev=s)`, also
            in a sum (`a + 0.1`), and a composition for its members.

    Raises:
        ValueError: If `noises` is empty.
        TypeError: If `noises` is not a list, or something in it is no noise.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.StuckAt(0.01) + noises.Gaussian(0.05, relative_to="max")
    Compose(noises=(StuckAt(rate=0.01, value='zero'), Gaussian(stddev=0.05, relative_to='max')))
    """

    noises: Sequence[Noise]
    # Each of them has its own.
    generator: Generator = dataclasses.field(default="threefry", init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.noises, list | tuple):
            raise TypeError(
                "Invalid `noises`. Expected a list of noise models. "
                f"Received: noises={self.noises!r} (of type {type(self.noises).__name__})"
            )
        if not self.noises:
            raise ValueError("Invalid `noises`. Expected at least one noise. Received: noises=[]")
        flat = tuple(member for noise in self.noises for member in coerce(noise).members)
        object.__setattr__(self, "noises", flat)

    @property
    def members(self) -> tuple[Noise, ...]:
        return tuple(self.noises)

    @property
    def perturbs_codes(self) -> bool:  # type: ignore[override]
        return all(noise.perturbs_codes for noise in self.noises)

    def of_codes(self, bits: int) -> "Compose":
        return Compose([noise.of_codes(bits) for noise in self.noises])

    @property
    def magnitudes(self) -> tuple[Magnitude, ...]:
        return tuple(magnitude for noise in self.noises for magnitude in noise.magnitudes)


def _stands_for_noise(other: object) -> bool:
    """Whether there is something to compose, if only an error about its value."""
    return (
        isinstance(other, Noise)
        or is_number(other)
        or is_schedule(other)
        or is_scalar_tensor(other)
    )


def _kinds(base: type[Noise]) -> Iterator[type[Noise]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


@coerce.register(Noise)
def _(noise: Noise) -> Noise:
    return noise


@coerce.register(type)
def _(noise: type) -> Noise:
    hint = f", made: `noises.{noise.__name__}(...)`" if issubclass(noise, Noise) else ""
    raise TypeError(message(noise, hint))


@coerce.register(str)
def _(noise: str) -> Noise:
    names = {kind.__name__ for kind in _kinds(Noise)}
    plain = noise.replace("_", "").lower()
    hint = next((f", such as `noises.{n}(...)`" for n in names if n.lower() == plain), "")
    raise TypeError(message(noise, hint))

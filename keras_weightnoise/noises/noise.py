"""What a noise model is."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_magnitude, is_number
from keras_weightnoise._random.sampling import Law, Tensor

if TYPE_CHECKING:
    from keras_weightnoise.noises.composition import Compose

Schedule = Any  # `keras.optimizers.schedules.LearningRateSchedule`; Keras ships no types.
Magnitude = float | Schedule


@dataclasses.dataclass(frozen=True, eq=False)
class Noise:
    """Base class of the noise models.

    A subclass is a frozen dataclass (`eq=False`), registered with Keras, that says how it perturbs:

    - `magnitude_name`: the field that says how much, and that a schedule may drive. At 0, the
      weight stays as it is.
    - `most`: the magnitude's upper limit.
    - `law`: the distribution of the draw it wants, one value per weight (see `sampling.draw`), or
      `None`.
    - `perturb`: the formula.
    """

    magnitude_name: ClassVar[str]
    most: ClassVar[float] = math.inf

    def __post_init__(self) -> None:
        magnitude = self.magnitude
        check_magnitude(self.magnitude_name, magnitude, most=self.most)
        if is_number(magnitude):
            # Of NumPy's numbers and integers too: equal noises print and serialize alike.
            object.__setattr__(self, self.magnitude_name, float(magnitude))

    @property
    def law(self) -> Law | None:
        """The law of the draw it wants, or `None` if it wants none."""
        raise NotImplementedError

    @property
    def adds_draw(self) -> bool:
        """Whether it is w + magnitude * n, added where it is drawn. `perturb` is given that product."""
        return False

    @property
    def members(self) -> "tuple[Noise, ...]":
        """The noises it applies, in order: itself, unless it is a composition."""
        return (self,)

    @property
    def magnitude(self) -> Magnitude:
        """How much: a float, or a schedule of the optimizer step. Of a composition: a tuple."""
        return getattr(self, self.magnitude_name)

    def magnitude_at(self, step: Tensor) -> Tensor:
        """The magnitude at an optimizer step.

        A scalar `float32` tensor; of a composition, a vector with an entry for each of `members`.
        """
        magnitude = self.magnitude
        return tf.cast(magnitude(step) if callable(magnitude) else magnitude, tf.float32)

    def perturb(self, w: Tensor, n: Tensor, magnitude: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Returns the perturbed weight. Called for each of `members`, never for a composition.

        Its gradient does not matter: `perturbation.perturb` passes gradients straight through.

        Args:
            w: The clean weight, `float32` or `float64`.
            n: A draw of `law`, in the shape and dtype of `w`, times the magnitude where it `adds_draw`;
                `None` if `law` is `None`.
            magnitude: A scalar of that dtype.
            axes: The axes of `w` that one output channel extends over.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return {
            field.name: keras.saving.serialize_keras_object(getattr(self, field.name))
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Noise":
        """The inverse of `get_config`."""
        return cls(**{k: keras.saving.deserialize_keras_object(v) for k, v in config.items()})

    def __add__(self, other: object) -> "Compose":
        """This noise, then the other: see `Compose`."""
        # A composition is made of noises, and is one.
        from keras_weightnoise.noises.composition import Compose

        return Compose([self, other]) if isinstance(other, Noise) else NotImplemented

    # Schedules have no equality of their own: two are equal if they serialize alike, and one that cannot
    # be serialized equals itself.
    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        pairs = [
            (getattr(self, field.name), getattr(other, field.name))
            for field in dataclasses.fields(self)
        ]
        serialize = keras.saving.serialize_keras_object
        return all(a is b or serialize(a) == serialize(b) for a, b in pairs)

    def __hash__(self) -> int:
        return hash((type(self), repr(self.get_config())))


def name_magnitudes(noises: Iterable[Noise]) -> dict[str, Magnitude]:
    """Names the magnitudes of noises, for logs and tables.

    Args:
        noises: The noises. Of a composition, its members are named.

    Returns:
        A dict of magnitudes in the order of the noises, keyed by the field's name where there is one
        (`"stddev"`), and by that of noise and field where there are several (`"gaussian_stddev"`,
        then `"gaussian_stddev_1"`).
    """
    members = [member for noise in noises for member in noise.members]
    if len(members) == 1:
        return {members[0].magnitude_name: members[0].magnitude}
    named: dict[str, Magnitude] = {}
    used: Counter[str] = Counter()
    for member in members:
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(member).__name__).lower()
        key = f"{kind}_{member.magnitude_name}"
        named[f"{key}_{used[key]}" if used[key] else key] = member.magnitude
        used[key] += 1
    return named

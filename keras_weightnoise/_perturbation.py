"""What perturbs weights by some magnitude: noise, and what looks for the worst."""

import dataclasses
import math
from typing import Any, ClassVar

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_magnitude, is_number
from keras_weightnoise._types import Tensor

Schedule = Any  # `keras.optimizers.schedules.LearningRateSchedule`; Keras ships no types.
Magnitude = float | Tensor | Schedule


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Perturbation:
    """Base class of noise and adversaries: settings, one of which is the magnitude.

    A subclass is a frozen dataclass (`eq=False, repr=False`), registered with Keras. Fields with `repr=False`
    are printed only where they are not at their default.
    """

    magnitude_name: ClassVar[str]
    most: ClassVar[float] = math.inf
    clean_at_zero: ClassVar[bool] = True
    needs_learned: ClassVar[bool] = False
    perturbs_codes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        (magnitude,) = self.magnitudes
        check_magnitude(self.magnitude_name, magnitude, most=self.most)
        if is_number(magnitude):
            # Of NumPy's numbers and integers too: equal ones print and serialize alike.
            object.__setattr__(self, self.magnitude_name, float(magnitude))

    @property
    def members(self) -> tuple[Any, ...]:
        """What it applies, in order: itself, unless it is a composition."""
        return (self,)

    @property
    def magnitudes(self) -> tuple[Magnitude, ...]:
        """How much, for each of `members`: a float, a scalar tensor, or a schedule of the optimizer step."""
        return (getattr(self, self.magnitude_name),)

    def magnitudes_at(self, step: Tensor) -> tuple[Tensor, ...]:
        """The magnitudes at an optimizer step: a scalar `float32` tensor for each of `members`."""
        return tuple(
            tf.cast(magnitude(step) if callable(magnitude) else magnitude, tf.float32)
            for magnitude in self.magnitudes
        )

    def is_off_at(self, magnitude: Any) -> Any:
        """Whether it does nothing at a magnitude: a bool, or of a tensor a tensor.

        Asked of each of `members`, never of a composition.
        """
        return self.clean_at_zero and magnitude == 0.0

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return {
            field.name: keras.saving.serialize_keras_object(getattr(self, field.name))
            for field in self._arguments()
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The inverse of `get_config`."""
        return cls(**{k: keras.saving.deserialize_keras_object(v) for k, v in config.items()})

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in sorted(self._arguments(), key=lambda field: bool(field.kw_only))
            if field.repr or getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

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

    def _arguments(self) -> list[dataclasses.Field[Any]]:
        """The fields that are arguments of the constructor."""
        return [field for field in dataclasses.fields(self) if field.init]

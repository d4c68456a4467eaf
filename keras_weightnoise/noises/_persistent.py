"""Noise that may belong to a chip, not to a step."""

import dataclasses
from typing import ClassVar

from keras_weightnoise._checks import check_flag
from keras_weightnoise._random.laws import Law
from keras_weightnoise.noises.noise import Draw, Noise


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Persistent(Noise):
    """Base class of noise whose draw, or draws of one law, may be kept: `persistent`."""

    law: ClassVar[Law]
    persistent: bool = dataclasses.field(default=False, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("persistent", self.persistent)

    @property
    def draws(self) -> tuple[Draw, ...]:
        return (Draw(self.law, new_for="chip" if self.persistent else "step"),)

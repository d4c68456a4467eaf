"""What an ensemble is constructed with, beside its model."""

import dataclasses
from typing import Any

import keras

from keras_weightnoise._weights import selectors
from keras_weightnoise._weights.rules import Rule
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.models import _magnitudes as magnitudes
from keras_weightnoise.noises import Noise


@dataclasses.dataclass(frozen=True)
class EnsembleSettings:
    """Which noise is in which variables. Arguments of the constructor: see `WeightNoiseEnsemble`."""

    rules: tuple[Rule, ...]
    variables: Selector | None
    exclude: Selector | None

    @property
    def noises(self) -> list[Noise]:
        """The noises of the rules, in order."""
        return [noise for _, noise in self.rules]

    def with_magnitudes(self, magnitude: Any) -> "EnsembleSettings":
        """The same with other magnitudes of the noises."""
        chosen, noises = zip(*self.rules, strict=True)
        new = magnitudes.replaced(noises, magnitude)
        return dataclasses.replace(self, rules=tuple(zip(chosen, new, strict=True)))

    def serialize(self) -> dict[str, Any]:
        """The arguments in the form of a config."""
        return {
            "noise": [
                [selectors.serialize("noise", selector), keras.saving.serialize_keras_object(noise)]
                for selector, noise in self.rules
            ],
            "variables": selectors.serialize("variables", self.variables),
            "exclude": selectors.serialize("exclude", self.exclude),
        }

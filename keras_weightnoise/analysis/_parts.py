"""The layers of a model, and noise in one of them or in all."""

import re
from collections.abc import Sequence
from typing import Any

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import own_name, relative_names
from keras_weightnoise._weights.selection import Target
from keras_weightnoise.analysis._evaluation import is_random
from keras_weightnoise.analysis._plan import at_magnitude, plan_largest
from keras_weightnoise.analysis._trials import Trial
from keras_weightnoise.models._borrowed_weights import BorrowedWeights
from keras_weightnoise.models.perturb import PerturbedWeights, perturbed_values
from keras_weightnoise.noises import Noise


class Parts:
    """The layers (or variables) of a model, and noise in one of them or in all.

    Each is what a regular expression selects, so that what was measured is what the result's rules mean.

    Attributes:
        names: What they are called, in the order of the model.
        label: What the noise is called.
        weights: What puts the weights back.
    """

    def __init__(
        self, model: Any, noise: Any, high: float, by: str, variables: Any, exclude: Any, seed: int
    ) -> None:
        point = plan_largest(noise, high)
        self.label = point.label
        self._noise, self._seed = noise, seed
        everything = PerturbedWeights(model, point.noise, variables, exclude, seed)
        targets = [target for _, each in everything.assigned for target in each]
        owners = relative_names(model, [target.layer for target in targets])
        paths = relative_names(model, [target.variable for target in targets])
        found: dict[str, list[str]] = {}
        for target, owner, path in zip(targets, owners, paths, strict=True):
            prefix = path.removesuffix(own_name(target.variable))
            found.setdefault(owner if by == "layer" else path, [prefix]).append(
                own_name(target.variable)
            )
        self.names = list(found)
        # Those of inner layers first: of a layer of one name elsewhere, the path may end alike.
        self._selectors = {
            name: _selector(*found[name])
            for name in sorted(found, key=lambda name: -found[name][0].count("/"))
        }
        rules = [(selector, point.noise) for selector in self._selectors.values()]
        assigned = PerturbedWeights(model, rules, variables, exclude, seed).assigned
        self._targets: dict[str, list[Target]] = {
            name: own for name, (_, own) in zip(self._selectors, assigned, strict=True)
        }
        self._places = {id(variable): i for i, variable in enumerate(everything.variables)}
        self.weights = BorrowedWeights(model, everything.variables)

    def rules(self, magnitudes: dict[str, float]) -> list[tuple[str, Noise]]:
        """Pairs of a selector and a noise."""
        return [
            (selector, at_magnitude(self._noise, magnitudes[name]))
            for name, selector in self._selectors.items()
        ]

    def perturb(self, name: str) -> Any:
        """Puts noise of a magnitude into one of them."""
        targets = self._targets[name]
        return lambda magnitude: self._trial(
            [(at_magnitude(self._noise, magnitude), targets)], magnitude
        )

    def perturb_all(self, shares: dict[str, float]) -> Any:
        """Puts noise into all of them, of their shares times a factor."""

        def perturb(factor: float) -> tuple[BorrowedWeights, Trial]:
            magnitudes = {name: factor * share for name, share in shares.items()}
            noises = [noise for _, noise in self.rules(magnitudes)]
            return self._trial(list(zip(noises, self._targets.values(), strict=True)), factor)

        return perturb

    def _trial(
        self, assigned: list[tuple[Noise, list[Target]]], magnitude: float
    ) -> tuple[BorrowedWeights, Trial]:
        def inject(draw: int) -> None:
            self.weights.put(lambda clean: self._drawn(assigned, clean, draw))

        random = any(is_random(noise) for noise, _ in assigned)
        return self.weights, Trial({"noise": self.label, "magnitude": magnitude}, inject, random)

    def _drawn(
        self, assigned: list[tuple[Noise, list[Target]]], clean: Sequence[Tensor], draw: int
    ) -> list[Tensor]:
        """The weights under a draw."""
        places = [self._places[id(t.variable)] for _, targets in assigned for t in targets]
        noisy = perturbed_values(
            assigned,
            [clean[place] for place in places],
            self._seed,
            draw,
            [noise.magnitudes_at(0) for noise, _ in assigned],
        )
        values = list(clean)
        for place, value in zip(places, noisy, strict=True):
            values[place] = value
        return values


def _selector(prefix: str, *names: str) -> str:
    """A regular expression of the variables of these names under a prefix."""
    alternatives = "|".join(map(re.escape, dict.fromkeys(names)))
    return (
        f"^{re.escape(prefix)}" + (alternatives if len(names) == 1 else f"({alternatives})") + "$"
    )

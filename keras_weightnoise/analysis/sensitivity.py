"""Which layers of a trained model weight noise breaks first."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from keras_weightnoise._checks import check_choice
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import relative_names
from keras_weightnoise._weights.rules import get_rules
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.analysis._evaluation import (
    Evaluator,
    Verbose,
    check_arguments,
    check_draws,
    is_random,
    unique,
)
from keras_weightnoise.analysis._settings import describe
from keras_weightnoise.analysis._trials import Trial, measure
from keras_weightnoise.analysis.sensitivity_result import SensitivityResult, SensitivityRow
from keras_weightnoise.models._borrowed_weights import BorrowedWeights
from keras_weightnoise.models.perturb import PerturbedWeights
from keras_weightnoise.noises import Magnitude, Noise


def layer_sensitivity(
    model: Any,
    data: Any,
    noise: Noise | Magnitude | Mapping[Any, Any] | Sequence[Any],
    *,
    by: Literal["layer", "variable"] = "layer",
    draws: int | range = 10,
    variables: Selector | None = None,
    exclude: Selector | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    steps: int | None = None,
    verbose: Verbose = "auto",
) -> SensitivityResult:
    """Evaluates a model with noise in one layer at a time: metrics of `f(x; w + n in one layer)`.

    Use it to find the layers that weight noise breaks first: those to keep in higher precision, to
    protect from faults, or to leave out of the noise. All else is as in `robustness_sweep`: the clean
    value comes first, a layer's noise in draw d is what it has there, an interrupt keeps what was
    measured, and the weights are bit for bit as they were afterwards.

    Args:
        model: A built and compiled `keras.Model`.
        data: See `robustness_sweep`.
        noise: The noise and its magnitude, as in `perturb_weights`: a number, the standard deviation of
            Gaussian noise; one of `keras_weightnoise.noises`; or a mapping from selectors to such.
        by: `"layer"`: one layer at a time, of those that own a selected variable themselves.
            `"variable"`: one variable. Defaults to `"layer"`.
        draws: Integer >= 1: how many draws for each; or a `range` of their numbers, as in
            `robustness_sweep`. Defaults to `10`.
        variables: Which variables, as in `perturb_weights`. Defaults to `None`: every float weight.
        exclude: Which of these not. Defaults to `None`.
        seed: Integer in [0, 2**32). Defaults to `0`.
        batch_size: See `robustness_sweep`.
        steps: How many batches of `data` to use. Defaults to `None`: all.
        verbose: 0 for no progress bar. `"auto"`: 1. Defaults to `"auto"`.

    Returns:
        A `SensitivityResult`: print it, `plot` it, turn it into a `pandas.DataFrame` or JSON.

    Raises:
        ValueError: If the model is not compiled or not built, or a selector matches nothing.
        TypeError: If an argument is of another type, or a magnitude is a schedule.

    Example:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import layer_sensitivity
    >>> layers = [keras.layers.Dense(1, name=name) for name in ("first", "second")]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> model.compile(loss="mse")
    >>> x = np.ones((8, 4))
    >>> result = layer_sensitivity(model, (x, model.predict(x, verbose=0)), 0.1, draws=5, verbose=0)
    >>> sorted(result.summaries())
    ['first', 'second']
    """
    check_arguments(model, data, seed)
    numbers = check_draws(draws)
    check_choice("by", by, ("layer", "variable"))
    noisy = PerturbedWeights(model, noise, variables, exclude, seed)
    parts = _Parts(model, noisy, by)
    described = ", ".join(
        str(each) if selector is None else f"{selector}: {each}"
        for selector, each in get_rules(noise)
    )
    settings = describe(model, noisy.variables, noise=described, by=by, seed=seed)
    measured = measure(
        Evaluator(model, data, batch_size, steps),
        [(parts.weights, parts.trials())],
        numbers,
        SensitivityRow,
        verbose,
    )
    return SensitivityResult.collect(measured, settings, by=by, noise=described)


class _Parts:
    """The layers (or variables) of a model under noise, one at a time.

    All of a draw is drawn at once, and kept for one part after the other: to draw for each alone would take
    most of the time of a deep model.

    Attributes:
        weights: The context in which noise can be put into the weights.
    """

    def __init__(self, model: Any, noisy: PerturbedWeights, by: str) -> None:
        self.weights = BorrowedWeights(model, noisy.variables)
        self._model = model
        self._noisy = noisy
        self._places: dict[int, list[int]] = {}
        self._owners: dict[int, Any] = {}
        self._random: set[int] = set()
        place = 0
        for noise, targets in noisy.assigned:
            for target in targets:
                owner = target.layer if by == "layer" else target.variable
                self._owners[id(owner)] = owner
                self._places.setdefault(id(owner), []).append(place)
                if is_random(noise):
                    self._random.add(id(owner))
                place += 1
        self._draw: int | None = None
        self._values: list[Tensor] = []

    def trials(self) -> list[Trial]:
        """A trial of each."""
        names = unique(relative_names(self._model, list(self._owners.values())))
        return [
            Trial({"name": name}, functools.partial(self._inject, places), key in self._random)
            for name, (key, places) in zip(names, self._places.items(), strict=True)
        ]

    def _inject(self, places: Sequence[int], draw: int) -> None:
        def values(clean: Sequence[Tensor]) -> list[Tensor]:
            if draw != self._draw:
                self._draw, self._values = None, []  # No two draws at a time.
                self._values = self._noisy.draw(clean, draw)
                self._draw = draw
            noisy = list(clean)
            for place in places:
                noisy[place] = self._values[place]
            return noisy

        self.weights.put(values)

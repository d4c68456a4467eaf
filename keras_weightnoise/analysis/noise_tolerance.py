"""The magnitude of noise at which a model breaks."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from keras_weightnoise._checks import check_count, is_number
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.analysis._bisection import Bisection
from keras_weightnoise.analysis._evaluation import (
    Evaluator,
    Progress,
    Verbose,
    check_arguments,
    check_draws,
    is_random,
    keep_at_interrupt,
)
from keras_weightnoise.analysis._plan import Sweepable, at_magnitude, kind_of, plan
from keras_weightnoise.analysis._results import choose_metric
from keras_weightnoise.analysis._settings import describe
from keras_weightnoise.analysis._summaries import prefers_high
from keras_weightnoise.analysis.robustness_result import RobustnessRow
from keras_weightnoise.analysis.tolerance_result import ToleranceResult
from keras_weightnoise.models.perturb import PerturbedWeights
from keras_weightnoise.noises import Noise

Mode = Literal["auto", "min", "max"]


def noise_tolerance(
    model: Any,
    data: Any,
    *,
    drop: float,
    metric: str | None = None,
    mode: Mode = "auto",
    noise: Sweepable | None = None,
    high: float = 2.0,
    draws: int | range = 10,
    bisections: int = 15,
    within: float = 0.0,
    variables: Selector | None = None,
    exclude: Selector | None = None,
    recalibrate: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    steps: int | None = None,
    verbose: Verbose = "auto",
) -> ToleranceResult:
    """Finds how much noise a model bears: the largest s with `mean_d cost(w + n_d(s)) <= drop`.

    The cost is what a metric loses against its value without noise. The search is a bisection of
    [0, `high`] on draws that are common to all magnitudes, so that the cost is a function of the magnitude
    alone, and the result the same in each run.

    Use it where `robustness_sweep` would need a grid that you do not know, or for one number that says how
    flat a minimum is. With the defaults and `drop=0.1` on the accuracy on training data it is the PAC-Bayes
    sharpness of Jiang et al.: `result.flatness` is 1/s^2. Their variant that knows magnitudes, with a
    variance of `s^2 w^2 + eps^2`, is

        noise=lambda s: noises.Gaussian(s, relative_to="weight") + noises.Gaussian(1e-3)

    where magnitudes are standard deviations, as everywhere here, and 1e-3 is the root of their eps^2.

    The weights and the state of the model are bit for bit as they were afterwards. An interrupt (Ctrl-C)
    ends the search early: with a warning, the result is what is known by then.

    Args:
        model: A built and compiled `keras.Model`.
        data: What to evaluate on: see `robustness_sweep`.
        drop: Number > 0: the cost, in the metric's units, that is still borne.
        metric: A metric's name. `None`: the first that is not a loss, else the loss.
        mode: Whether more of the metric is better, `"max"`, or less, `"min"`. `"auto"`: as its name says
            (see `RobustnessResult.higher_is_better`). Defaults to `"auto"`.
        noise: One of `keras_weightnoise.noises`, whose magnitude is searched, or a function from a
            magnitude to one. `None`: `noises.Gaussian()`. Defaults to `None`.
        high: Number > 0: the largest magnitude tried, in units of the noise. Defaults to `2.0`.
        draws: Integer >= 1: how many draws of each magnitude; or a `range` of them. Defaults to `10`.
        bisections: Integer >= 1: how often the range is halved. The magnitude is exact to
            `high / 2**bisections`. Defaults to `15`.
        within: Number >= 0: end the search as soon as the cost is this close to `drop`. Jiang et al. have
            0.01. Defaults to `0.0`.
        variables: See `robustness_sweep`.
        exclude: See `robustness_sweep`.
        recalibrate: See `robustness_sweep`.
        seed: See `robustness_sweep`.
        batch_size: See `robustness_sweep`.
        steps: See `robustness_sweep`.
        verbose: See `robustness_sweep`.

    Returns:
        A `ToleranceResult`, with `magnitude`, its `interval` over draws, and `flatness`. Print it, `plot` it,
        turn it into a `pandas.DataFrame` or JSON.

    Raises:
        ValueError: If the model is not compiled or not built, a number is out of its range, or `high` is
            out of the noise's.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import noise_tolerance
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.compile(loss="mse")
    >>> x = np.eye(4)
    >>> data = x, model.predict(x, verbose=0)
    >>> result = noise_tolerance(model, data, drop=0.01, draws=3, bisections=7, verbose=0)
    >>> 0.05 < result.magnitude < 0.2  # The cost is s^2 mean(n^2).
    True

    References:
        - [Jiang et al., 2020](https://arxiv.org/abs/1912.02178) (sharpness and generalisation)
        - [Dziugaite et al., 2020](https://arxiv.org/abs/2010.11924)
    """
    check_arguments(model, seed)
    numbers = check_draws(draws)
    _check_search(drop, high, bisections, within, mode)
    evaluator = Evaluator(model, data, batch_size, steps, recalibrate)
    progress = Progress(len(numbers) * (1 + bisections), verbose)
    make = functools.partial(
        PerturbedWeights, model, variables=variables, exclude=exclude, seed=seed
    )
    measured = _Measured(evaluator, noise, float(high), make, numbers, progress)
    search = Bisection(drop, high, bisections, within)
    settings = describe(
        model,
        measured.variables,
        noise=[measured.label],
        seed=seed,
        **search.settings,
        recalibrated=recalibrate is not None,
    )
    return _find(search, measured, evaluator.clean(), metric, mode, settings)


def _find(
    search: Bisection,
    measured: "_Measured",
    clean: dict[str, float],
    metric: str | None,
    mode: Mode,
    settings: dict[str, Any],
) -> ToleranceResult:
    """Evaluates one magnitude after the other, until the search ends."""
    metric = choose_metric(clean, metric)
    higher = {name: prefers_high(name) for name in clean}
    if mode != "auto":
        higher[metric] = mode == "max"
    sign = -1.0 if higher[metric] else 1.0
    complete = False
    with keep_at_interrupt(measured.rows, stacklevel=5):
        while (magnitude := search.next()) is not None:
            search.costs[magnitude] = sign * (measured.mean(metric, magnitude) - clean[metric])
        complete = True
        measured.progress.finish()
    if search.largest == search.high:
        warnings.warn(
            "The model bears all that was tried. Expected `high` above what it bears. "
            f"Received: high={search.high}",
            stacklevel=3,
        )
    return ToleranceResult(
        clean=clean,
        rows=tuple(sorted(measured.rows, key=lambda row: (row.magnitude, row.draw))),
        complete=complete,
        higher_is_better=higher,
        settings=settings,
        metric=metric,
        drop=float(search.drop),
        magnitude=search.largest,
    )


class _Measured:
    """The draws of a noise, evaluated at one magnitude after the other.

    Attributes:
        label: What the noise is called.
        variables: The variables that it perturbs.
        rows: Every evaluation so far.
        progress: The bar that counts them.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        noise: Sweepable | None,
        high: float,
        make: Callable[[Noise], PerturbedWeights],
        draws: Sequence[int],
        progress: Progress,
    ) -> None:
        (point,) = plan(noise, [high])
        self.label = point.label
        self.rows: list[RobustnessRow] = []
        # One graph draws for all magnitudes, unless the draws themselves differ.
        self._perturbed = {kind_of(point.noise): make(point.noise)}
        self.variables = self._perturbed[kind_of(point.noise)].variables
        self._evaluator = evaluator
        self._noise = noise
        self._make = make
        self._draws = draws
        self.progress = progress

    def mean(self, metric: str, magnitude: float) -> float:
        """The mean of a metric over the draws at a magnitude."""
        noise = at_magnitude(self._noise, magnitude)
        kind = kind_of(noise)
        if kind not in self._perturbed:
            self._perturbed[kind] = self._make(noise)
        values: list[float] = []
        with self._perturbed[kind] as noisy:
            self.progress.start()
            for draw in self._draws:
                if is_random(noise) or not values:
                    noisy.inject(draw, [noise.magnitudes_at(0)])
                    metrics = self._evaluator.noisy()
                    self.progress.add()
                values.append(metrics[metric])
                self.rows.append(RobustnessRow(self.label, magnitude, draw, dict(metrics)))
        return float(np.mean(values))


def _check_search(drop: Any, high: Any, bisections: Any, within: Any, mode: Any) -> None:
    for name, value, least in (
        ("drop", drop, "> 0"),
        ("high", high, "> 0"),
        ("within", within, ">= 0"),
    ):
        if not is_number(value):
            raise TypeError(
                f"Invalid `{name}`. Expected a number {least}. Received: {name}={value!r}"
            )
        if not (math.isfinite(value) and (value > 0 or (value == 0 and name == "within"))):
            raise ValueError(
                f"Invalid `{name}`. Expected a number {least}. Received: {name}={value}"
            )
    check_count("bisections", bisections)
    if mode not in ("auto", "min", "max"):
        raise ValueError(
            f'Invalid `mode`. Expected "auto", "min" or "max". Received: mode={mode!r}'
        )

"""The magnitude of noise that suits an ensemble best."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from keras_weightnoise._checks import check_choice, check_integer, check_positive
from keras_weightnoise.analysis._evaluation import Progress, Verbose, keep_at_interrupt
from keras_weightnoise.analysis._repeated_data import RepeatedData
from keras_weightnoise.analysis._settings import describe
from keras_weightnoise.analysis._summaries import prefers_high
from keras_weightnoise.analysis.calibration import calibration_report
from keras_weightnoise.analysis.magnitude_result import MagnitudeResult, MagnitudeRow
from keras_weightnoise.models.ensemble import WeightNoiseEnsemble

# How a prediction is graded: from targets and predictions to numbers by name.
Grade = Callable[[Any, Any], dict[str, float]]

_OF_REPORTS = ("nll", "accuracy", "ece", "brier")


def choose_magnitude(
    ensemble: WeightNoiseEnsemble,
    data: Any,
    *,
    metric: str | Callable[[Any, Any], Any] = "nll",
    mode: Literal["auto", "min", "max"] = "auto",
    low: float = 1e-3,
    high: float = 1.0,
    points: int = 7,
    refinements: int = 3,
    batch_size: int | None = None,
    steps: int | None = None,
    verbose: Verbose = "auto",
) -> MagnitudeResult:
    """Finds the magnitude of noise at which an ensemble predicts best, and sets the ensemble to it.

    `points` magnitudes from `low` to `high`, evenly spaced on a logarithmic scale, come first, then the two
    halfway to the neighbours of the best so far, `refinements` times. The members' draws are common to all
    magnitudes, so that what differs between them is not luck. No noise at all is among the candidates: where
    it wins, the magnitude is 0.

    Use it with data that neither the model was trained on nor the result is reported on: what is chosen on
    some data looks better on these than it is. Other magnitudes need no new trace of the model.

    An interrupt (Ctrl-C) ends the search early: with a warning, the result is the best by then. After an
    error, the ensemble has the magnitude that it had.

    Args:
        ensemble: A `WeightNoiseEnsemble` of one noise. Its own magnitude does not matter.
        data: Held-out data: a tuple of arrays `(x, y)`, or batches of such tuples, as a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or an iterator has them. Batches are read once, and kept in memory.
        metric: What to choose by: `"nll"`, `"accuracy"`, `"ece"` or `"brier"`, of class probabilities, as
            `calibration_report` has them. Or a function of targets and predictions that returns a number,
            or one for each example, whose mean counts, such as `keras.losses.mean_squared_error`. Defaults
            to `"nll"`.
        mode: Whether more of the metric is better, `"max"`, or less, `"min"`. `"auto"`: as its name says
            (see `RobustnessResult.higher_is_better`). Defaults to `"auto"`.
        low: Number > 0: the smallest magnitude tried, in units of the noise. Defaults to `0.001`.
        high: Number > `low`: the largest. Defaults to `1.0`.
        points: Integer >= 2: how many come first. Defaults to `7`: two a decade.
        refinements: Integer >= 0: how often the distance to the neighbours is halved. Defaults to `3`.
        batch_size: See `robustness_sweep`.
        steps: See `robustness_sweep`.
        verbose: See `robustness_sweep`.

    Returns:
        A `MagnitudeResult`, with `magnitude`, which `ensemble.magnitude` is now, too. Print it, `plot` it,
        turn it into a `pandas.DataFrame` or JSON.

    Raises:
        ValueError: If a number is out of its range, or `high` out of the noise's; if the ensemble has
            several noises; if a metric of probabilities is asked for where there are none.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import WeightNoiseEnsemble, choose_magnitude
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, activation="softmax")])
    >>> model.set_weights([10 * np.eye(4), np.zeros(4)])  # Sure of itself, and wrong in one case.
    >>> ensemble = WeightNoiseEnsemble(model, 0.1)
    >>> choice = choose_magnitude(ensemble, (np.eye(4), [0, 1, 2, 0]), high=100.0, verbose=0)
    >>> ensemble.magnitude == choice.magnitude > 1.0
    True

    References:
        - [Guo et al., 2017](https://arxiv.org/abs/1706.04599) (what to compare with: `fit_temperature`)
    """
    _check(ensemble, metric, mode, low, high, points, refinements)
    held_out = RepeatedData("data", data, batch_size, steps).labelled()
    grid: list[float] = np.geomspace(low, high, points).tolist()
    settings = {"ensemble": repr(ensemble), "low": grid[0], "high": grid[-1], "points": points}
    settings = describe(ensemble.model, [], **settings, refinements=refinements)
    progress = Progress(points + 2 * refinements, verbose)
    with _magnitude_kept_at_error(ensemble):
        ensemble.magnitude = grid[-1]  # Raises if that is out of the noise's range.
        search = _Search(ensemble, held_out, metric, mode)
        complete = search.run(grid, refinements, progress)
        ensemble.magnitude = search.best
    _warn_of_ends(search.best, grid)
    return MagnitudeResult(
        metric=search.metric,
        magnitude=search.best,
        clean=search.clean,
        rows=tuple(sorted(search.rows, key=lambda row: row.magnitude)),
        complete=complete,
        higher_is_better=search.higher_is_better,
        settings=settings,
    )


def _warn_of_ends(best: float, grid: list[float]) -> None:
    if best in (grid[0], grid[-1]):
        end, where = ("high", "above") if best == grid[-1] else ("low", "below")
        warnings.warn(
            f"The best magnitude is at an end of what was tried. Expected `{end}` {where} what is best. "
            f"Received: {end}={best}",
            stacklevel=3,
        )


@contextlib.contextmanager
def _magnitude_kept_at_error(ensemble: WeightNoiseEnsemble) -> Iterator[None]:
    """After an error inside of it, an ensemble has the magnitude that it had."""
    before = ensemble.magnitude
    try:
        yield
    except BaseException:
        ensemble.magnitude = before
        raise


class _Search:
    """Magnitudes of an ensemble, graded one after the other.

    Attributes:
        metric: The name of what is chosen by.
        clean: The grades of the model without noise.
        rows: Those at each magnitude so far.
        higher_is_better: For each metric, whether more is better.
    """

    def __init__(
        self, ensemble: WeightNoiseEnsemble, data: tuple[Any, Any], metric: Any, mode: str
    ) -> None:
        self._ensemble = ensemble
        self._x, self._y = data
        self._grade: Grade = _of_report if isinstance(metric, str) else _of_function(metric)
        self.metric = metric if isinstance(metric, str) else _name(metric)
        # Some noises do something at magnitude 0.
        self.clean = self._graded(ensemble.model)
        self.rows: list[MagnitudeRow] = []
        self.higher_is_better = {name: prefers_high(name) for name in self.clean}
        if mode != "auto":
            self.higher_is_better[self.metric] = mode == "max"

    @property
    def best(self) -> float:
        """The best magnitude so far, among equals the smallest: 0 if nothing beats no noise."""
        clean = MagnitudeRow(0.0, self.clean)
        return min([clean, *self.rows], key=lambda row: (self._cost(row), row.magnitude)).magnitude

    def run(self, magnitudes: list[float], refinements: int, progress: Progress) -> bool:
        """Grades magnitudes, and then those about the best. Returns whether nothing interrupted it."""
        complete = False
        with keep_at_interrupt(self.rows, stacklevel=5):
            progress.start()
            self._try(magnitudes, progress)
            for _ in range(refinements):
                tried = sorted(row.magnitude for row in self.rows)
                best = min(self.rows, key=lambda row: (self._cost(row), row.magnitude)).magnitude
                at = tried.index(best)
                around = tried[max(0, at - 1) : at] + tried[at + 1 : at + 2]
                self._try([float(np.sqrt(best * each)) for each in around], progress)
            complete = True
            progress.finish()
        return complete

    def _try(self, magnitudes: list[float], progress: Progress) -> None:
        for magnitude in magnitudes:
            self._ensemble.magnitude = magnitude
            self.rows.append(MagnitudeRow(magnitude, self._graded(self._ensemble)))
            progress.add()

    def _graded(self, model: Any) -> dict[str, float]:
        return self._grade(self._y, model.predict(**self._x, verbose=0))

    def _cost(self, row: MagnitudeRow) -> float:
        value = row.metrics[self.metric]
        cost = -value if self.higher_is_better[self.metric] else value
        return np.inf if np.isnan(cost) else cost


def _of_report(targets: Any, predictions: Any) -> dict[str, float]:
    report = calibration_report(targets, predictions)
    return {name: getattr(report, name) for name in _OF_REPORTS}


def _of_function(function: Callable[[Any, Any], Any]) -> Grade:
    def grade(targets: Any, predictions: Any) -> dict[str, float]:
        return {_name(function): float(np.mean(np.asarray(function(targets, predictions))))}

    return grade


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", None) or getattr(function, "name", "metric"))


def _check(
    ensemble: Any, metric: Any, mode: Any, low: Any, high: Any, points: Any, refinements: Any
) -> None:
    if not isinstance(ensemble, WeightNoiseEnsemble):
        raise TypeError(
            "Invalid `ensemble`. Expected a `WeightNoiseEnsemble`. "
            f"Received: ensemble={ensemble} (of type {type(ensemble).__name__})"
        )
    if isinstance(ensemble.magnitude, tuple):
        raise ValueError(
            "Invalid `ensemble`. Expected one of a single noise, whose magnitude can be chosen. "
            f"Received: ensemble={ensemble!r}, of magnitudes {ensemble.magnitude}"
        )
    if not callable(metric):
        check_choice("metric", metric, _OF_REPORTS)
    check_choice("mode", mode, ("auto", "min", "max"))
    check_positive("low", low)
    check_positive("high", high)
    if low >= high:
        raise ValueError(f"Invalid `high`. Expected a number > low={low}. Received: high={high}")
    check_integer("points", points, 2)
    check_integer("refinements", refinements, 0)

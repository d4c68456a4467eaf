"""What noise costs, as a function of its magnitude, and the largest magnitude that is borne."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from keras_weightnoise._checks import check_amount, check_choice, check_count, check_positive
from keras_weightnoise.analysis._bisection import Bisection
from keras_weightnoise.analysis._evaluation import Evaluator, Progress
from keras_weightnoise.analysis._results import check_finite, choose_metric
from keras_weightnoise.analysis._summaries import prefers_high
from keras_weightnoise.analysis._trials import Trial
from keras_weightnoise.analysis.robustness_result import RobustnessRow
from keras_weightnoise.analysis.tolerance_result import ToleranceResult
from keras_weightnoise.models._borrowed_weights import BorrowedWeights

Mode = Literal["auto", "min", "max"]

# From a magnitude to a context, whose `with` puts the weights back, and what to evaluate inside of it.
Perturb = Callable[[float], tuple[BorrowedWeights, Trial]]


@dataclasses.dataclass(frozen=True)
class Goal:
    """The metric that noise is to leave alone.

    Attributes:
        metric: Its name.
        clean: All metrics without noise.
        higher_is_better: For each metric, whether more is better.
    """

    metric: str
    clean: dict[str, float]
    higher_is_better: dict[str, bool]

    @classmethod
    def of(cls, clean: dict[str, float], metric: str | None, mode: Mode) -> "Goal":
        """The goal that the arguments of an analysis mean."""
        metric = choose_metric(clean, metric)
        check_finite(metric, clean)
        higher = {name: prefers_high(name) for name in clean}
        if mode != "auto":
            higher[metric] = mode == "max"
        return cls(metric, clean, higher)


class Costs:
    """The mean cost of a noise over draws: of each magnitude, evaluated once.

    Args:
        evaluator: What evaluates.
        goal: What the cost is of.
        perturb: What puts the noise into the weights.
        draws: The numbers of the draws.
        progress: The bar that counts evaluations.
        rows: Where to add every evaluation. Defaults to a new list.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        goal: Goal,
        perturb: Perturb,
        draws: Sequence[int],
        progress: Progress,
        rows: list[RobustnessRow] | None = None,
    ) -> None:
        self.rows: list[RobustnessRow] = [] if rows is None else rows
        self._evaluator = evaluator
        self._goal = goal
        self._perturb = perturb
        self._draws = draws
        self._progress = progress
        self.at = functools.cache(self._at)

    def _at(self, magnitude: float) -> float:
        metric, clean = self._goal.metric, self._goal.clean
        context, trial = self._perturb(magnitude)
        values: list[float] = []
        metrics: dict[str, float] = {}
        with context:
            self._progress.start()
            for draw in self._draws:
                if trial.is_random or not values:
                    trial.inject(draw)
                    metrics = self._evaluator.noisy()
                    self._progress.add()
                values.append(metrics[metric])
                self.rows.append(RobustnessRow(**trial.labels, draw=draw, metrics=dict(metrics)))
        change = float(np.mean(values)) - clean[metric]
        return -change if self._goal.higher_is_better[metric] else change

    def search(self, bisection: Bisection) -> float:
        """The largest magnitude borne."""
        while (magnitude := bisection.next()) is not None:
            bisection.costs[magnitude] = self.at(magnitude)
        return bisection.largest

    def result(
        self, drop: float, magnitude: float, complete: bool, settings: dict[str, Any]
    ) -> ToleranceResult:
        """What was found, and every evaluation made."""
        return ToleranceResult(
            clean=self._goal.clean,
            rows=tuple(sorted(self.rows, key=lambda row: (row.magnitude, row.draw))),
            complete=complete,
            higher_is_better=self._goal.higher_is_better,
            settings=settings,
            metric=self._goal.metric,
            drop=float(drop),
            magnitude=magnitude,
        )


def check_search(drop: Any, high: Any, bisections: Any, mode: Any, within: Any = 0.0) -> None:
    """Raises unless these are arguments of a search."""
    check_positive("drop", drop)
    check_positive("high", high)
    check_amount("within", within)
    check_count("bisections", bisections)
    check_choice("mode", mode, ("auto", "min", "max"))

"""The loop of all that is swept: noises, magnitudes or layers, each in several draws."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from keras_weightnoise.analysis._evaluation import Evaluator, Progress, keep_at_interrupt
from keras_weightnoise.models._borrowed_weights import BorrowedWeights

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """What is evaluated in each draw.

    Attributes:
        labels: The fields of its rows that tell them apart from others.
        inject: Puts a draw into the weights.
        is_random: Whether its draws differ. If not, it is evaluated once.
        is_silent: Whether it does nothing, so that the value without noise is its value.
    """

    labels: dict[str, Any]
    inject: Callable[[int], None]
    is_random: bool
    is_silent: bool = False


Group = tuple[BorrowedWeights, Sequence[Trial]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What `measure` returns: the metrics without noise, the rows, and whether all are there."""

    clean: Metrics
    rows: list[Any]
    complete: bool


def measure(
    evaluator: Evaluator, groups: Sequence[Group], draws: Sequence[int], row: type, verbose: Any
) -> Measured:
    """Evaluates a model without noise, then every trial of every group in each draw.

    Args:
        evaluator: What evaluates.
        groups: Pairs of a context, whose `with` puts the weights back, and the trials inside of it.
        draws: The draws' numbers.
        row: What makes a row of a trial's labels, a draw, and metrics.
        verbose: See `robustness_sweep`.
    """
    trials = [trial for _, group in groups for trial in group]
    count = sum(len(draws) if t.is_random else 0 if t.is_silent else 1 for t in trials)
    progress = Progress(count, verbose)
    clean = evaluator.clean()
    # Common to every draw of what is not random.
    known: dict[Trial, Metrics] = {trial: clean for trial in trials if trial.is_silent}
    rows: list[Any] = []
    with keep_at_interrupt(rows, stacklevel=5):
        for context, group in groups:
            with context:
                progress.start()
                # An interrupt leaves fewer draws, not fewer trials.
                for draw, trial in itertools.product(draws, group):
                    if trial.is_random or trial not in known:
                        trial.inject(draw)
                        known[trial] = evaluator.noisy()
                        progress.add()
                    rows.append(row(**trial.labels, draw=draw, metrics=dict(known[trial])))
    return Measured(clean, rows, len(rows) == len(draws) * len(trials))

"""How the results of each kind of analysis look side by side."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_weightnoise._tables import Table
from keras_weightnoise.analysis._plots import pyplot
from keras_weightnoise.analysis._results import choose_metric
from keras_weightnoise.analysis._summaries import Summary, number, prefers_high
from keras_weightnoise.analysis.calibration import CalibrationResult
from keras_weightnoise.analysis.landscape_result import LandscapeResult, known
from keras_weightnoise.analysis.robustness_result import RobustnessResult
from keras_weightnoise.analysis.tolerance_result import ToleranceResult

Results = Mapping[str, Any]  # Of one kind, by the models' names.


class Kind(NamedTuple):
    """A kind of results that can be compared.

    Attributes:
        result: Their class.
        title: The line above the tables.
        tables: The tables.
        plot: The plot, from the results, a metric or `None`, and axes or `None`, to axes.
    """

    result: type
    title: str
    tables: Callable[[Results], list[Table]]
    plot: Callable[[Results, str | None, Any], Any]


def common_metrics(results: Results) -> list[str]:
    """The metrics that all have."""
    metrics = [_metrics_of(result) for result in results.values()]
    return [name for name in metrics[0] if all(name in each for each in metrics[1:])]


def _metrics_of(result: Any) -> list[str]:
    return list(_OF_REPORTS if isinstance(result, CalibrationResult) else result.clean)


# Sweeps.


def _sweep_tables(results: Results) -> list[Table]:
    tables = []
    for metric in common_metrics(results):
        found = {name: result.summaries(metric) for name, result in results.items()}
        for noise in dict.fromkeys(noise for each in found.values() for noise in each):
            own = {name: each.get(noise, {}) for name, each in found.items()}
            rows = [["without", *(number(r.clean[metric]) for r in results.values())]]
            for magnitude in sorted({m for each in own.values() for m in each}):
                rows.append([f"{magnitude:g}", *(_cell(s, magnitude) for s in own.values())])
            tables.append(Table(f"{noise}: {metric}", ("magnitude", *results), rows))
    return tables


def _cell(summaries: Mapping[float, Summary], magnitude: float) -> str:
    if magnitude not in summaries:
        return ""
    summary = summaries[magnitude]
    half = "" if summary.draws == 1 else f" ± {number(summary.high - summary.mean)}"
    return number(summary.mean) + half


def _sweep_plot(results: Results, metric: str | None, ax: Any) -> Any:
    metric = choose_metric(common_metrics(results), metric)
    for name, result in results.items():
        ax = result.plot(metric, ax=ax, label=name)
    return ax


# Tolerances.


def _tolerance_tables(results: Results) -> list[Table]:
    rows = []
    for name, result in results.items():
        rows.append(
            [
                name,
                number(result.clean[result.metric]),
                f"{result.magnitude:.4g}",
                result.interval_text,
                f"{result.flatness:.4g}",
            ]
        )
    first = next(iter(results.values()))
    title = f"The magnitude at which {first.metric} is worse by {first.drop:g}"
    header = ("model", "without noise", "magnitude", "95 % interval", "1 / magnitude^2")
    return [Table(title, header, rows)]


def _tolerance_plot(results: Results, metric: str | None, ax: Any) -> Any:
    for name, result in results.items():
        ax = result.plot(ax=ax, label=name)
    return ax


# Landscapes.


def _landscape_tables(results: Results) -> list[Table]:
    tables = []
    for metric in common_metrics(results):
        rows = []
        for name, result in results.items():
            values = known(result.values[metric])
            found = (result.clean[metric], values.mean(), values.min(), values.max())
            rows.append([name, *map(number, found)])
        tables.append(Table(metric, ("model", "centre", "mean", "lowest", "highest"), rows))
    return tables


def _landscape_plot(results: Results, metric: str | None, axes: Any) -> Any:
    metrics = common_metrics(results)
    metric = "loss" if metric is None and "loss" in metrics else choose_metric(metrics, metric)
    every = np.concatenate([result.values[metric].ravel() for result in results.values()])
    # The walls are high: the colors end where the ninth tenth of the values does.
    most = 1.0 if prefers_high(metric) else 0.9
    limits = float(known(every).min()), float(np.quantile(known(every), most))
    if {len(result.coordinates) for result in results.values()} == {1}:
        for name, result in results.items():
            axes = result.plot(metric, ax=axes, limits=limits, label=name)
        return axes
    if axes is None:
        count = len(results)
        size = (1.0 + 4.0 * count, 4.0)
        _, axes = pyplot().subplots(1, count, figsize=size, layout="constrained", squeeze=False)
        axes = axes[0]
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        result.plot(metric, ax=ax, limits=limits, label=name, colorbar=ax is axes[-1])
    return list(axes)


# Calibration.

_OF_REPORTS = ("accuracy", "nll", "brier", "ece")


def _calibration_tables(results: Results) -> list[Table]:
    rows = [
        [
            name,
            *(number(getattr(result, each)) for each in _OF_REPORTS),
            str(result.bin_count.sum()),
        ]
        for name, result in results.items()
    ]
    return [Table("", ("prediction", *_OF_REPORTS, "examples"), rows)]


def _calibration_plot(results: Results, metric: str | None, ax: Any) -> Any:
    for name, result in results.items():
        ax = result.plot(ax=ax, label=name)
    return ax


KINDS = {
    kind.result.__name__: kind
    for kind in (
        Kind(
            RobustnessResult,
            "Robustness to weight noise: mean over the draws and its 95 % interval, by Student's t",
            _sweep_tables,
            _sweep_plot,
        ),
        Kind(ToleranceResult, "Tolerance to weight noise", _tolerance_tables, _tolerance_plot),
        Kind(LandscapeResult, "Loss landscapes", _landscape_tables, _landscape_plot),
        Kind(CalibrationResult, "Calibration", _calibration_tables, _calibration_plot),
    )
}

"""Statistics of a metric over draws, and how they are printed."""

import math
import re
from typing import NamedTuple

import numpy as np

_HIGHER = re.compile(
    r"acc|auc|precision|recall|sensitivity|specificity|f1|fbeta|f_?measure|io_?u|r2|"
    r"cosine_similarity|correlation|true_",
    re.IGNORECASE,
)
# 97.5 % quantiles of Student's t distribution for 1 to 9 degrees of freedom.
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
_Z = 1.959964  # And of the normal distribution.


class Summary(NamedTuple):
    """Statistics of a metric over draws.

    Attributes:
        draws: How many.
        mean: Their mean.
        std: Their standard deviation (n - 1); NaN for a single draw.
        low: The lower end of the mean's 95 % interval, by Student's t; NaN for a single draw.
        high: The upper end.
        lower_quartile: A quarter of the draws are below it.
        median: The median.
        upper_quartile: A quarter of the draws are above it.
        worst: The worst value. NaN is worse than any other.
        worst_draw: The draw that it is of.
    """

    draws: int
    mean: float
    std: float
    low: float
    high: float
    lower_quartile: float
    median: float
    upper_quartile: float
    worst: float
    worst_draw: int


def summarize(values: dict[int, float], higher_is_better: bool) -> Summary:
    """Summarizes the values of a metric, keyed by draw."""
    numbers = np.array(list(values.values()))
    n = len(numbers)
    with np.errstate(all="ignore"):  # Noise may well make a loss infinite.
        mean = float(numbers.mean())
        std = float(numbers.std(ddof=1)) if n > 1 else math.nan
    half = t_quantile(n - 1) * std / math.sqrt(n) if n > 1 else math.nan
    # Between infinities there is nothing to interpolate.
    method = "linear" if np.all(np.isfinite(numbers)) else "inverted_cdf"
    first, median, third = np.quantile(numbers, (0.25, 0.5, 0.75), method=method).tolist()  # type: ignore[call-overload]
    worst = int(np.argmin(numbers) if higher_is_better else np.argmax(numbers))
    return Summary(
        n,
        mean,
        std,
        mean - half,
        mean + half,
        first,
        median,
        third,
        float(numbers[worst]),
        list(values)[worst],
    )


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t distribution, right to 3e-4."""
    if degrees <= len(_T):
        return _T[degrees - 1]
    z, d = _Z, degrees  # Abramowitz and Stegun, 26.7.5.
    return (
        z
        + (z**3 + z) / (4 * d)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * d**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * d**3)
    )


def prefers_high(metric: str) -> bool:
    """Whether a metric of this name is better when it is higher."""
    return "loss" not in metric.lower() and bool(_HIGHER.search(metric))


def number(value: float) -> str:
    """A metric's value for a table."""
    return f"{value:.4f}" if value == 0.0 or 1e-4 <= abs(value) < 1e5 else f"{value:.3e}"


def cells(summary: Summary) -> list[str]:
    """A summary for a table, as `HEADER` has it."""
    worst = f"{number(summary.worst)} ({summary.worst_draw})"
    if summary.draws == 1:
        return [number(summary.mean), *"----", worst, "1"]
    return [
        *map(number, (summary.mean, summary.std)),
        f"{number(summary.low)} to {number(summary.high)}",
        number(summary.median),
        f"{number(summary.lower_quartile)} to {number(summary.upper_quartile)}",
        worst,
        str(summary.draws),
    ]


HEADER = ("mean", "std", "95 % interval", "median", "quartiles", "worst (draw)", "draws")

"""Axes and colors of plots."""

from typing import Any


def pyplot() -> Any:
    """`matplotlib.pyplot`, or an `ImportError` that says how to install it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("`plot` needs matplotlib: `pip install matplotlib`.") from error
    return plt


def make_axes(ax: Any, height: float = 4.0, width: float = 6.0) -> Any:
    """`ax`, or new axes of matplotlib if there are none."""
    if ax is not None:
        return ax
    return pyplot().subplots(figsize=(width, height), layout="constrained")[1]


def shades(color: Any, count: int) -> list[Any]:
    """Colors of one hue, from `color` itself to a light one."""
    from matplotlib.colors import to_rgb

    steps = [0.65 * i / max(1, count - 1) for i in range(count)]
    return [tuple(c + step * (1.0 - c) for c in to_rgb(color)) for step in steps]


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers for the ticks of a colorbar, which would have them where colors change."""
    from matplotlib.ticker import MaxNLocator

    return [tick for tick in MaxNLocator(7).tick_values(low, high) if low <= tick <= high]


def make_logarithmic(ax: Any) -> None:
    """A logarithmic axis across, with plain numbers that do not overlap, for what is plotted by now."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_xscale("log")
    low, high = ax.get_xlim()
    span = high / low
    subs = (
        (1.0,)
        if span > 200.0
        else (1.0, 2.0, 5.0)
        if span > 8.0
        else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    )
    ax.xaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())

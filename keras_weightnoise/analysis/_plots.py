"""Axes and colors of plots."""

from typing import Any


def pyplot() -> Any:
    """`matplotlib.pyplot`, or an `ImportError` that says how to install it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "`plot` needs matplotlib: `pip install keras-weightnoise[plot]`."
        ) from error
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

"""What `loss_landscape` returns: metrics over coordinates."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_weightnoise._checks import check_choice
from keras_weightnoise._tables import Table
from keras_weightnoise.analysis._plots import make_axes, pyplot, round_ticks
from keras_weightnoise.analysis._results import Result, choose_metric, numbers, with_metrics
from keras_weightnoise.analysis._summaries import number

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LandscapeResult(Result):
    """What `loss_landscape` returns.

    Printed, it is a table: of each metric the value at the centre, the lowest and the highest.

    Attributes:
        clean: The metrics at the centre: what `model.evaluate` returned.
        coordinates: For each direction an array of coordinates, of shape (points,). The model is at 0.
        values: For each metric an array of shape (points,) or (points, points), the first axis being the
            first direction. NaN where an interrupt came first.
        labels: What the directions are called.
        trajectory: Along a run, the coordinates of its weights, of shape (weights, directions), those of
            the model last. `None` in other directions.
        complete: Whether all were measured: `False` after an interrupt.
        settings: What made it.
    """

    clean: dict[str, float]
    coordinates: tuple[Array, ...]
    values: dict[str, Array]
    labels: tuple[str, ...]
    trajectory: Array | None = None
    complete: bool
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def plot(
        self,
        metric: str | None = None,
        ax: Any = None,
        *,
        kind: str = "contour",
        limits: tuple[float, float] | None = None,
        label: str | None = None,
        colorbar: bool = True,
    ) -> Any:
        """Plots a metric: a line, or a map with contours, or a surface, whose centre is the model.

        Args:
            metric: A metric's name. `None`: the loss, or else the first. Defaults to `None`.
            ax: Axes of matplotlib, for `kind="surface"` of `projection="3d"`. `None`: new ones. Defaults to
                `None`.
            kind: `"contour"` or `"surface"`, in two directions. Defaults to `"contour"`.
            limits: The lowest and the highest value of the colors, or of a line's axis. Give several models
                the same, to compare them. `None`: those of the values. Defaults to `None`.
            label: The model's name: a title, or a line's entry in the legend. Defaults to `None`.
            colorbar: Whether a map has a bar of its colors. Defaults to `True`.

        Returns:
            The axes.
        """
        if metric is None and "loss" in self.values:
            metric = "loss"
        metric = choose_metric(self.values, metric)
        check_choice("kind", kind, ("contour", "surface"))
        values = self.values[metric]
        low, high = limits or (known(values).min(), known(values).max())
        if values.ndim == 1:
            return self._plot_line(make_axes(ax), metric, limits, label)
        if kind == "surface":
            return self._plot_surface(ax, metric, (low, high), label)
        ax = make_axes(ax, 4.5, 5.5)
        filled = self._plot_map(ax, metric, (low, high), label)
        if colorbar:
            ax.figure.colorbar(filled, ax=ax, label=metric, ticks=round_ticks(low, high))
        return ax

    def _plot_line(self, ax: Any, metric: str, limits: Any, label: str | None) -> Any:
        (axis,), values = self.coordinates, self.values[metric]
        (line,) = ax.plot(axis, values, label=label)
        if self.trajectory is not None:
            on_it = self.trajectory[:, 0]
            heights = np.interp(on_it, axis, values)
            ax.plot(on_it, heights, ".", color=line.get_color(), markersize=7.0)
        ax.set(xlabel=self.labels[0], ylabel=metric)
        if limits is not None:
            ax.set_ylim(*limits)
        if label is not None:
            ax.legend(frameon=False)
        return ax

    def _plot_map(self, ax: Any, metric: str, limits: tuple[float, float], label: Any) -> Any:
        levels = np.linspace(*limits, 13) if limits[1] > limits[0] else 13
        # Of a matrix, contours have the columns across.
        drawn = (*self.coordinates, self.values[metric].T)
        filled = ax.contourf(*drawn, levels, cmap="viridis", extend="both")
        ax.contour(*drawn, filled.levels, colors="white", linewidths=0.5, alpha=0.6)
        if self.trajectory is not None:
            ax.plot(*self.trajectory.T, ".-", color="tab:red", markersize=6.0, linewidth=1.0)
        ax.plot(0.0, 0.0, "+", color="white", markersize=9.0)
        ax.set(xlabel=self.labels[0], ylabel=self.labels[1], title=label or "")
        ax.set_aspect("equal")
        return filled

    def _plot_surface(self, ax: Any, metric: str, limits: tuple[float, float], label: Any) -> Any:
        if ax is None:
            figure = pyplot().figure(figsize=(6.0, 5.0), layout="constrained")
            ax = figure.add_subplot(projection="3d")
        a, b = np.meshgrid(*self.coordinates, indexing="ij")
        # What is above the axis would hide what is below.
        heights = np.clip(self.values[metric], *limits)
        ax.plot_surface(a, b, heights, cmap="viridis", vmin=limits[0], vmax=limits[1], linewidth=0)
        ax.set(xlabel=self.labels[0], ylabel=self.labels[1], zlabel=metric)
        ax.set(zlim=limits, title=label or "")
        return ax

    def _title(self) -> list[str]:
        shape = " x ".join(str(len(axis)) for axis in self.coordinates)
        ranges = [f"[{axis[0]:.3g}, {axis[-1]:.3g}]" for axis in self.coordinates]
        where = ranges[0] if len(set(ranges)) == 1 else " x ".join(ranges)
        incomplete = [] if self.complete else ["INCOMPLETE: interrupted before all was evaluated."]
        along = [] if self.trajectory is None else [f"Along {', and '.join(self.labels)}"]
        return [f"Loss landscape: {shape} points in {where}", *along, *incomplete]

    def _tables(self, top: int | None) -> list[Table]:
        rows = [
            [name, *map(number, (self.clean[name], known(each).min(), known(each).max()))]
            for name, each in self.values.items()
        ]
        return [Table("", ("metric", "centre", "lowest", "highest"), rows)]

    def _records(self) -> list[dict[str, Any]]:
        shape = tuple(map(len, self.coordinates))
        return [
            with_metrics(
                {n: axis[i] for n, axis, i in zip("ab", self.coordinates, place, strict=False)},
                {metric: values[place] for metric, values in self.values.items()},
            )
            for place in np.ndindex(*shape)
        ]

    @classmethod
    def _from_standard(cls, content: dict[str, Any]) -> dict[str, Any]:
        arrays = {name: np.array(each, float) for name, each in content["values"].items()}
        trajectory = content["trajectory"]
        return content | {
            "clean": numbers(content["clean"]),
            "coordinates": tuple(np.array(each, float) for each in content["coordinates"]),
            "labels": tuple(content["labels"]),
            "trajectory": None if trajectory is None else np.array(trajectory, float),
            "values": arrays,
        }


def known(values: Array) -> Array:
    """The values that are not NaN, of which NumPy finds the lowest without a warning; or else a NaN."""
    found = values[~np.isnan(values)]
    return found if found.size else np.array([np.nan])

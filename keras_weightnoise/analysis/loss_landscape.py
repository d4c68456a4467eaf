"""Loss and metrics on a line or a plane through the weights."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_weightnoise._checks import check_choice, check_integer, check_positive
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.analysis._directions import (
    Direction,
    Directions,
    Normalize,
    check_directions,
    directions_to,
    random_directions,
)
from keras_weightnoise.analysis._evaluation import (
    Evaluator,
    Progress,
    Verbose,
    check_arguments,
    keep_at_interrupt,
)
from keras_weightnoise.analysis._settings import describe
from keras_weightnoise.analysis._trajectory import principal_directions
from keras_weightnoise.analysis.landscape_result import LandscapeResult
from keras_weightnoise.models._borrowed_weights import BorrowedWeights

_BEYOND = 0.25  # How far a landscape goes beyond a trajectory, if nothing else is said.


def loss_landscape(
    model: Any,
    data: Any,
    *,
    directions: Any = 2,
    trajectory: Sequence[Any] | None = None,
    span: float | None = None,
    points: int = 21,
    normalize: Normalize | None = "filter",
    variables: Selector | None = "kernels",
    exclude: Selector | None = None,
    recalibrate: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    steps: int | None = None,
    verbose: Verbose = "auto",
) -> LandscapeResult:
    """Evaluates a model on a grid of weights `w + a d_1 + b d_2`, for a and b in [-span, span].

    Directions are random, d ~ N(0, 1), and as long as the weights, filter by filter (Li et al.):
    `d_f <- d_f ||w_f|| / ||d_f||`, so that models whose weights differ in size compare. What is not
    selected, here everything but kernels, is 0. Or they lead to other models of the same architecture,
    each at coordinate 1. Or they are the principal components of the weights of a run, which is drawn in.

    Use it to see how flat a minimum is, beside a sweep, which says what noise costs on average, whether
    there is a barrier between two models, or which way training took. `compare` lays the landscapes of
    several models side by side, on one scale of colors.

    The centre is what `model.evaluate` says, to the bit. The weights and the state of the model are bit for
    bit as they were afterwards. A `KeyboardInterrupt` (Ctrl-C) ends it early: with a warning, the result has
    what was measured, from the centre outwards, and NaN elsewhere.

    Args:
        model: A built and compiled `keras.Model`.
        data: What to evaluate on: see `robustness_sweep`.
        directions: 1, a line, or 2, a plane, in random directions. Or one other model, or a list of two,
            of the same architecture: `a = 1` is the first, `b = 1` the second, with all of its float
            weights and statistics. Defaults to `2`.
        trajectory: The weights of a run that ended at the model, in their order: a list of files of weights,
            such as `ModelCheckpoint` writes, of models, or of what `get_weights` returned. Then directions,
            1 or 2, are the principal components of these weights and the model's, each as long as the run
            extends along it: PCA on what is learned, centred, in which statistics move along. All are held
            in memory. Defaults to `None`.
        span: Number > 0: how far to go each way, beyond the model and its `trajectory`, in units of the
            direction. Defaults to `None`: 1.0, of a trajectory 0.25.
        points: Odd integer >= 3: how many along each direction. Defaults to `21`.
        normalize: `"filter"`: random directions have the norm of the weights in each filter (output
            channel). `"variable"`: in each variable. `None`: they are left as drawn. Defaults to
            `"filter"`.
        variables: Which variables random directions move, as in `perturb_weights`. Defaults to
            `"kernels"`.
        exclude: Which of these not. Defaults to `None`.
        recalibrate: Data to estimate BatchNormalization's statistics on anew at each point but the centre:
            see `robustness_sweep`. Defaults to `None`.
        seed: Integer in [0, 2**32): of random directions. Models of one architecture have the same for one
            seed, but for their norms. Defaults to `0`.
        batch_size: See `robustness_sweep`.
        steps: See `robustness_sweep`.
        verbose: See `robustness_sweep`.

    Returns:
        A `LandscapeResult`, with `coordinates` and, by metric, `values`. Print it, `plot` it, turn it into a
        `pandas.DataFrame` or JSON.

    Raises:
        ValueError: If the model is not compiled or not built, a selector matches nothing, or another model's
            weights are of other shapes.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import loss_landscape
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile(loss="mse")
    >>> x = np.eye(4)
    >>> result = loss_landscape(model, (x, model.predict(x, verbose=0)), points=5, verbose=0)
    >>> result.values["loss"].shape, float(result.values["loss"][2, 2])
    ((5, 5), 0.0)

    References:
        - [Li et al., 2018](https://arxiv.org/abs/1712.09913) (filter-normalised directions)
        - [Goodfellow et al., 2015](https://arxiv.org/abs/1412.6544) (lines between models)
    """
    check_arguments(model, data, seed)
    _check_grid(span, points, normalize)
    if trajectory is not None:
        found, kind = principal_directions(model, trajectory, directions), "principal components"
        normalize = None
    elif (others := check_directions(model, directions)) is not None:
        found, kind, normalize = directions_to(model, others), "towards models", None
    else:
        found = random_directions(model, directions, variables, exclude, seed, normalize)
        kind = "random"
    evaluator = Evaluator(model, data, batch_size, steps, recalibrate)
    settings = describe(
        model,
        found.moved,
        directions=kind,
        normalize=normalize,
        seed=seed,
        recalibrated=recalibrate is not None,
    )
    axes = _axes(found, span, points)
    progress = Progress(points ** len(axes) - 1, verbose)
    return _measure(model, evaluator, found, axes, progress, settings)


def _axes(directions: Directions, span: float | None, points: int) -> list[Any]:
    """The coordinates along each direction. The model itself, at 0, is among them, to the bit."""
    if directions.trajectory is None:
        half = np.linspace(0.0, 1.0 if span is None else float(span), points // 2 + 1)
        return [np.concatenate([-half[:0:-1], half])] * len(directions.vectors)
    beyond = _BEYOND if span is None else float(span)
    ends = directions.trajectory.min(axis=0) - beyond, directions.trajectory.max(axis=0) + beyond
    axes = []
    for low, high in zip(*ends, strict=True):
        step = (high - low) / (points - 1)
        axes.append(step * (np.arange(points) - round(-low / step)))
    return axes


def _measure(
    model: Any,
    evaluator: Evaluator,
    directions: Directions,
    axes: list[Any],
    progress: Progress,
    settings: dict[str, Any],
) -> LandscapeResult:
    """Evaluates a model at each place of the grid that the axes span along the directions."""
    shape = tuple(map(len, axes))
    clean = evaluator.clean()
    values = {metric: np.full(shape, np.nan) for metric in clean}
    done: list[tuple[int, ...]] = []
    borrowed = BorrowedWeights(model, directions.moved)
    with keep_at_interrupt(done, stacklevel=5), borrowed as weights:
        grid = _Grid(weights.clean, directions.vectors)
        progress.start()
        for place in _outwards(axes):
            at = [float(axis[i]) for axis, i in zip(axes, place, strict=True)]
            if any(at):
                weights.put(grid.values_at(at))
                metrics = evaluator.noisy()
                progress.add()
            else:
                metrics = clean
            for metric, value in metrics.items():
                values[metric][place] = value
            done.append(place)
    return LandscapeResult(
        clean=clean,
        coordinates=tuple(axes),
        values=values,
        labels=tuple(directions.labels),
        trajectory=directions.trajectory,
        complete=len(done) == np.prod(shape),
        settings=settings,
    )


class _Grid:
    """The weights at coordinates, in `float64` and rounded once: exact at the ends of directions."""

    def __init__(self, clean: Sequence[Tensor], vectors: Sequence[Direction]) -> None:
        self._clean = clean
        self._wide = [tf.cast(value, tf.float64) for value in clean]
        self._vectors = vectors
        self._row: tuple[float, Direction] | None = None

    def values_at(self, coordinates: Sequence[float]) -> Callable[..., list[Tensor]]:
        """What makes the values of the variables there."""
        return lambda _: self._at(coordinates)

    def _at(self, coordinates: Sequence[float]) -> list[Tensor]:
        first, *second = coordinates
        # Neighbours share the first coordinate.
        if self._row is None or self._row[0] != first:
            self._row = (first, _move(self._wide, first, self._vectors[0]))
        moved = _move(self._row[1], second[0], self._vectors[1]) if second else self._row[1]
        return [tf.cast(m, value.dtype) for m, value in zip(moved, self._clean, strict=True)]


def _move(values: Direction, distance: float, direction: Direction) -> Direction:
    return [value + distance * d for value, d in zip(values, direction, strict=True)]


def _outwards(axes: Sequence[Any]) -> list[tuple[int, ...]]:
    """The places of a grid, row by row, those near the centre first."""
    ranges = [sorted(range(len(axis)), key=lambda i, axis=axis: abs(axis[i])) for axis in axes]  # type: ignore[misc]
    return list(itertools.product(*ranges))


def _check_grid(span: Any, points: Any, normalize: Any) -> None:
    if span is not None:
        check_positive("span", span)
    check_integer("points", points, 3)
    if points % 2 == 0:
        raise ValueError(
            "Invalid `points`. Expected an odd integer >= 3, so that the model itself is one of them. "
            f"Received: points={points}"
        )
    check_choice("normalize", normalize, (None, "filter", "variable"))

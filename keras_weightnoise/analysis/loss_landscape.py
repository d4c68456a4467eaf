"""Loss and metrics on a line or a plane through the weights."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise._checks import check_count, is_number
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.kernels import is_float
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise._weights.values import stored_values
from keras_weightnoise.analysis._evaluation import (
    Evaluator,
    Progress,
    Verbose,
    check_arguments,
    keep_at_interrupt,
)
from keras_weightnoise.analysis._settings import describe
from keras_weightnoise.analysis.landscape_result import LandscapeResult
from keras_weightnoise.models._borrowed_weights import BorrowedWeights
from keras_weightnoise.models.perturb import PerturbedWeights
from keras_weightnoise.noises import Gaussian

Normalize = Literal["filter", "variable"]
Direction = list[Tensor]  # For each variable, in float64.


def loss_landscape(
    model: Any,
    data: Any,
    *,
    directions: Any = 2,
    span: float = 1.0,
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
    each at coordinate 1.

    Use it to see how flat a minimum is, beside a sweep, which says what noise costs on average, or whether
    there is a barrier between two models. The centre is what `model.evaluate` says, to the bit. The weights
    and the state of the model are bit for bit as they were afterwards. A `KeyboardInterrupt` (Ctrl-C) ends
    it early: with a warning, the result has what was measured, from the centre outwards, and NaN elsewhere.

    Args:
        model: A built and compiled `keras.Model`.
        data: What to evaluate on: see `robustness_sweep`.
        directions: 1, a line, or 2, a plane, in random directions. Or one other model, or a list of two,
            of the same architecture: `a = 1` is the first, `b = 1` the second, with all of its float
            weights and statistics. Defaults to `2`.
        span: Number > 0: how far to go each way, in units of the direction. Defaults to `1.0`.
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
    check_arguments(model, seed)
    _check_grid(span, points, normalize)
    others = _others(model, directions)
    if others is None:
        moved, vectors = _random(model, directions, variables, exclude, seed, normalize)
    else:
        moved, vectors = _towards(model, others)
    evaluator = Evaluator(model, data, batch_size, steps, recalibrate)
    settings = describe(
        model,
        moved,
        directions="random" if others is None else [other.name for other in others],
        normalize=normalize if others is None else None,
        seed=seed,
        recalibrated=recalibrate is not None,
    )
    half = np.linspace(0.0, float(span), points // 2 + 1)
    axis = np.concatenate([-half[:0:-1], half])
    progress = Progress(points ** len(vectors) - 1, verbose)
    return _measure(model, evaluator, moved, vectors, axis, progress, settings)


def _measure(
    model: Any,
    evaluator: Evaluator,
    moved: list[Any],
    vectors: Sequence[Direction],
    axis: Any,
    progress: Progress,
    settings: dict[str, Any],
) -> LandscapeResult:
    """Evaluates a model at each place of the grid that `axis` spans along `vectors`."""
    shape = (len(axis),) * len(vectors)
    clean = evaluator.clean()
    values = {metric: np.full(shape, np.nan) for metric in clean}
    done: list[tuple[int, ...]] = []
    with keep_at_interrupt(done, stacklevel=5), BorrowedWeights(model, moved) as weights:
        grid = _Grid(weights.clean, vectors)
        progress.start()
        for place in _outwards(shape):
            at = [float(axis[i]) for i in place]
            if any(at):
                weights.put(grid.at(at))
                metrics = evaluator.noisy()
                progress.add()
            else:
                metrics = clean
            for metric, value in metrics.items():
                values[metric][place] = value
            done.append(place)
    return LandscapeResult(
        clean=clean,
        coordinates=axis,
        values=values,
        complete=len(done) == len(axis) ** len(vectors),
        settings=settings,
    )


class _Grid:
    """The weights at coordinates, in `float64` and rounded once: exact at the ends of directions."""

    def __init__(self, clean: Sequence[Tensor], vectors: Sequence[Direction]) -> None:
        self._clean = clean
        self._wide = [tf.cast(value, tf.float64) for value in clean]
        self._vectors = vectors
        self._row: tuple[float, Direction] | None = None

    def at(self, coordinates: Sequence[float]) -> list[Tensor]:
        """The values of the variables there."""
        first, *second = coordinates
        # Neighbours share the first coordinate.
        if self._row is None or self._row[0] != first:
            self._row = (first, _move(self._wide, first, self._vectors[0]))
        moved = _move(self._row[1], second[0], self._vectors[1]) if second else self._row[1]
        return [tf.cast(m, value.dtype) for m, value in zip(moved, self._clean, strict=True)]


def _move(values: Direction, distance: float, direction: Direction) -> Direction:
    return [value + distance * d for value, d in zip(values, direction, strict=True)]


def _outwards(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The places of a grid, row by row, those near the centre first."""
    ranges = [sorted(range(size), key=lambda i, size=size: abs(i - size // 2)) for size in shape]  # type: ignore[misc]
    return list(itertools.product(*ranges))


def _random(
    model: Any, count: int, variables: Any, exclude: Any, seed: int, normalize: Normalize | None
) -> tuple[list[Any], list[Direction]]:
    """The variables that random directions move, and the directions."""
    noisy = PerturbedWeights(model, Gaussian(1.0), variables, exclude, seed)
    targets = [target for _, each in noisy.assigned for target in each]
    clean = stored_values(noisy.variables)
    nothing = [tf.zeros_like(value, tf.float32) for value in clean]
    directions = []
    for step in range(count):
        direction = []
        for target, w, n in zip(
            targets, clean, noisy.draw(nothing, step, traced=False), strict=True
        ):
            axes = target.axes if normalize == "filter" else tuple(range(len(w.shape)))
            d = tf.cast(n, tf.float64)
            if normalize is not None:
                d *= tf.math.divide_no_nan(_norm(tf.cast(w, tf.float64), axes), _norm(d, axes))
            direction.append(d)
        directions.append(direction)
    return noisy.variables, directions


def _norm(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return tf.sqrt(tf.reduce_sum(tf.square(x), axes, keepdims=True))


def _towards(model: Any, others: Sequence[Any]) -> tuple[list[Any], list[Direction]]:
    """The variables that differ between models, and the ways to the others."""
    places = [i for i, variable in enumerate(model.variables) if is_float(variable)]
    moved = [model.variables[i] for i in places]
    here = stored_values(moved)
    directions = []
    for other in others:
        there = stored_values([other.variables[i] for i in places])
        directions.append(
            [
                tf.cast(b, tf.float64) - tf.cast(a, tf.float64)
                for a, b in zip(here, there, strict=True)
            ]
        )
    return moved, directions


def _others(model: Any, directions: Any) -> list[Any] | None:
    """The models that directions lead to, or `None` if they are random."""
    if isinstance(directions, int) and not isinstance(directions, bool) and directions in (1, 2):
        return None
    others = list(directions) if isinstance(directions, list | tuple) else [directions]
    if not (len(others) in (1, 2) and all(isinstance(other, keras.Model) for other in others)):
        raise ValueError(
            "Invalid `directions`. Expected 1, 2, a `keras.Model`, or a list of one or two of these. "
            f"Received: directions={directions!r}"
        )
    shapes = [tuple(variable.shape) for variable in model.variables]
    for other in others:
        if [tuple(variable.shape) for variable in other.variables] != shapes:
            raise ValueError(
                f"Invalid `directions`. Expected models with variables of the shapes that those of "
                f"{model.name!r} have. Received: {other.name!r}, which has others"
            )
    return others


def _check_grid(span: Any, points: Any, normalize: Any) -> None:
    if not (is_number(span) and 0 < span < np.inf):
        raise ValueError(f"Invalid `span`. Expected a number > 0. Received: span={span!r}")
    check_count("points", points)
    if points < 3 or points % 2 == 0:
        raise ValueError(
            "Invalid `points`. Expected an odd integer >= 3, so that the model itself is one of them. "
            f"Received: points={points}"
        )
    if normalize not in (None, "filter", "variable"):
        raise ValueError(
            'Invalid `normalize`. Expected "filter", "variable" or `None`. '
            f"Received: normalize={normalize!r}"
        )

"""Which layers of a trained model weight noise breaks first."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from keras_weightnoise._weights.reachable import Variable
from keras_weightnoise._weights.rules import Assigned, assign, get_rules
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.analysis._evaluation import (
    RepeatedData,
    Verbose,
    check_arguments,
    evaluate,
    is_random,
    keep_at_interrupt,
    make_progress,
    unique,
)
from keras_weightnoise.analysis._summaries import prefers_high
from keras_weightnoise.analysis.sensitivity_result import SensitivityResult, SensitivityRow
from keras_weightnoise.models.perturb import PerturbedWeights
from keras_weightnoise.noises import Magnitude, Noise


def layer_sensitivity(
    model: Any,
    data: Any,
    noise: Noise | Magnitude | Mapping[Any, Any] | Sequence[Any],
    *,
    by: Literal["layer", "variable"] = "layer",
    draws: int = 10,
    variables: Selector | None = None,
    exclude: Selector | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    steps: int | None = None,
    verbose: Verbose = "auto",
) -> SensitivityResult:
    """Evaluates a model with noise in one layer at a time: metrics of `f(x; w + n in one layer)`.

    Use it to find the layers that weight noise breaks first: those to keep in higher precision, to
    protect from faults, or to leave out of the noise. All else is as in `robustness_sweep`: the clean
    value comes first, a layer's noise in draw d is what it has there, an interrupt keeps what was
    measured, and the weights are bit for bit as they were afterwards.

    Args:
        model: A built and compiled `keras.Model`.
        data: See `robustness_sweep`.
        noise: The noise and its magnitude, as in `perturb_weights`: a number, the standard deviation of
            Gaussian noise; one of `keras_weightnoise.noises`; or a mapping from selectors to such.
        by: `"layer"`: one layer at a time, of those that own a selected variable themselves.
            `"variable"`: one variable. Defaults to `"layer"`.
        draws: Integer >= 1: how many draws for each. Defaults to `10`.
        variables: Which variables, as in `perturb_weights`. Defaults to `None`: every float weight.
        exclude: Which of these not. Defaults to `None`.
        seed: Integer in [0, 2**32). Defaults to `0`.
        batch_size: See `robustness_sweep`.
        steps: How many batches of `data` to use. Defaults to `None`: all.
        verbose: 0 for no progress bar. `"auto"`: 1. Defaults to `"auto"`.

    Returns:
        A `SensitivityResult`: print it, `plot` it, turn it into a `pandas.DataFrame` or JSON.

    Raises:
        ValueError: If the model is not compiled or not built, or a selector matches nothing.
        TypeError: If an argument is of another type, or a magnitude is a schedule.

    Example:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import layer_sensitivity
    >>> layers = [keras.layers.Dense(1, name=name) for name in ("first", "second")]
    >>> model = keras.Sequential([keras.Input((4,)), *layers], name="model")
    >>> model.compile(loss="mse")
    >>> x = np.ones((8, 4))
    >>> result = layer_sensitivity(model, (x, model.predict(x, verbose=0)), 0.1, draws=5, verbose=0)
    >>> sorted(result.summaries())
    ['model/first', 'model/second']
    """
    check_arguments(model, draws, seed)
    if by not in ("layer", "variable"):
        raise ValueError(f'Invalid `by`. Expected "layer" or "variable". Received: by={by!r}')
    rules = get_rules(noise)
    parts = _parts(assign(model, rules, variables, exclude, frozen=True), by)
    names = _names(parts, by)
    # One graph draws for all. A noise that is not enabled leaves the weights as they are, bit for bit.
    noisy = PerturbedWeights(
        model,
        [(functools.partial(_is_among, part.targets), part.noise) for part in parts],
        seed=seed,
    )
    sizes = [part.noise.magnitudes_at(0) for part in parts]
    examples = RepeatedData("data", data, batch_size, steps)

    random = {key: any(is_random(part.noise) for part in parts if part.key == key) for key in names}
    progress = make_progress(1 + sum(draws if random[key] else 1 for key in names), verbose)
    clean = evaluate(model, examples)
    progress.add(1)
    known: dict[int, dict[str, float]] = {}
    rows: list[SensitivityRow] = []
    with keep_at_interrupt(rows), noisy:
        # An interrupt leaves fewer draws, not fewer layers.
        for draw, key in itertools.product(range(draws), names):
            if random[key] or key not in known:
                noisy.inject(draw, sizes, [part.key == key for part in parts])
                known[key] = evaluate(model, examples)
                progress.add(1)
            rows.append(SensitivityRow(names[key], draw, dict(known[key])))
    rows.sort(key=lambda row: (row.name, row.draw))
    return SensitivityResult(
        clean=clean,
        rows=tuple(rows),
        complete=len(rows) == draws * len(names),
        higher_is_better={metric: prefers_high(metric) for metric in clean},
        by=by,
        noise=", ".join(
            str(each) if selector is None else f"{selector}: {each}" for selector, each in rules
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """What one noise does to one layer (or variable), which `key` tells from others."""

    key: int
    noise: Noise
    targets: list[Target]


def _parts(assigned: Sequence[Assigned], by: str) -> list[_Part]:
    parts = []
    for noise, targets in assigned:
        groups: dict[int, list[Target]] = {}
        for target in targets:
            owner = target.layer if by == "layer" else target.variable
            groups.setdefault(id(owner), []).append(target)
        parts += [_Part(key, noise, group) for key, group in groups.items()]
    return parts


def _names(parts: Sequence[_Part], by: str) -> dict[int, str]:
    """Readable names of the keys, no two alike."""
    owners = {
        part.key: part.targets[0].layer if by == "layer" else part.targets[0].variable
        for part in parts
    }
    names = unique([owner.path or owner.name for owner in owners.values()])
    return dict(zip(owners, names, strict=True))


def _is_among(targets: Sequence[Target], variable: Variable) -> bool:
    return any(target.variable is variable for target in targets)

"""One model evaluated many times, on the same data each time, until done or interrupted."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise._checks import check_count, check_model
from keras_weightnoise._random import seeds
from keras_weightnoise.noises import Noise

Verbose = Literal["auto", 0, 1, 2]


class RepeatedData:
    """What `evaluate` or `predict` takes, to pass on any number of times.

    Args:
        name: The argument's name, for errors.
        data: A tuple `(x, y)` or `(x, y, sample_weight)` of arrays; a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, or whatever else Keras takes as `x`. An iterator, which can be
            read only once, is read here, and its batches are kept.
        batch_size: Examples in a batch of arrays, or `None`.
        steps: How many batches to use, or `None` for all.
    """

    def __init__(
        self, name: str, data: Any, batch_size: int | None = None, steps: int | None = None
    ) -> None:
        for key, value in (("batch_size", batch_size), ("steps", steps)):
            if value is not None:
                check_count(key, value)
        batched = isinstance(data, tf.data.Dataset | keras.utils.PyDataset | Iterator)
        if batched and batch_size is not None:
            raise ValueError(
                f"`{name}` comes in batches of its own. Expected `batch_size=None`. "
                f"Received: batch_size={batch_size}"
            )
        self._batches = _read(name, data, steps) if isinstance(data, Iterator) else None
        if isinstance(data, tuple) and len(data) not in (2, 3):
            raise ValueError(
                f"Invalid `{name}`. Expected a tuple to be (x, y) or (x, y, sample_weight). "
                f"Received: a tuple of {len(data)}"
            )
        if (
            isinstance(data, tf.data.Dataset)
            and steps is None
            and data.cardinality() == tf.data.INFINITE_CARDINALITY
        ):
            raise ValueError(f"`{name}` has no end. Expected `steps`. Received: steps=None")
        self._data = () if self._batches is not None else data
        self._options = {"batch_size": batch_size, "steps": steps}

    def inputs(self) -> dict[str, Any]:
        """The arguments of `predict`."""
        if self._batches is not None:
            return {"x": (batch for batch in self._batches), "steps": len(self._batches)}
        x = self._data[0] if isinstance(self._data, tuple) else self._data
        return {"x": x, **self._options}

    def examples(self) -> dict[str, Any]:
        """The arguments of `evaluate`."""
        if not isinstance(self._data, tuple):
            return self.inputs()
        return {**self.inputs(), **dict(zip(("y", "sample_weight"), self._data[1:], strict=False))}


def evaluate(model: Any, data: RepeatedData) -> dict[str, float]:
    """Every metric of `model.evaluate`. One with several values gives a metric for each."""
    history = vars(model).get("history")
    try:
        logs = model.evaluate(**data.examples(), return_dict=True, verbose=0)
    finally:
        # As of Keras 3.5, `evaluate` puts one of its own there.
        if history is not None:
            model.history = history
    metrics = {}
    for name, value in logs.items():
        values = np.asarray(value)
        if values.ndim == 0:
            metrics[name] = float(values)
        else:
            metrics |= {f"{name}_{i}": float(each) for i, each in enumerate(values.ravel())}
    return metrics


def is_random(noise: Noise) -> bool:
    """Whether the draws of a noise differ."""
    return any(
        member.draws and not member.is_off_at(magnitude)
        for member, magnitude in zip(noise.members, noise.magnitudes, strict=True)
    )


def make_progress(target: int, verbose: Verbose) -> Any:
    """A progress bar over evaluations."""
    if isinstance(verbose, bool) or verbose not in ("auto", 0, 1, 2):
        raise ValueError(
            f'Invalid `verbose`. Expected "auto", 0, 1 or 2. Received: verbose={verbose!r}'
        )
    return keras.utils.Progbar(
        target, verbose=1 if verbose == "auto" else verbose, unit_name="evaluation"
    )


@contextlib.contextmanager
def keep_at_interrupt(rows: Sequence[Any]) -> Iterator[None]:
    """Ends at a `KeyboardInterrupt`, with a warning, if there are rows by then."""
    try:
        yield
    except KeyboardInterrupt:
        if not rows:
            raise
        warnings.warn(
            f"Interrupted. The result is incomplete: it holds the {len(rows)} rows measured so far. "
            "The model's weights are as they were.",
            stacklevel=4,
        )


def check_arguments(model: Any, draws: object, seed: Any) -> None:
    """Raises unless there is a model to evaluate, in this many draws, of this seed."""
    check_compiled(model)
    check_count("draws", draws)
    if seeds.check_seed(seed) is None:
        raise TypeError("Invalid `seed`. Expected an integer. Received: seed=None")


def check_compiled(model: Any) -> None:
    """Raises unless `model` is a compiled `keras.Model`."""
    check_model(model)
    if not model.compiled:
        raise ValueError(
            f"Model {model.name!r} is not compiled, so there is nothing to evaluate. Expected "
            "`model.compile(loss=..., metrics=...)` before."
        )


def unique(names: Sequence[str]) -> list[str]:
    """The names, with a number after those that were there before."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def _read(name: str, data: Iterator[Any], steps: int | None) -> list[Any]:
    batches: list[Any] = []
    # Asked for no more than `steps`: what others read from it goes on where this ended.
    while steps is None or len(batches) < steps:
        try:
            batch = next(data)
        except StopIteration:
            break
        # A generator may fill the same array again.
        batches.append(
            keras.tree.map_structure(lambda a: a.copy() if isinstance(a, np.ndarray) else a, batch)
        )
    if not batches or (steps is not None and len(batches) < steps):
        raise ValueError(
            f"`{name}` ended too soon. Expected {'at least one batch' if steps is None else steps}. "
            f"Received: {len(batches)} batches"
        )
    return batches

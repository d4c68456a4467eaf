"""A model evaluated many times, until done or interrupted."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence, Sized
from typing import Any, Literal

import keras
import numpy as np

from keras_weightnoise._checks import check_count, check_model
from keras_weightnoise._random import seeds
from keras_weightnoise._weights.state import kept_state
from keras_weightnoise.analysis._recalibration import Recalibration
from keras_weightnoise.analysis._repeated_data import RepeatedData
from keras_weightnoise.noises import Noise

Verbose = Literal["auto", 0, 1, 2]


class Evaluator:
    """Evaluates a model on the same data each time.

    Args:
        model: A compiled `keras.Model`.
        data: See `robustness_sweep`; or `RepeatedData`.
        batch_size: See `robustness_sweep`.
        steps: See `robustness_sweep`.
        recalibrate: See `robustness_sweep`.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        batch_size: int | None = None,
        steps: int | None = None,
        recalibrate: Any = None,
    ) -> None:
        self._model = model
        if not isinstance(data, RepeatedData):
            data = RepeatedData("data", data, batch_size, steps)
        self._data = data
        self._data.check_targets(model)
        self.recalibration = None
        if recalibrate is not None:
            again = RepeatedData("recalibrate", recalibrate, batch_size, steps)
            self.recalibration = Recalibration(model, again)

    def clean(self) -> dict[str, float]:
        """The metrics of the model as it is. One with several values gives a metric for each."""
        with kept_state(self._model):  # The draws that follow start from the same state.
            return self._evaluate()

    def noisy(self) -> dict[str, float]:
        """The metrics of the model under noise: with statistics estimated anew, if that is asked for."""
        if self.recalibration is None:
            return self._evaluate()
        with self.recalibration.recalibrated():
            return self._evaluate()

    def _evaluate(self) -> dict[str, float]:
        history = vars(self._model).get("history")
        try:
            logs = self._model.evaluate(**self._data.examples(), return_dict=True, verbose=0)
        finally:
            # As of Keras 3.5, `evaluate` puts one of its own there.
            if history is not None:
                self._model.history = history
        if not logs:
            raise ValueError("Invalid `data`. Expected at least one batch. Received: none")
        metrics = {}
        for name, value in logs.items():
            values = np.asarray(value)
            if values.ndim == 0:
                metrics[name] = float(values)
            else:
                metrics |= {f"{name}_{i}": float(each) for i, each in enumerate(values.ravel())}
        return metrics


class Progress:
    """A progress bar over evaluations.

    Its clock starts at `start`, so that it does not take for typical what the first evaluation costs.
    """

    def __init__(self, target: int, verbose: Verbose) -> None:
        if isinstance(verbose, bool) or verbose not in ("auto", 0, 1, 2):
            raise ValueError(
                f'Invalid `verbose`. Expected "auto", 0, 1 or 2. Received: verbose={verbose!r}'
            )
        self._target, self._verbose = target, 1 if verbose == "auto" else verbose
        self._count = 0
        self._bar: Any = None

    def start(self) -> None:
        """Starts the clock, if it does not run."""
        if self._bar is None:
            self._bar = keras.utils.Progbar(
                self._target, verbose=self._verbose, unit_name="evaluation"
            )

    def add(self) -> None:
        """Counts one evaluation."""
        self._count += 1
        self._bar.update(self._count)

    def finish(self) -> None:
        """Shows that it is done, if that is so after fewer evaluations than planned."""
        if self._count < self._target:
            self._bar.update(self._count, finalize=True)


def is_random(noise: Noise) -> bool:
    """Whether the draws of a noise differ."""
    return any(
        member.draws and not member.is_off_at(magnitude)
        for member, magnitude in zip(noise.members, noise.magnitudes, strict=True)
    )


@contextlib.contextmanager
def keep_at_interrupt(rows: Sized, stacklevel: int = 4) -> Iterator[None]:
    """Ends at a `KeyboardInterrupt`, with a warning, if there are rows by then."""
    try:
        yield
    except KeyboardInterrupt:
        if not rows:
            raise
        warnings.warn(
            f"Interrupted. The result is incomplete: it holds the {len(rows)} rows measured so far. "
            "The model's weights are as they were.",
            stacklevel=stacklevel,
        )


def check_arguments(model: Any, data: Any, seed: Any) -> None:
    """Raises unless there is a model to evaluate, and a seed."""
    check_model(model, data=data)
    check_compiled(model)
    if seeds.check_seed(seed) is None:
        raise TypeError("Invalid `seed`. Expected an integer. Received: seed=None")


def check_draws(draws: Any) -> list[int]:
    """The numbers of the draws that an int (so many) or a range stands for."""
    if isinstance(draws, list | tuple):
        raise TypeError(
            f"Invalid `draws`. Expected an integer >= 1, or a range. Received: draws={draws}"
        )
    if not isinstance(draws, range):
        check_count("draws", draws)
        return list(range(draws))
    if not draws or min(draws) < 0:
        raise ValueError(
            "Invalid `draws`. Expected an integer >= 1, or a range of at least one integer >= 0. "
            f"Received: draws={draws}"
        )
    return sorted(draws)


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

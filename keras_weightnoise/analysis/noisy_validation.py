"""Robustness as a metric of training."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_weightnoise._checks import check_count, renamed
from keras_weightnoise._random import seeds
from keras_weightnoise._weights.rules import get_rules
from keras_weightnoise._weights.selectors import Selector, check_selectors
from keras_weightnoise.analysis._evaluation import Evaluator
from keras_weightnoise.analysis._repeated_data import RepeatedData
from keras_weightnoise.models._borrowed_weights import BorrowedWeights
from keras_weightnoise.models.perturb import PerturbedWeights
from keras_weightnoise.noises import Magnitude, Noise


class NoisyValidationCallback(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types.
    """Evaluates the model under weight noise after epochs: `val_noisy_<metric>` in the logs.

    The figure is the mean over draws of `metric(f(x; w + n_d))`. The draws are the same after each epoch, so
    that what changes is the model. The training, its weights and its state are what they are without this
    callback.

    Use it to stop or to keep a model where it is most robust, and to watch robustness in TensorBoard. List it
    before the callbacks that read the logs, and name the direction, which Keras cannot guess from these
    names: `keras.callbacks.EarlyStopping("val_noisy_accuracy", mode="max")`.

    Args:
        validation_data: Held-out data, as `robustness_sweep` takes it.
        noise: The noise and its magnitude, as in `perturb_weights`: a number, the standard deviation of
            Gaussian noise; one of `keras_weightnoise.noises`; or a mapping from selectors to such.
        draws: Integer >= 1: how many draws. Each costs an evaluation. Defaults to `3`.
        every: Integer >= 1: after every so many epochs. Logs of the others have no such figures. Defaults to
            `1`.
        variables: Which variables, as in `perturb_weights`. Defaults to `None`: every float weight.
        exclude: Which of these not. Defaults to `None`.
        seed: Integer in [0, 2**32). Defaults to `0`.
        batch_size: Examples in a batch, if the data are arrays. Defaults to `None`: 32.
        steps: How many batches to use. Defaults to `None`: all.

    Raises:
        ValueError: If a number is out of its range. In `fit`: if a selector matches nothing.
        TypeError: If an argument is of another type. In `fit`: if a magnitude is a schedule.

    Example:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import NoisyValidationCallback
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(loss="mse", metrics=["mae"])
    >>> x, y = np.ones((8, 4)), np.ones((8, 1))
    >>> history = model.fit(x, y, verbose=0, callbacks=[NoisyValidationCallback((x, y), 0.1)])
    >>> sorted(history.history)
    ['loss', 'mae', 'val_noisy_loss', 'val_noisy_mae']
    """

    @renamed(stddev="noise", layers="variables", data="validation_data")
    def __init__(
        self,
        validation_data: Any,
        noise: Noise | Magnitude | Mapping[Any, Any] | Sequence[Any],
        *,
        draws: int = 3,
        every: int = 1,
        variables: Selector | None = None,
        exclude: Selector | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        check_count("draws", draws)
        check_count("every", every)
        get_rules(noise)
        check_selectors(variables=variables, exclude=exclude)
        if seeds.check_seed(seed) is None:
            raise TypeError("Invalid `seed`. Expected an integer. Received: seed=None")
        self.validation_data = RepeatedData("validation_data", validation_data, batch_size, steps)
        self.noise = noise
        self.draws = draws
        self.every = every
        self.variables = variables
        self.exclude = exclude
        self.seed = seed

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the figures to the logs."""
        if logs is None or (epoch + 1) % self.every:
            return
        evaluator = Evaluator(self.model, self.validation_data)
        noisy = PerturbedWeights(self.model, self.noise, self.variables, self.exclude, self.seed)
        found = []
        with BorrowedWeights(self.model, noisy.variables) as weights:
            for draw in range(self.draws):
                weights.put(functools.partial(noisy.draw, step=draw))
                found.append(evaluator.noisy())
        for metric in found[0]:
            logs[f"val_noisy_{metric}"] = float(np.mean([each[metric] for each in found]))

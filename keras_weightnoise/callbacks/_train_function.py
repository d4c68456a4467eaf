"""`model.train_function`: the one place that reads, makes and replaces it.

The model has its own, clean one, except between `on_train_batch_begin` and the step, where an `Armed` stands
in for it.
"""

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._not_public import set_past_tracking


def clean_function(model: Any, run: Callable[[Any], Any]) -> Any:
    """The model's own training function, made if there is none, and in its place.

    Raises if another callback's `run` is to be called in this fit in place of it.
    """
    if isinstance(model.train_function, Armed):
        model.train_function.give_way(run)
    model.make_train_function()
    return model.train_function


def is_in_place(function: Any, model: Any) -> bool:
    """Whether a clean function is still what the model would train with."""
    return function is model.train_function


def make_function(model: Any, standing_in: contextlib.AbstractContextManager[None]) -> Any:
    """A training function made while something stands in for `train_step`. The model keeps its own."""
    own = model.train_function
    try:
        with standing_in:
            model.make_train_function(force=True)
        return model.train_function
    finally:
        model.train_function = own


def may_be_compiled(model: Any) -> bool:
    """Whether XLA may compile the training function: one that a model makes itself says nothing of it."""
    make = getattr(model.make_train_function, "__func__", None)
    on_tpus = isinstance(model.distribute_strategy, tf.distribute.TPUStrategy)
    return bool(model.jit_compile) or on_tpus or make is not keras.Model.make_train_function


class Armed:
    """Stands in for `model.train_function` between `on_train_batch_begin` and the step.

    An exception in a later hook may leave it there. So it runs something else only in the fit that put it
    there, and only with a fit's iterator (`train_on_batch` passes a generator).

    Args:
        model: The model.
        run: A bound method that takes the fit's iterator. Not kept alive.
    """

    def __init__(self, model: Any, run: Callable[[Any], Any]) -> None:
        if isinstance(model.train_function, Armed):
            model.train_function.give_way(run)
        self.ran = False
        self._model = model
        self._clean_function = model.train_function
        self._run = weakref.WeakMethod(run)
        self._history = getattr(model, "history", None)
        set_past_tracking(model, "train_function", self)

    def __call__(self, iterator: Any) -> Any:
        if not isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
            return self._clean_function(iterator)
        self._disarm()
        run = self._run()
        if run is None or not self._of_this_fit():
            return self._clean_function(iterator)
        self.ran = True
        return run(iterator)

    def give_way(self, run: Callable[[Any], Any]) -> None:
        """Puts the model's own function back, or raises if this fit still counts on another's `run`."""
        if self._of_this_fit() and self._run() not in (None, run):
            raise ValueError(
                "Two `WeightNoiseCallback`s on one fit. Expected one, which knows all the noise there "
                f"is in the weights. Received: both on model {self._model.name!r}"
            )
        self._disarm()

    def _disarm(self) -> None:
        set_past_tracking(self._model, "train_function", self._clean_function)

    def _of_this_fit(self) -> bool:
        # `fit` sets a new `history` before anything else.
        return getattr(self._model, "history", None) is self._history

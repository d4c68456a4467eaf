"""A warning where an optimizer decays what says how large noise is."""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_weightnoise._not_public import decays, updated_variables
from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.reachable import Variable
from keras_weightnoise._weights.values import without_autocast


def warn_of_weight_decay(variables: Sequence[Variable]) -> bool:
    """Warns if the optimizer of a step that is running decays one of these variables.

    A layer knows neither its model nor an optimizer, so this looks for the `train_step` that called it. It
    does not find the optimizer of a loop of one's own, which no model holds.

    Returns:
        Whether an optimizer was found that is known to update these variables.
    """
    found = False
    for model, optimizer in _running():
        updated = {id(variable) for variable in _updated(model, optimizer)}
        own = [variable for variable in variables if id(variable) in updated]
        values = without_autocast(function=lambda own=own: [each.value for each in own])
        pairs = zip(own, values, strict=True)
        decayed = [variable.name for variable, value in pairs if decays(optimizer, value)]
        found = found or (bool(own) and optimizer.built)
        if decayed:
            warnings.warn(
                f"The optimizer {optimizer.name!r} of the model {model.name!r} decays {decayed}, which say "
                "how large noise is: weight decay is for weights. Expected it to leave them out: "
                "`optimizer.exclude_from_weight_decay(var_names=['_rho', '_alpha'])` before the model is "
                "trained, and again after it is loaded, as Keras does not save that.",
                stacklevel=2,
            )
    return found


def _updated(model: Any, optimizer: Any) -> list[Variable]:
    """The variables that an optimizer updates, or if it is yet to be built in this step is likely to."""
    if optimizer.built:
        return updated_variables(optimizer)
    compiled = getattr(model, "optimizer", None)
    inner = [] if compiled is None else reachable.inner_optimizers(compiled)
    if any(optimizer is each for each in (compiled, *inner)):
        return list(model.trainable_variables)
    return []


def _running() -> Iterator[tuple[Any, Any]]:
    """Each optimizer of a model that has a method running, with the model."""
    frame, seen = inspect.currentframe(), set()
    while frame is not None:
        caller = frame.f_locals.get("self")
        frame = frame.f_back
        if not isinstance(caller, keras.Model) or id(caller) in seen:
            continue
        seen.add(id(caller))
        for outer in reachable.optimizers(caller):
            for optimizer in (outer, *reachable.inner_optimizers(outer)):
                if id(optimizer) not in seen:
                    seen.add(id(optimizer))
                    yield caller, optimizer

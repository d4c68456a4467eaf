"""Checks of arguments that several functions take."""

import numbers
from typing import Any

import keras


def check_model(model: object, kind: type = keras.Model) -> None:
    """Raises unless `model` is of a kind: `keras.Model`, or `keras.Layer`, which models are too."""
    if not isinstance(model, kind):
        expected = (
            "a `keras.Model`" if kind is keras.Model else "a `keras.Model` or a `keras.Layer`"
        )
        raise TypeError(
            f"Invalid `model`. Expected {expected}. "
            f"Received: model={model} (of type {type(model).__name__})"
        )


def check_variables(model: Any, purpose: str) -> None:
    """Raises unless a model has variables, as it does once it is built."""
    if not model.variables:
        raise ValueError(
            f"Model {model.name!r} has no variables to {purpose}. Expected a built model. Build it, or "
            "call it once on a batch."
        )


def check_count(name: str, value: object) -> None:
    """Raises unless `value` is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"Invalid `{name}`. Expected an integer. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if int(value) < 1:
        raise ValueError(f"Invalid `{name}`. Expected an integer >= 1. Received: {name}={value}")

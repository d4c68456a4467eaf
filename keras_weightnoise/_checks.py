"""Checks of arguments that several functions take."""

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, ParamSpec, TypeVar

import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise._types import VARIABLE_TYPES


def shown(value: Any) -> str:
    """How an error shows a value: of arrays, and of what holds many, no more than says what they are."""
    if (isinstance(value, np.ndarray) or tf.is_tensor(value)) and len(value.shape):
        return f"<{type(value).__name__} of shape {tuple(value.shape)}>"
    if isinstance(value, list | tuple):
        items = ", ".join(["..." if i == 4 else shown(each) for i, each in enumerate(value[:5])])
        return f"[{items}]" if isinstance(value, list) else f"({items})"
    return repr(value)


def check_model(
    model: object, kind: type = keras.Model, name: str = "model", **others: object
) -> None:
    """Raises unless `model` is of a kind: `keras.Model`, or `keras.Layer`, which models are too.

    Args:
        model: What was given for the model.
        kind: What it should be.
        name: What the argument is called.
        **others: The arguments behind it, where it may have been mistaken for one of them.
    """
    check_order(model, kind, name, **others)
    if not isinstance(model, kind):
        expected = (
            "a `keras.Model`" if kind is keras.Model else "a `keras.Model` or a `keras.Layer`"
        )
        if isinstance(model, type):
            expected += ", not a class"
        raise TypeError(
            f"Invalid `{name}`. Expected {expected}. "
            f"Received: {name}={shown(model)} (of type {type(model).__name__})"
        )


def check_order(first: object, kind: type, name: str, **others: object) -> None:
    """Raises if an argument of a kind was given in the place of one of those behind it."""
    for other, value in others.items():
        if isinstance(value, kind) and not isinstance(first, kind):
            raise TypeError(
                f"Invalid `{name}`. Expected `{name}` first, then `{other}`. "
                f"Received: {name}={shown(first)}, {other}={value}"
            )


def check_variables(model: Any, purpose: str) -> None:
    """Raises unless a model has variables, as it does once it is built."""
    if not model.variables:
        unbuilt = " Expected a built model. Build it, or call it once on a batch."
        raise ValueError(
            f"Model {model.name!r} has no variables to {purpose}.{'' if model.built else unbuilt}"
        )


def check_integer(name: str, value: object, least: int, most: float = math.inf) -> None:
    """Raises unless `value` is an integer in [`least`, `most`]. A bool is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"Invalid `{name}`. Expected an integer. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if not least <= int(value) <= most:
        limits = f">= {least}" if most == math.inf else f"in [{least}, {most}]"
        raise ValueError(
            f"Invalid `{name}`. Expected an integer {limits}. Received: {name}={value}"
        )


def check_count(name: str, value: object) -> None:
    """Raises unless `value` is an integer >= 1."""
    check_integer(name, value, 1)


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raises unless `value` is one of the choices: strings, and perhaps `None`."""
    if (value is None or isinstance(value, str)) and value in choices:
        return
    raise ValueError(
        f"Invalid `{name}`. Expected one of {', '.join(map(repr, choices))}. "
        f"Received: {name}={value!r}"
    )


def is_number(value: object) -> bool:
    """Whether `value` is a real number, NumPy's included. A bool is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_schedule(value: object) -> bool:
    """Whether `value` is a schedule."""
    return isinstance(value, keras.optimizers.schedules.LearningRateSchedule)


def is_scalar_tensor(value: Any) -> bool:
    """Whether `value` is a scalar tensor or variable of floats."""
    if not (isinstance(value, VARIABLE_TYPES) or tf.is_tensor(value)):
        return False
    return tf.as_dtype(value.dtype).is_floating and tuple(value.shape) == ()


def check_magnitude(name: str, value: object, *, most: float = math.inf) -> None:
    """Raises unless `value` is a finite number in [0, `most`], a scalar tensor, or a schedule."""
    if is_schedule(value) or is_scalar_tensor(value):
        return
    if not is_number(value):
        raise TypeError(
            f"Invalid `{name}`. Expected a number, a scalar tensor or variable of floats, or a "
            "`keras.optimizers.schedules.LearningRateSchedule`. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if not (math.isfinite(value) and 0 <= value <= most):  # type: ignore[arg-type, operator]
        expected = "a finite number >= 0" if most == math.inf else f"a number in [0, {most:g}]"
        raise ValueError(f"Invalid `{name}`. Expected {expected}. Received: {name}={value!r}")


def check_amount(name: str, value: object) -> None:
    """Raises unless `value` is a finite number >= 0."""
    if not is_number(value):
        raise TypeError(
            f"Invalid `{name}`. Expected a number. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    check_magnitude(name, value)


def check_positive(name: str, value: object) -> None:
    """Raises unless `value` is a finite number > 0."""
    check_amount(name, value)
    if not value:
        raise ValueError(
            f"Invalid `{name}`. Expected a finite number > 0. Received: {name}={value!r}"
        )


def check_bits(value: object) -> None:
    """Raises unless `bits` is an integer in [2, 16]: what `float32` arithmetic rounds exactly."""
    check_integer("bits", value, 2, 16)


def check_flag(name: str, value: object) -> None:
    """Raises unless `value` is a bool."""
    if not isinstance(value, bool):
        raise TypeError(
            f"Invalid `{name}`. Expected `True` or `False`. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )


_P = ParamSpec("_P")
_R = TypeVar("_R")


def renamed(**names: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Has a function say which arguments it has, where it is given another.

    Args:
        **names: The function's own name for each argument that other functions have in its place.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        known = [name for name in inspect.signature(function).parameters if name != "self"]

        @functools.wraps(function)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for name in kwargs:
                if name not in known:
                    refuse_unknown(name, kwargs[name], known, names)
            return function(*args, **kwargs)

        return checked

    return decorate


def refuse_unknown(
    name: str, value: object, known: Sequence[str], names: Mapping[str, str]
) -> NoReturn:
    """Raises because of an argument that is not known: it says which is meant, or all that there are."""
    expected = f"`{names[name]}`" if name in names else ", ".join(f"`{each}`" for each in known)
    raise TypeError(
        f"Unknown argument `{name}`. Expected {expected}. Received: {name}={shown(value)}"
    )

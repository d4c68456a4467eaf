"""Signatures for methods that pass on the arguments of a wrapped layer's."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def signed(function: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    """`function`, showing another signature to those who ask."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    wrapped.__signature__ = signature  # type: ignore[attr-defined]
    return wrapped


def with_training(signature: inspect.Signature) -> inspect.Signature:
    """The signature with an argument `training` that defaults to `None`.

    Any other default would reach the layers called next to this one (as of Keras 3.15).
    """
    parameters = list(signature.parameters.values())
    for i, parameter in enumerate(parameters):
        if parameter.name == "training":
            if parameter.default is not parameter.empty:
                parameters[i] = parameter.replace(default=None)
            return signature.replace(parameters=parameters)
    catch_all = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    training = inspect.Parameter("training", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters.insert(len(parameters) - catch_all, training)
    return signature.replace(parameters=parameters)

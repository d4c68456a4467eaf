"""The Python code of `tf.function`s."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_weightnoise._not_public import python_function

# Those that Keras makes, and those that are seen to elsewhere.
_OTHERS = {"call", "train_step", "train_function", "test_function", "predict_function"}


def function_names(model: Any) -> list[str]:
    """The names of the model's methods that are `tf.function`s."""
    attributes = dict(vars(model))
    for cls in type(model).__mro__:
        attributes = {**vars(cls), **attributes}
    return [
        name
        for name, value in attributes.items()
        if python_function(value) is not None and name not in _OTHERS
    ]


def python_code(step: Callable[..., Any]) -> Callable[..., Any]:
    """The Python code of a `tf.function`: one traced before would not see what is put around it."""
    code = python_function(step)
    if code is None:
        return step
    converted = tf.autograph.to_graph(code)
    if inspect.ismethod(code):
        return functools.partial(converted, code.__self__)
    return converted  # type: ignore[no-any-return]

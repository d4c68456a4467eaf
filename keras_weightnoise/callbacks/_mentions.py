"""What the code of a training step mentions, read and not run."""

import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any

from keras_weightnoise._not_public import python_function
from keras_weightnoise._weights import reachable

_LIBRARIES = {"keras", "tensorflow"}


def may_apply(model: Any) -> bool:
    """Whether the code of a model's training step mentions an optimizer's `apply`."""
    names = {"apply", "apply_gradients"}
    return mentions(model.train_step, names, reachable.sublayers(model))


def mentions(function: Callable[..., Any], names: set[str], owners: Iterable[Any]) -> bool:
    """Whether a function, or a function that it may call, mentions one of these names.

    Eagerly, the branch of a `tf.cond` that is not taken is not run. So only the code tells what a step would
    do in another batch.

    Args:
        function: A function, a method or a `tf.function`.
        names: Names of attributes.
        owners: Objects whose methods the code may call.
    """
    owners = list(owners)
    classes = {base for owner in owners for base in type(owner).__mro__}
    methods = [vars(each) for each in (*owners, *classes)]
    seen: set[int] = set()
    left: list[Any] = [function]
    while left:
        plain = _plain(left.pop())
        if plain is None or id(plain.__code__) in seen:
            continue
        seen.add(id(plain.__code__))
        mentioned = _names(plain.__code__)
        if mentioned & names:
            return True
        if plain.__module__.partition(".")[0] not in _LIBRARIES:
            left += [found[name] for found in methods for name in mentioned & found.keys()]
            left += [plain.__globals__.get(name) for name in mentioned]
            left += inspect.getclosurevars(plain).nonlocals.values()
    return False


def _plain(function: Any) -> types.FunctionType | None:
    """The Python function behind a method or a `tf.function`; `None` if there is none."""
    function = python_function(function) or function
    function = getattr(function, "__func__", function)
    return function if isinstance(function, types.FunctionType) else None


def _names(code: types.CodeType) -> set[str]:
    """The names that code mentions, that of functions inside of it included."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))

"""The selectors of variables: what `variables=` and `exclude=` take."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.kernels import is_kernel
from keras_weightnoise._weights.reachable import Layer, Variable

Selector = str | Layer | type | Callable[[Variable], bool] | Sequence[Any]


def check_selectors(**selectors: object) -> None:
    """Raises unless each argument is a selector, or `None`: see `check_selector`."""
    for name, selector in selectors.items():
        check_selector(name, selector)


def check_selector(name: str, selector: object) -> None:
    """Raises unless `selector` is `None`, `"kernels"`, a regular expression searched in
    `variable.path`, a layer, a layer class, a predicate of a variable, or a list of these."""
    if selector is None or isinstance(selector, keras.Layer):
        return
    if isinstance(selector, str):
        try:
            re.compile(selector)
        except re.error as error:
            raise ValueError(
                f'Invalid `{name}`. Expected "kernels" or a regular expression. '
                f"Received: {name}={selector!r} ({error})"
            ) from error
    elif isinstance(selector, list | tuple):
        if not selector:
            raise ValueError(
                f"Invalid `{name}`. Expected at least one selector. Received: {name}={selector}"
            )
        for item in selector:
            check_selector(name, item)
    elif isinstance(selector, type):
        if not issubclass(selector, keras.Layer):
            raise TypeError(
                f"Invalid `{name}`. Expected a class of layers. Received: {name}={selector}"
            )
    elif not callable(selector):
        raise TypeError(
            f'Invalid `{name}`. Expected "kernels", a regular expression, a layer, a layer class, a '
            "function of a variable, or a list of these. "
            f"Received: {name}={selector} (of type {type(selector).__name__})"
        )


def serialize(name: str, selector: Selector | None) -> Any:
    """A selector in the form of a config, for `keras.saving.deserialize_keras_object` to read."""
    if isinstance(selector, list | tuple):
        return [serialize(name, each) for each in selector]
    if isinstance(selector, keras.Layer | type):
        raise ValueError(
            "What selects by a layer or a class of layers cannot be saved or cloned: Keras has no way to "
            "write that down. Expected a regular expression of the variables' paths, or a function "
            f"registered with Keras. Received: {name}={selector}"
        )
    return keras.saving.serialize_keras_object(selector)


def matching(
    root: Layer, candidates: Sequence[Variable], name: str, selector: Selector | None
) -> set[int]:
    """The ids of the candidates that a selector matches. Raises if there are none.

    Args:
        root: The model or layer whose variables they are.
        candidates: The variables to match.
        name: The argument's name, for the error.
        selector: A selector, or `None` for all of them.
    """
    if selector is None:
        return {id(v) for v in candidates}
    if isinstance(selector, list | tuple):
        return set().union(*(matching(root, candidates, name, each) for each in selector))
    if selector == "kernels":
        found = {id(v) for v in candidates if is_kernel(v)}
    elif isinstance(selector, str):
        found = _search(root, candidates, selector)
    elif isinstance(selector, keras.Layer):
        found = {id(v) for v in candidates} & {id(v) for v in selector.variables}
    elif isinstance(selector, type):
        layers: list[Layer] = [
            each for each in reachable.sublayers(root) if issubclass(type(each), selector)
        ]
        found = {id(v) for v in candidates} & {id(v) for each in layers for v in each.variables}
    else:
        found = {id(v) for v in candidates if selector(v)}  # type: ignore[operator]
    if not found:
        raise ValueError(
            f"`{name}` matches no eligible variable of {root.name!r}. "
            f"Received: {name}={selector!r}.{listing(root, candidates)}"
        )
    return found


def _search(root: Layer, candidates: Sequence[Variable], pattern: str) -> set[int]:
    """The ids of the candidates that a regular expression finds: see `check_selector`."""
    names = dict(zip(map(id, candidates), reachable.relative_names(root, candidates), strict=True))
    search = re.compile(pattern).search
    found = {id(v) for v in candidates if search(names[id(v)]) or search(reachable.path(v))}
    # In a new Sequential model paths begin with its name, in a loaded one they do not. Without need the
    # name does not count: in a model named "convnet", "conv" is not everything.
    if not found or f"{root.name}/" in pattern:
        found |= {key for key, name in names.items() if search(f"{root.name}/{name}")}
    return found


def listing(root: Layer, eligible: Sequence[Variable]) -> str:
    """The variables of a layer, for an error."""
    everything = root.variables
    if not everything:
        return " It has no variables."
    ids = {id(v) for v in eligible}
    names = reachable.relative_names(root, everything)
    lines = (
        f"  {name}{'' if id(v) in ids else '  (not eligible)'}"
        for v, name in zip(everything, names, strict=True)
    )
    return " Its variables are:\n" + "\n".join(lines)

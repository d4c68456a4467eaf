"""The selectors of variables: what `variables=` and `exclude=` take."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.kernels import is_float, is_kernel
from keras_weightnoise._weights.noise_parameters import is_noise_parameter
from keras_weightnoise._weights.reachable import Layer, Variable

# With a `keras.Variable` and a `keras.Layer`, which are `Any`.
Selector = str | Layer | type | Callable[[Variable], bool] | Sequence[Any]

_OTHER = "left out by another selector"


def check_selectors(**selectors: object) -> None:
    """Raises unless each argument is a selector, or `None`: see `check_selector`."""
    for name, selector in selectors.items():
        check_selector(name, selector)


def check_selector(name: str, selector: object) -> None:
    """Raises unless `selector` is one, or `None`.

    Selectors are `"kernels"` (see `is_kernel`), a regular expression, a variable, a layer, a layer class, a
    predicate of a variable, and a list of these. A regular expression is searched in `variable.path` and
    in the variable's name in the model, as `relative_names` has it, with and without the model's own.
    """
    if selector is None or isinstance(selector, keras.Layer) or reachable.is_variable(selector):
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
            f'Invalid `{name}`. Expected "kernels", a regular expression, a variable, a layer, a layer '
            "class, a function of a variable, or a list of these. "
            f"Received: {name}={selector} (of type {type(selector).__name__})"
        )


def serialize(name: str, selector: Selector | None) -> Any:
    """A selector in the form of a config, for `keras.saving.deserialize_keras_object` to read."""
    if isinstance(selector, list | tuple):
        return [serialize(name, each) for each in selector]
    if isinstance(selector, keras.Layer | type) or reachable.is_variable(selector):
        raise ValueError(
            "What selects by a variable, a layer or a class of layers cannot be saved or cloned: Keras has "
            "no way to write that down. Expected a regular expression of the variables' paths, or a function "
            f"registered with Keras. Received: {name}={selector}"
        )
    return keras.saving.serialize_keras_object(selector)


def matching(
    root: Layer,
    candidates: Sequence[Variable],
    name: str,
    selector: Selector | None,
    *,
    frozen: bool | None = None,
    other: str = _OTHER,
) -> set[int]:
    """The ids of the candidates that a selector matches. Raises if there are none.

    Args:
        root: The model or layer whose variables they are.
        candidates: The variables to match.
        name: The argument's name, for the error.
        selector: A selector, or `None` for all of them.
        frozen: What the user's argument of this name is, for the error. Defaults to `None`: there is none.
        other: Why weights that noise could be added to are no candidates, for the error.
    """
    if isinstance(selector, list | tuple):
        options: dict[str, Any] = {"frozen": frozen, "other": other}
        return set().union(*(matching(root, candidates, name, s, **options) for s in selector))
    found = matched(root, candidates, selector)
    if not found and selector is not None:
        advice = _advice(root, selector, frozen)
        raise ValueError(
            f"`{name}` matches no eligible variable of {root.name!r}. "
            f"Received: {name}={selector!r}.{advice}{listing(root, candidates, other)}"
        )
    return found


def matched(root: Layer, candidates: Sequence[Variable], selector: Selector | None) -> set[int]:
    """The ids of the candidates that a selector matches, if any: see `matching`."""
    ids = {id(v) for v in candidates}
    if selector is None:
        return ids
    if isinstance(selector, list | tuple):
        return set().union(*(matched(root, candidates, each) for each in selector))
    if reachable.is_variable(selector):
        return ids & {id(selector)}
    if isinstance(selector, keras.Layer):
        return ids & {id(v) for v in selector.variables}
    if isinstance(selector, type):
        layers = [each for each in reachable.sublayers(root) if issubclass(type(each), selector)]
        return ids & {id(v) for each in layers for v in each.variables}
    if not isinstance(selector, str):
        return {id(v) for v in candidates if selector(v)}  # type: ignore[operator]
    if selector == "kernels":
        return {id(v) for v in candidates if is_kernel(v)}
    return _search(root, candidates, selector)


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


def _advice(root: Layer, selector: Selector, frozen: bool | None) -> str:
    """What may be wrong with a selector that matches nothing."""
    if isinstance(selector, keras.Layer) and all(
        each is not selector for each in reachable.sublayers(root)
    ):
        return f" That layer is not in {root.name!r}: `model.get_layer` has those that are."
    if reachable.is_variable(selector) and all(v is not selector for v in root.variables):
        return f" That variable is not in {root.name!r}: `model.variables` has those that are."
    weights = [v for v in reachable.learned(root) if is_float(v) and not v.trainable]
    if frozen is not False or not matched(root, weights, selector):
        return ""
    return " What it matches is frozen, which noise reaches with `frozen=True`."


def listing(root: Layer, eligible: Sequence[Variable], other: str = _OTHER) -> str:
    """The variables of a layer, and why those that are not eligible are not, for an error."""
    everything = root.variables
    if not everything:
        return " It has no variables."
    ids = {id(v) for v in eligible}
    owners = reachable.owners(root)
    learned = {id(v) for v in reachable.learned(root)}
    lines = []
    for v, name in zip(everything, reachable.relative_names(root, everything), strict=True):
        reason = "" if id(v) in ids else why_not_eligible(v, owners[id(v)], id(v) in learned, other)
        lines.append(f"  {name}{reason and f'  (not eligible: {reason})'}")
    return " Its variables are:\n" + "\n".join(lines)


def why_not_eligible(variable: Variable, layer: Layer, learned: bool, other: str = _OTHER) -> str:
    """Why a variable is not eligible for noise, in a few words; `other` if it could be."""
    if layer.quantization_mode is not None and not (learned and is_float(variable)):
        return f"quantized to {layer.quantization_mode}"
    if not is_float(variable):
        return f"of dtype {variable.dtype}"
    if is_noise_parameter(variable):
        return "a parameter of noise"
    if not learned:
        return "state of its layer, not learned"
    return other if variable.trainable else "frozen"

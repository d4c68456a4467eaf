"""Which variables are perturbed: selectors, and what noise has to know of each variable."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._random import sampling

Variable = Any  # keras.Variable; Keras ships no types.
Layer = Any
Selector = str | Layer | type | Callable[[Variable], bool] | Sequence[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A variable to perturb.

    Attributes:
        variable: The `keras.Variable`.
        layer: The layer that owns it.
        start: Where its random numbers begin (see `sampling.offsets`).
        axes: The axes that one output channel extends over.
    """

    variable: Variable
    layer: Layer
    start: int
    axes: tuple[int, ...]


def select(
    root: Layer,
    variables: Selector | None = None,
    exclude: Selector | None = None,
    *,
    frozen: bool = False,
) -> list[Target]:
    """Resolves selectors to float variables of a model or layer.

    Args:
        root: A built model or layer.
        variables: A selector (see `check_selector`), or `None` for all of them.
        exclude: A selector of those to leave out.
        frozen: Whether weights that are frozen are eligible beside the trainable ones. What a layer
            keeps track of itself, as BatchNormalization its moving statistics, never is.
            Defaults to `False`.

    Returns:
        A list of `Target`, each variable once, in the order of `root.variables`.

    Raises:
        ValueError: If a selector matches nothing, or nothing remains.
    """
    owners = _owners(root)
    weights = learned(root) if frozen else root.trainable_variables
    eligible = {id(v) for v in weights if is_float(v)}
    everything = list(root.variables)
    candidates = [v for v in everything if id(v) in eligible]
    chosen = matching(root, candidates, "variables", variables)
    # `exclude` may name what is not eligible anyway; only what is not there at all is a mistake.
    left_out = set() if exclude is None else matching(root, everything, "exclude", exclude)
    starts = sampling.offsets([tuple(v.shape) for v in everything])
    targets = [
        Target(v, owners[id(v)], start, filter_axes(v, owners[id(v)]))
        for v, start in zip(everything, starts, strict=True)
        if id(v) in chosen and id(v) not in left_out
    ]
    if not targets:
        raise ValueError(
            f"No variable of {root.name!r} is left to perturb. Expected `variables` and `exclude` to "
            f"leave at least one {'' if frozen else 'trainable '}float variable. "
            f"Received: variables={variables}, exclude={exclude}.{_listing(everything, candidates)}"
        )
    return targets


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


def check_selectors(**selectors: object) -> None:
    """Raises unless each argument is a selector, or `None`: see `check_selector`."""
    for name, selector in selectors.items():
        check_selector(name, selector)


def path(variable: Variable) -> str:
    """A variable's path."""
    # Before Keras 3.6, a TFSMLayer's variables are TensorFlow's.
    return str(getattr(variable, "path", variable.name))


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


def sublayers(root: Layer) -> list[Layer]:
    """Every layer reachable from `root`'s attributes, innermost first, then `root` itself."""
    return _reachable(root, keras.Layer)


def optimizers(root: Layer) -> list[Any]:
    """Every optimizer that `root` or a layer in it holds as an attribute, each once."""
    return _reachable(root, keras.optimizers.Optimizer)


def refuse_self_assigned(root: Layer, targets: Sequence[Target]) -> None:
    """Raises if a selected kernel belongs to a layer that overwrites it when called."""
    selected = {id(target.variable) for target in targets}
    for layer in sublayers(root):
        if isinstance(layer, keras.layers.SpectralNormalization):
            for variable in layer.layer.trainable_variables:
                if id(variable) in selected and len(variable.shape) > 1:
                    raise ValueError(self_assigned(variable, layer))


def self_assigned(variable: Variable, layer: Layer) -> str:
    """What is wrong with a layer that overwrites a selected variable when it is called."""
    return (
        f"Layer {layer.name!r} (of type {type(layer).__name__}) assigns its variable {variable.path!r} "
        "when it is called, so that noise cannot be told from its work. Expected it among `exclude`, as "
        f"in `exclude={variable.path!r}`. Received: a selection that holds it."
    )


def filter_axes(variable: Variable, layer: Layer) -> tuple[int, ...]:
    """The axes of a variable that one output channel (filter, row) extends over."""
    rank = len(variable.shape)
    if rank < 2 or variable.name == "bias":  # A GRU's has rank 2, an EinsumDense layer's any.
        kept = set()
    elif isinstance(layer, keras.layers.Embedding) and variable.name == "embeddings":
        kept = {0}
    elif _is_depthwise(variable, layer):
        kept = {rank - 2, rank - 1}
    elif isinstance(
        layer,
        keras.layers.Conv1DTranspose | keras.layers.Conv2DTranspose | keras.layers.Conv3DTranspose,
    ):
        kept = {rank - 2}
    elif isinstance(layer, keras.layers.EinsumDense):
        # "abc,cde->abde": the kernel's letters that the output keeps.
        inputs, output = layer.equation.replace(" ", "").replace("...", "").split("->")
        kernel = inputs.split(",")[1]
        kept = {i for i, letter in enumerate(kernel) if letter in output} or {rank - 1}
    else:
        kept = {rank - 1}
    return tuple(axis for axis in range(rank) if axis not in kept)


def _is_depthwise(variable: Variable, layer: Layer) -> bool:
    return variable.name == "depthwise_kernel" or (
        isinstance(layer, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D)
    )


def is_float(variable: Variable) -> bool:
    # float8 training overwrites its scales with their "gradients": they are no weights.
    return tf.as_dtype(variable.dtype).is_floating and not getattr(
        variable, "overwrite_with_gradient", False
    )


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
        found = {id(v) for v in candidates if len(v.shape) >= 2}
    elif isinstance(selector, str):
        found = {id(v) for v in candidates if re.search(selector, path(v))}
    elif isinstance(selector, keras.Layer):
        found = {id(v) for v in candidates} & {id(v) for v in selector.variables}
    elif isinstance(selector, type):
        layers: list[Layer] = [each for each in sublayers(root) if issubclass(type(each), selector)]
        found = {id(v) for v in candidates} & {id(v) for each in layers for v in each.variables}
    else:
        found = {id(v) for v in candidates if selector(v)}  # type: ignore[operator]
    if not found:
        raise ValueError(
            f"`{name}` matches no eligible variable of {root.name!r}. "
            f"Received: {name}={selector!r}.{_listing(root.variables, candidates)}"
        )
    return found


def _listing(everything: Sequence[Variable], eligible: Sequence[Variable]) -> str:
    if not everything:
        return " It has no variables."
    ids = {id(v) for v in eligible}
    lines = (f"  {path(v)}{'' if id(v) in ids else '  (not eligible)'}" for v in everything)
    return " Its variables are:\n" + "\n".join(lines)


def learned(root: Layer) -> list[Variable]:
    """The variables that are trainable, or would be if nothing were frozen."""
    # What a frozen layer would train has no public name (Keras 3.5 to 3.15).
    return [v for layer in sublayers(root) for v in layer._trainable_variables]


def _owners(root: Layer) -> dict[int, Layer]:
    owners: dict[int, Layer] = {}
    for layer in sublayers(root):
        for variable in layer.variables:
            owners.setdefault(id(variable), layer)
    return owners


def _reachable(root: Layer, kind: type) -> list[Any]:
    """The objects of a kind in the attributes of `root` and of the layers below it, innermost first.

    Keras has no public list of all layers below any layer, so this reads what every Python object
    shows: its attributes.
    """
    seen: set[int] = set()
    found: list[Any] = []

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            children = list(value.values())
        elif isinstance(value, list | tuple | set):
            children = list(value)
        elif isinstance(value, keras.Layer):
            children = list(vars(value).values())
        else:
            children = []
        if id(value) in seen:
            return
        seen.add(id(value))
        for child in children:
            visit(child)
        if isinstance(value, kind):
            found.append(value)

    visit(root)
    return found

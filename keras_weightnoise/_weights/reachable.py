"""What is below a layer: its sublayers, the optimizers they hold, who owns a variable, and names."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_weightnoise._not_public import own_trainable_variables
from keras_weightnoise._types import VARIABLE_TYPES

Variable = Any  # keras.Variable; Keras ships no types.
Layer = Any


def is_variable(value: object) -> bool:
    """Whether something is a variable of Keras's, or of TensorFlow's."""
    return isinstance(value, VARIABLE_TYPES)


def sublayers(root: Layer) -> list[Layer]:
    """Every layer reachable from `root`'s attributes, innermost first, then `root` itself."""
    return _reachable(root, keras.Layer)


def optimizers(root: Layer) -> list[Any]:
    """Every optimizer that `root` or a layer in it holds as an attribute, each once."""
    return _reachable(root, keras.optimizers.Optimizer)


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers inside of one, at any depth, each once."""
    found: list[Any] = []

    def visit(value: Any) -> None:
        if isinstance(value, keras.optimizers.Optimizer):
            if value is not optimizer and not any(value is each for each in found):
                found.append(value)
                visit(list(vars(value).values()))
        elif isinstance(value, Mapping):
            visit(list(value.values()))
        elif isinstance(value, list | tuple):
            for each in value:
                visit(each)

    visit(list(vars(optimizer).values()))
    return found


def owners(root: Layer) -> dict[int, Layer]:
    """For the id of each variable of `root`, the innermost layer that has it."""
    found: dict[int, Layer] = {}
    for layer in sublayers(root):
        for variable in layer.variables:
            found.setdefault(id(variable), layer)
    return found


def learned(root: Layer) -> list[Variable]:
    """The variables that are trainable, or would be if nothing were frozen."""
    return [v for layer in sublayers(root) for v in own_trainable_variables(layer)]


def path(variable: Variable) -> str:
    """A variable's path."""
    # Before Keras 3.6, a TFSMLayer's variables are TensorFlow's, named "dense/kernel:0".
    return str(getattr(variable, "path", variable.name))


def own_name(variable: Variable) -> str:
    """A variable's name without those of its layers."""
    return path(variable).rpartition("/")[2].partition(":")[0]


def relative_names(root: Layer, things: Sequence[Layer | Variable]) -> list[str]:
    """What layers and variables of a model are called inside of it, such as `"encoder/hidden/kernel"`.

    The names of the layers from `root`, which is left out, to the thing, and the variable's own name.
    `variable.path` is no such name: it depends on how the model came to be. The same variable is
    `"sequential_1/hidden/kernel"` where it was built and `"hidden/kernel"` where it was loaded.

    Args:
        root: A model or layer.
        things: Layers and variables in it. `root` itself is called by its name.

    Returns:
        A name for each. Two things have one name only if layers beside each other have.
    """
    chains = _chains(root)
    owner = owners(root) if any(not isinstance(each, keras.Layer) for each in things) else {}

    def name(thing: Any) -> str:
        if thing is root:
            return str(root.name)
        if isinstance(thing, keras.Layer):
            return "/".join(chains[id(thing)])
        return "/".join([*chains[id(owner[id(thing)])], own_name(thing)])

    return [name(each) for each in things]


def _chains(root: Layer) -> dict[int, tuple[str, ...]]:
    """For the id of each layer below `root`, the names on the shortest way to it."""
    chains: dict[int, tuple[str, ...]] = {id(root): ()}
    queue = collections.deque([root])
    while queue:
        layer = queue.popleft()
        # A Sequential model holds its layers a second time, in a functional one: `layers` comes first.
        listed = layer.layers if isinstance(layer, keras.Model) else []
        for child in (*listed, *_layers_in(list(vars(layer).values()))):
            if id(child) not in chains:
                chains[id(child)] = (*chains[id(layer)], child.name)
                queue.append(child)
    return chains


def _layers_in(value: Any) -> Iterator[Layer]:
    """The layers among some attributes, also in lists and dictionaries."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, keras.Layer):
            yield each
        elif id(each) not in seen:
            seen.add(id(each))
            stack += reversed(_children(each))


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple | set) else []


def _reachable(root: Layer, kind: type) -> list[Any]:
    """The objects of a kind in the attributes of `root` and of the layers below it, innermost first.

    Keras has no public list of all layers below any layer, so this reads what every Python object
    shows: its attributes.
    """
    seen: set[int] = set()
    found: list[Any] = []
    # All else has no children: most of what is there, in a large model.
    kinds = keras.Layer, dict, list, tuple, set, kind

    def visit(value: Any) -> None:
        seen.add(id(value))
        layer = isinstance(value, keras.Layer)
        for child in list(vars(value).values()) if layer else _children(value):
            if isinstance(child, kinds) and id(child) not in seen:
                visit(child)
        if isinstance(value, kind):
            found.append(value)

    visit(root)
    return found

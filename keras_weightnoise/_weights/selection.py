"""Which variables are perturbed, and what noise has to know of each."""

import dataclasses
from collections.abc import Sequence

import keras

from keras_weightnoise._random import drawing
from keras_weightnoise._weights import reachable, selectors
from keras_weightnoise._weights.codes import Code, code_of
from keras_weightnoise._weights.kernels import filter_axes, is_float, is_kernel
from keras_weightnoise._weights.noise_parameters import is_noise_parameter
from keras_weightnoise._weights.reachable import Layer, Variable
from keras_weightnoise._weights.selectors import Selector


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A variable to perturb.

    Attributes:
        variable: The `keras.Variable`.
        layer: The layer that owns it.
        start: Where its random numbers begin (see `drawing.offsets`).
        axes: The axes that one output channel extends over.
        rho: Where noise needs it, the variable of its learned standard deviations.
        code: How it holds the integer codes of a quantized model. Defaults to `None`: it holds floats.
    """

    variable: Variable
    layer: Layer
    start: int
    axes: tuple[int, ...]
    rho: Variable | None = None
    code: Code | None = None

    @property
    def bits(self) -> int | None:
        """How many bits its codes have: `None` if it holds floats."""
        return None if self.code is None else self.code.bits


def select(
    root: Layer,
    variables: Selector | None = None,
    exclude: Selector | None = None,
    *,
    frozen: bool | None = None,
    codes: bool = False,
) -> list[Target]:
    """Resolves selectors to the float variables of a model or layer, and perhaps to integer codes.

    Args:
        root: A built model or layer.
        variables: A selector (see `selectors.check_selector`), or `None` for all of them.
        exclude: A selector of those to leave out.
        frozen: Whether weights that are frozen are eligible beside the trainable ones. What a layer
            keeps track of itself, as BatchNormalization its moving statistics, never is.
            Defaults to `None`: no, and the user has no such argument.
        codes: Whether the integer codes of a quantized model are eligible. Defaults to `False`.

    Returns:
        A list of `Target`, each variable once, in the order of `root.variables`.

    Raises:
        ValueError: If a selector matches nothing, or nothing remains.
    """
    owners = reachable.owners(root)
    weights = reachable.learned(root) if frozen else root.trainable_variables
    eligible = {id(v) for v in weights if is_float(v) and not is_noise_parameter(v)}
    everything = list(root.variables)
    found = {id(v): code_of(v, owners[id(v)]) for v in everything} if codes else {}
    eligible |= {key for key, code in found.items() if code is not None}
    candidates = [v for v in everything if id(v) in eligible]
    chosen = selectors.matching(root, candidates, "variables", variables, frozen=frozen)
    # `exclude` may name what is not eligible anyway; only what is not there at all is a mistake.
    left_out = (
        set() if exclude is None else selectors.matching(root, everything, "exclude", exclude)
    )
    starts = drawing.offsets([tuple(v.shape) for v in everything])
    targets = [
        Target(v, owners[id(v)], start, filter_axes(v, owners[id(v)]), code=found.get(id(v)))
        for v, start in zip(everything, starts, strict=True)
        if id(v) in chosen and id(v) not in left_out
    ]
    if not targets:
        raise ValueError(
            f"No variable of {root.name!r} is left to perturb. Expected `variables` and `exclude` to "
            f"leave at least one {'' if frozen else 'trainable '}float variable. "
            f"Received: variables={variables}, exclude={exclude}.{selectors.listing(root, candidates)}"
        )
    return targets


def refuse_self_assigned(root: Layer, targets: Sequence[Target]) -> None:
    """Raises if a selected kernel belongs to a layer that overwrites it when called."""
    selected = {id(target.variable) for target in targets}
    for layer in reachable.sublayers(root):
        if isinstance(layer, keras.layers.SpectralNormalization):
            for variable in layer.layer.variables:
                if id(variable) in selected and is_kernel(variable):
                    raise ValueError(self_assigned(variable, layer))


def self_assigned(variable: Variable, layer: Layer) -> str:
    """What is wrong with a layer that overwrites a selected variable when it is called."""
    return (
        f"Layer {layer.name!r} (of type {type(layer).__name__}) assigns its variable {variable.path!r} "
        "when it is called, so that noise cannot be told from its work. Expected it among `exclude`, as "
        f"in `exclude={variable.path!r}`. Received: a selection that holds it."
    )

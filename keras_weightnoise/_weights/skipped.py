"""A warning where what is left without noise carries most of a model."""

import inspect
import math
import pathlib
import warnings
from collections.abc import Sequence

import tensorflow as tf

from keras_weightnoise._weights import reachable, selectors
from keras_weightnoise._weights.kernels import is_float, is_kernel
from keras_weightnoise._weights.reachable import Layer, Variable
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.noises import Noise

_PACKAGE = pathlib.Path(__file__).parents[1]


def warn_of_skipped(
    root: Layer,
    selected: Sequence[Variable],
    variables: Sequence[Selector | None],
    exclude: Selector | None,
    *,
    frozen: bool = False,
    action: str = "perturbed",
    no_codes: Sequence[Noise] = (),
) -> None:
    """Warns if most of what a user has selected is not eligible, so that a model only looks robust.

    That is the integer kernels of quantized layers, and where frozen weights are eligible also the float
    kernels that their layers keep without learning them. Counted in weights, against what is selected.
    Frozen weights do not count where they are left out: with LoRA, and in fine-tuning, that is as it
    should be.

    Args:
        root: The model or layer.
        selected: The variables that are perturbed.
        variables: The selectors that all had to match.
        exclude: The selector of those that the user left out.
        frozen: Whether frozen weights are eligible. Defaults to `False`.
        action: What is not done to the others. Defaults to `"perturbed"`.
        no_codes: Noises that could have been of integer codes, and are not. Defaults to none.
    """
    skipped = quantized_kernels(root)
    if frozen:
        learned = {id(v) for v in reachable.learned(root)}
        kept = [v for v in root.variables if is_float(v) and id(v) not in learned]
        skipped += [v for v in kept if is_kernel(v)]
    taken = {id(v) for v in selected}
    skipped = [v for v in skipped if id(v) not in taken]
    if not skipped:
        return
    for selector in variables:
        wanted = selectors.matched(root, skipped, selector)
        skipped = [v for v in skipped if id(v) in wanted]
    left_out = set() if exclude is None else selectors.matched(root, skipped, exclude)
    skipped = [v for v in skipped if id(v) not in left_out]
    size, rest = _count(skipped), _count(selected)
    if size <= rest:
        return
    names = reachable.relative_names(root, skipped)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    warnings.warn(
        f"Of the selected weights of {root.name!r}, {size / (size + rest):.1%} are not {action}: they are "
        f"quantized to integers, or state that layers keep ({', '.join(names[:3])}{more}). Only the others "
        f"are {action}, which says little about the model. {_advice(skipped, no_codes)}Expected a model in "
        "floating point, or these among `exclude`.",
        stacklevel=levels_to_user(),
    )


def _advice(skipped: Sequence[Variable], no_codes: Sequence[Noise]) -> str:
    """Which noise there is of integers, where other noise has been asked for."""
    if not no_codes or all(is_float(v) for v in skipped):
        return ""
    names = ", ".join(type(noise).__name__ for noise in no_codes)
    return f"{names} is no noise of integer codes, as `BitFlip` and `StuckAt` are. "


def quantized_kernels(root: Layer) -> list[Variable]:
    """The kernels of a layer that are integers of one byte, as quantization leaves them."""
    return [
        v
        for v in root.variables
        if (dtype := tf.as_dtype(v.dtype)).is_integer and dtype.size == 1 and is_kernel(v)
    ]


def _count(variables: Sequence[Variable]) -> int:
    return sum(math.prod(v.shape) for v in variables)


def levels_to_user() -> int:
    """The `stacklevel` at which `warnings.warn` names the code that called this library."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and _PACKAGE in pathlib.Path(frame.f_code.co_filename).parents:
        frame, level = frame.f_back, level + 1
    return level

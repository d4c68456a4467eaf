"""`clip_weights`: keeps the weights of an existing model within a few standard deviations."""

from typing import Any

import keras

from keras_weightnoise._checks import check_model, check_variables
from keras_weightnoise._weights import selection, selectors
from keras_weightnoise._weights.reachable import Variable, path
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise._weights.skipped import warn_of_skipped
from keras_weightnoise._weights.values import stored_values
from keras_weightnoise.constraints import ClipToStddev


def clip_weights(
    model: Any,
    k: float = 2.0,
    *,
    variables: Selector | None = "kernels",
    exclude: Selector | None = None,
) -> "ClippedWeights":
    """Clips weights of an existing model, at once and after each update: `|w| <= k std(w)`.

    Use it before noise-aware fine-tuning of a trained model. It sets `variable.constraint` of the
    selected variables to `ClipToStddev(k)`, in place, and applies it once, so that the first noise is
    already that of clipped weights. A layer that has an argument for the constraint (`kernel_constraint`
    of Dense, say) gets it too, with which it is saved. Where a layer has none, or hides it (as
    MultiHeadAttention, or layers of your own), a reloaded model is clipped no more: call this again.

    The optimizer applies it, so weights keep within the bound in any `fit`, under noise or not.

    Args:
        model: A built `keras.Model`, or a layer. If another model that shares layers with it was
            trained before, compile that one anew.
        k: How many standard deviations. Float >= 1. Defaults to `2.0`.
        variables: Which variables: `"kernels"` (what multiplies what comes in, such as kernels and
            embeddings; never a bias, gamma or beta), a regular expression searched in `variable.path`, a
            variable, a layer, a layer class, a function of a variable that returns a bool, or a list of
            these. `None`: every trainable float variable. Frozen ones are not trained, and not clipped.
            Defaults to `"kernels"`.
        exclude: Which of these not, in the same terms. Defaults to `None`.

    Returns:
        A list of the `keras.Variable`s that are clipped now, which prints as their paths and shapes.

    Raises:
        ValueError: If the model is not built; if a selector matches nothing; if a selected variable has
            a constraint of another class; if `k` is below 1 or not finite. The model is then as it was.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras
    >>> from keras_weightnoise import clip_weights
    >>> layers = [keras.Input((8,)), keras.layers.Dense(8, name="head")]
    >>> model = keras.Sequential(layers, name="model")
    >>> clip_weights(model, 2.0)
    [model/head/kernel (8, 8)]
    >>> model.layers[0].get_config()["kernel_constraint"]["config"]
    {'k': 2.0}

    References:
        - [Joshi et al., 2020](https://doi.org/10.1038/s41467-020-16108-9)
    """
    check_model(model, keras.Layer)
    constraint = ClipToStddev(k)
    selectors.check_selectors(variables=variables, exclude=exclude)
    check_variables(model, "clip")
    targets = selection.select(model, variables, exclude)
    selected = [target.variable for target in targets]
    warn_of_skipped(model, selected, [variables], exclude, action="clipped")
    for variable in selected:
        if not isinstance(variable.constraint, ClipToStddev | None):
            raise ValueError(
                f"The variable {variable.path!r} has a constraint already, and there can be only one. "
                "Expected it among `exclude`, or its `constraint` set to `None`. "
                f"Received: variable.constraint={variable.constraint}"
            )
    before = stored_values(selected)
    try:
        for variable, value in zip(selected, before, strict=True):
            variable.assign(constraint(value))
        for target in targets:
            _constrain(target, constraint)
        if getattr(model, "train_function", None) is not None:
            model.make_train_function(force=True)  # The one there is was traced without it.
    except BaseException:
        for variable, value in zip(selected, before, strict=True):
            variable.assign(value)
        raise
    return ClippedWeights(selected)


class ClippedWeights(list[Variable]):
    """A list of variables that prints without their values."""

    def __repr__(self) -> str:
        return "[" + ", ".join(f"{path(each)} {tuple(each.shape)}" for each in self) + "]"


def _constrain(target: Target, constraint: ClipToStddev) -> None:
    target.variable.constraint = constraint
    name = target.variable.name
    # `kernel_constraint`, `recurrent_constraint` of a `recurrent_kernel`, and that of a depthwise `kernel`.
    for prefix in (name, name.removesuffix("_kernel"), name.replace("kernel", "depthwise")):
        if hasattr(target.layer, f"{prefix}_constraint"):
            setattr(target.layer, f"{prefix}_constraint", constraint)
            return

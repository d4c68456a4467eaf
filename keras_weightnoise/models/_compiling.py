"""Copies compiled as their models are."""

import warnings
from typing import Any

from keras_weightnoise._not_public import decays
from keras_weightnoise._weights.noise_parameters import is_noise_parameter
from keras_weightnoise._weights.skipped import levels_to_user
from keras_weightnoise.models._rebuilding import silent_about_lambdas, with_code_of


def compile_like(model: Any, new: Any) -> None:
    """Compiles a copy as its model is, if it is, or warns. The optimizer begins anew."""
    if not getattr(model, "compiled", False):  # A layer is not.
        return
    try:
        with with_code_of(model.metrics, model.loss), silent_about_lambdas():
            new.compile_from_config(model.get_compile_config())
    except Exception as error:
        warnings.warn(
            f"The copy of model {model.name!r} is not compiled: what the original was compiled with "
            f"cannot be made from its configuration. Compile it. ({error})",
            stacklevel=levels_to_user(),
        )
    else:
        _keep_from_decay(model, new)


def _keep_from_decay(model: Any, new: Any) -> None:
    """Has a copy's optimizer decay what its model's does, and never what noise has learned.

    No configuration has what `exclude_from_weight_decay` left out. And Keras has built the optimizer, after
    which it takes no exceptions any more: so there is another one.
    """
    decaying = _inner(model.optimizer)
    if not getattr(decaying, "weight_decay", None):
        return
    learned = [variable for variable in new.trainable_variables if is_noise_parameter(variable)]
    weights = (
        [variable for variable in each.trainable_variables if not is_noise_parameter(variable)]
        for each in (model, new)
    )
    exempt = learned + [b for a, b in zip(*weights, strict=True) if not decays(decaying, a.value)]
    if exempt:
        optimizer = type(new.optimizer).from_config(new.optimizer.get_config())
        _inner(optimizer).exclude_from_weight_decay(var_list=exempt)
        optimizer.build(new.trainable_variables)
        new.optimizer = optimizer


def _inner(optimizer: Any) -> Any:
    """The optimizer that a `LossScaleOptimizer` has inside, or else itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)

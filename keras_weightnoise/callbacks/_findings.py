"""What a noisy step finds that noise cannot do, or does not do: errors and warnings."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._not_public import (
    assigns_in,
    current_graph,
    in_nested_function,
)
from keras_weightnoise._weights import reachable, selection
from keras_weightnoise._weights.reachable import Variable
from keras_weightnoise._weights.selection import Target
from keras_weightnoise.callbacks._kept_state import KeptState
from keras_weightnoise.callbacks._optimizers import counters
from keras_weightnoise.callbacks._uses import Uses
from keras_weightnoise.callbacks._write_ahead_log import Injection


def refuse_nested(model: Any, injection: Injection, optimizer: Any) -> None:
    """Raises if an optimizer is applied while another function is traced than that of the step."""
    if in_nested_function(injection.graph):
        raise ValueError(_NESTED.format(model=model.name, optimizer=optimizer.name))


def refuse_unheard(model: Any, optimizers: Iterable[Any]) -> None:
    """Raises if a function that was traced earlier applies an optimizer: we cannot step between."""
    if tf.executing_eagerly():
        return  # There is no graph to look at.
    for optimizer in optimizers:
        if any(Uses(counter).calls for counter in counters(optimizer)):
            raise ValueError(_NESTED.format(model=model.name, optimizer=optimizer.name))


def refuse_self_assigned(injection: Injection, targets: Sequence[Target]) -> None:
    """Raises if a layer, when called, has written to a variable that was noisy."""
    for i, ops in injection.writes.items():
        target = targets[i]
        if any(assigns_in(op, target.layer) for op in ops):
            raise ValueError(selection.self_assigned(target.variable, target.layer))


def refuse_second(model: Any, optimizers: Sequence[Any]) -> None:
    """Raises if a pass has applied more than one optimizer: the second gradient follows the first update."""
    if len(optimizers) > 1:
        first, second = (optimizer.name for optimizer in optimizers[:2])
        refuse_passes(model, f"applies optimizer {first!r}, and then optimizer {second!r}")


def refuse_branch(model: Any, injection: Injection, optimizer: Any) -> None:
    """Raises if an optimizer is applied in a branch or loop: its gradients are out of reach outside."""
    if current_graph() is not injection.graph:
        refuse_passes(model, f"applies optimizer {optimizer.name!r} in a branch or a loop")


def refuse_by_hand(model: Any, watch: KeptState, targets: Sequence[Target]) -> None:
    """Raises if a pass has written to weights that are trained, before an optimizer does."""
    layers = reachable.sublayers(model)
    for i, ops in watch.written().items():
        variable = watch.variables[i]
        own = [each for each in layers if any(variable is v for v in each.variables)]
        if ops and all(any(assigns_in(op, layer) for layer in own) for op in ops):
            if i < len(targets):
                raise ValueError(selection.self_assigned(variable, targets[i].layer))
        else:
            refuse_passes(
                model, f"assigns {variable.path!r} by hand before an optimizer is applied"
            )


def refuse_passes(model: Any, what: str) -> None:
    """Raises: the training step is none that can be run several times before one update."""
    raise ValueError(
        f"The training step of model {model.name!r} {what}, so that it cannot take several gradients for "
        "one update. Expected a `train_step` that applies one optimizer once, or `draws_per_step=1` and "
        "`clean_gradient=0.0`."
    )


def refuse_untraced(model: Any) -> None:
    """Raises: the training function has not called the training step."""
    raise RuntimeError(
        f"The training function of model {model.name!r} did not call `model.train_step`, so no noise "
        "reached it. Expected `make_train_function` to build on `train_step`."
    )


def refuse_unrun() -> None:
    """Raises: a batch has ended whose training step was another one."""
    raise RuntimeError(
        "The training step ran without noise. Expected `model.fit` to call `model.train_function` after "
        "`on_train_batch_begin`: another callback replaced it or fitted the model in between, this callback "
        "is in `callbacks` twice, or this is no `fit`. In a training loop of your own, use "
        "`keras_weightnoise.noisy_call`."
    )


def refuse_new_variables(model: Any) -> None:
    """Raises: the first training step has made variables."""
    raise ValueError(
        f"Model {model.name!r} created variables in its first training step, where noise does not reach "
        "them. Expected a built model. Build it, or call it once on a batch, before `fit`."
    )


def warn_unread(model: Any, variables: Sequence[Variable]) -> None:
    """Warns of variables that a step does not read."""
    if variables:
        warnings.warn(
            "Noise has no effect where nothing reads the weight: the training step of model "
            f"{model.name!r} reads none of {[v.path for v in variables]} before they are updated. "
            "Expected `exclude` to name what a step does not use.",
            stacklevel=2,
        )


def warn_moved(model: Any, variables: Sequence[Variable]) -> None:
    """Warns of noisy variables that a step assigns by hand, while an optimizer updates others."""
    if variables:
        found = ", ".join(repr(v.path) + _attribute(model, v) for v in variables)
        warnings.warn(
            f"The training step of model {model.name!r} assigns weights by hand while they are noisy: "
            f"{found}. The assigned value minus the noisy one is added to the clean one. That is right for "
            "`v.assign_sub(learning_rate * g)`, but a weight that is overwritten, as those of a target "
            "network or of an average are, drifts. Expected such weights to be non-trainable, or named in "
            "`exclude`.",
            stacklevel=2,
        )


def warn_outside_fit(method: str) -> None:
    """Warns of a callback that is given to another method of the model than `fit`."""
    warnings.warn(
        f"`WeightNoiseCallback` has no effect in `model.{method}`, which is clean. Expected it among "
        "the callbacks of `fit`. For predictions under noise, use "
        "`keras_weightnoise.perturbed_weights`, `robustness_sweep` or `WeightNoiseEnsemble`.",
        stacklevel=2,
    )


def _attribute(model: Any, variable: Variable) -> str:
    """Where a variable is: a network and its copy may have the same names."""
    for name, value in vars(model).items():
        if isinstance(value, keras.Layer) and any(variable is each for each in value.variables):
            return f" of `{name}`"
    return ""


_NESTED = (
    "Optimizer {optimizer!r} of model {model!r} is applied in a `tf.function` that is no method of the "
    "model. It would keep what it was traced with: noise to take off, or none. Expected `apply` to be "
    "called in `train_step`, or in a method of the model. Remove the decorator, or make it a method."
)

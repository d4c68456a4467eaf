"""The scope in which some variables read as noisy values, and what it finds that it cannot do."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_weightnoise._not_public import ReadScope, current_graph, handle, in_nested_function
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Variable, path
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.values import without_autocast
from keras_weightnoise.layers._late_values import LateValues

Value = Tensor | Callable[[Tensor], Tensor]  # See `LateValues`.


def is_recording() -> bool:
    """Whether gradient tapes record at this moment."""
    x = tf.constant(0.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.raw_ops.Identity(input=x)
    # Asked at each read, and so of few ops: with this gradient to begin from, none is made.
    return tape.gradient(y, x, output_gradients=x) is not None


class NoisyReads(ReadScope):
    """A scope in which targets read as their values, or what these make, and all else is as outside.

    What substituting reads cannot do is refused, so that no call is clean or wrong without a word:

    - A target that the call assigns: the noise would stay.
    - A read while a `tf.function` is being traced: it would keep this call's noise for later ones, and
      for those outside the scope.
    - A read while gradients are no longer recorded, which is what `keras.remat` does: it reads again,
      outside the scope, when gradients are taken.
    - A variable read by another route than Keras's (`check`): such as a `tf.function` that was traced
      before, or a SavedModel's.
    """

    def __init__(self, targets: Sequence[Target], values: Sequence[Value]) -> None:
        super().__init__()
        self._targets = {id(target.variable): target for target in targets}
        pairs = list(zip(self._targets, values, strict=True))
        self._values = {key: value for key, value in pairs if not callable(value)}
        self._late = LateValues({key: value for key, value in pairs if callable(value)})
        self._rhos = {id(t.rho): t for t in targets if t.rho is not None}
        self._read: set[int] = set()
        self._graph = current_graph()
        self._recording = is_recording()

    def read(self, variable: Variable) -> Any:
        """What `variable` reads as."""
        target = self._targets.get(id(variable))
        if target is None:
            if id(variable) in self._rhos:
                raise _refusal(
                    self._rhos[id(variable)],
                    "would be noisy twice: by what it has learned, and, as `training=True`, by the wrapper "
                    "that learns it. Expected `training=False`. To train, fit the model itself.",
                )
            return super().read(variable)
        if in_nested_function(self._graph):
            raise _refusal(
                target,
                "is read inside a `tf.function`, which would keep the noise of the call it is traced "
                f"in. Remove the decorator (a compiled training step does without), {_ELSE}",
            )
        if self._recording and not is_recording():
            raise _refusal(
                target,
                "is read where no gradient is recorded, as in `keras.remat` (`tf.recompute_grad`), "
                "which reads it again, without noise, when gradients are taken. Do not rematerialize "
                f"this layer, {_ELSE}",
            )
        self._read.add(id(variable))
        key = id(variable)
        return self._late.at(key) if key in self._late else self._values[key]

    def assign(self, variable: Variable, value: Tensor) -> None:
        """Assigns what is no target."""
        target = self._targets.get(id(variable))
        if target is not None:
            raise _refusal(
                target,
                "is assigned in the call itself (as by `keras.layers.SpectralNormalization`), and what "
                "is assigned would hold noise. Leave this layer out of what is perturbed.",
            )
        super().assign(variable, value)

    def check(self, watched: Sequence[tf.Variable]) -> None:
        """Raises if a target was read elsewhere, or none was read at all."""
        read_elsewhere = _among(watched, [target.variable for target in self._targets.values()])
        for key, target in self._targets.items():
            if key in read_elsewhere:
                raise _refusal(
                    target,
                    "is read by another route than Keras's, which substitution does not reach, such as "
                    f"a `tf.function` that was traced before. Remove the decorator, {_ELSE}",
                )
            if key not in self._read and self._read:
                warnings.warn(
                    f"Weight noise has no effect on the variable {path(target.variable)!r} of the layer "
                    f"{target.layer.name!r}: this call does not read it.",
                    stacklevel=2,
                )
        if not self._read:
            raise _refusal(
                next(iter(self._targets.values())),
                "is not read in this call, nor is any other variable that would be perturbed.",
            )


_ELSE = (
    "or use what perturbs the variables themselves: `WeightNoiseCallback` in training, `perturbed_weights` "
    "outside of it."
)


def _refusal(target: Target, reason: str) -> ValueError:
    return ValueError(
        f"Weight noise cannot be applied to the layer {target.layer.name!r} (of type "
        f"{type(target.layer).__name__}) by substitution: its variable {path(target.variable)!r} "
        f"{reason}"
    )


def _among(watched: Sequence[tf.Variable], variables: Sequence[Variable]) -> set[int]:
    """The ids of those Keras variables whose TensorFlow variable a tape has watched."""
    handles = {each for variable in watched for each in _handles(variable)}
    found: set[int] = without_autocast(
        function=lambda: {id(each) for each in variables if _handles(each.value) & handles}
    )
    return found


def _handles(value: Any) -> set[int]:
    """The ids of what stands for a variable in ops. A tensor, which an outer scope substitutes, has none."""
    parts = (value,)
    if tf.distribute.in_cross_replica_context():
        # There, a mirrored variable has a handle for each replica, as when `fit` builds a model.
        parts = tf.distribute.get_strategy().experimental_local_results(value)
    return {id(handle(part)) for part in parts if isinstance(part, tf.Variable)}

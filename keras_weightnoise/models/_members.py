"""The members of an ensemble: one call of each, in one loop of the graph."""

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._not_public import in_stateless_scope
from keras_weightnoise._random import adding
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights import reachable
from keras_weightnoise._weights.perturbation import perturb_assigned
from keras_weightnoise._weights.reachable import Layer, Variable
from keras_weightnoise._weights.rules import Assigned, needs_learned
from keras_weightnoise._weights.state import (
    Snapshot,
    reachable_variables,
    seed_variables,
    state_variables,
)
from keras_weightnoise._weights.values import stored_values, true_after
from keras_weightnoise.layers._noisy_reads import NoisyReads, Value
from keras_weightnoise.layers.noisy_call import substituted_call
from keras_weightnoise.noises import Noise

# Odd, so that the seeds of members differ: 2^32 over the golden ratio.
_SEED_STRIDE = 0x9E3779B9


class Members:
    """Perturbed members of a model, which are computed one after the other.

    The model is traced once for each form of the inputs, whatever is made of the members' outputs: each
    member is a call of one `tf.function`; and once more where a call without noise is made.

    Each member starts from the model's state as it was before the first. Afterwards the state is what one
    call without noise leaves: that call is made only if the members change more than seeds. Member m > 0
    has streams of its own of the model's random numbers (Dropout's), so that no two members, in one call of
    the ensemble or in several, draw the same.

    Args:
        model: A built model.
        assigned: Pairs of a noise and its targets.
        count: How many members.
        seed: The seed of the noise.
    """

    def __init__(self, model: Any, assigned: Sequence[Assigned], count: int, seed: int) -> None:
        self.assigned = list(assigned)
        self.count = count
        self._model = model
        self._seed = seed
        self._targets = [target for _, targets in assigned for target in targets]
        self._passes_training = "training" in inspect.signature(model.call).parameters
        self.forget_traces()

    def forget_traces(self) -> None:
        """Has the model traced anew, as after a change of its layers."""
        # Of a partial, which has no code of its own, TensorFlow does not warn that objects made in a loop
        # are traced in a loop. Not inlined, it is optimized once for all its calls, the longest part of a
        # first `predict`.
        self._traced = tf.function(
            functools.partial(Members._call, self),
            autograph=False,
            reduce_retracing=True,
            experimental_attributes={"_noinline": True},
        )
        # For `training` and not, the ids of the variables that calls assign.
        self._assigned_ids: dict[bool, set[int]] = {True: set(), False: set()}

    def replace_noises(self, noises: Sequence[Noise]) -> bool:
        """Has other noises in the place of those there are, which differ in their magnitudes alone.

        Returns whether traces still hold: a magnitude may decide what is drawn.
        """
        pairs = list(zip(noises, self.assigned, strict=True))
        self.assigned = [(noise, targets) for noise, (_, targets) in pairs]
        return all(_draws(noise) == _draws(before) for noise, (before, _) in pairs)

    def fold(
        self,
        inputs: Any,
        training: bool | None,
        magnitudes: Tensor,
        start: Callable[[Tensor], Any],
        update: Callable[[Any, Tensor, Tensor], Any],
    ) -> tuple[Any, list[Any], list[Tensor]]:
        """Goes through the members.

        Args:
            inputs: The model's.
            training: See `WeightNoiseEnsemble`.
            magnitudes: A vector: the magnitude of each noise, and of each member of a composition.
            start: From an output of member 0 to what is accumulated.
            update: From what is accumulated, an output of member m, and m + 1, to the same.

        Returns:
            The outputs of member 0, for their structure; what is accumulated of each output; and the mean
            of the losses, if there are any.
        """
        training = bool(training)
        call = self._function(inputs, training, magnitudes)
        # For an argument that is a constant, TensorFlow would make and optimize a function of its own.
        zero = tf.cast(tf.logical_not(true_after([magnitudes])), tf.int64)
        # The first is not in the loop: it shows the shapes, which may depend on the inputs.
        outputs, losses, before = self._first(call, zero, magnitudes, inputs, training)
        seeds = {id(v) for v in seed_variables(self._model)} if before.variables else set()
        if any(id(variable) not in seeds for variable in before.variables):
            before.restore()
            call(zero, False, magnitudes, inputs, training)
        after = Snapshot(before.variables)

        def step(number: Tensor, sums: list[Any], total: Tensor) -> tuple[Any, ...]:
            before.restore()
            for variable in before.variables:
                if id(variable) in seeds:
                    variable.assign_add(_seed_offset(number, variable))
            outputs, losses = call(number, True, magnitudes, inputs, training)
            sums = [
                update(each, output, number + 1)
                for each, output in zip(sums, keras.tree.flatten(outputs), strict=True)
            ]
            return number + 1, sums, total + _total(losses)

        sums = [start(output) for output in keras.tree.flatten(outputs)]
        # If it did not wait, the loop would begin beside member 0, with as much memory again.
        _, sums, total = tf.while_loop(
            lambda number, *_: number < self.count,
            step,
            (tf.cast(true_after(keras.tree.flatten(outputs)), tf.int64), sums, _total(losses)),
            parallel_iterations=1,
            maximum_iterations=self.count - 1,
        )
        after.restore()
        return outputs, sums, [total / self.count] if losses else []

    def _first(
        self,
        call: Callable[..., Any],
        number: Tensor,
        magnitudes: Tensor,
        inputs: Any,
        training: bool,
    ) -> tuple[Any, list[Tensor], Snapshot]:
        """The outputs and losses of member 0, and the state before it of what it changes."""
        traced = call is self._traced
        # Of a traced call it is known what it changes; for another, all that it may change is kept first.
        before = Snapshot(self._changed(training) if traced else self._changeable())
        outputs, losses = call(number, True, magnitudes, inputs, training)
        return outputs, losses, before if traced else before.of(self._changed(training))

    def _function(self, inputs: Any, training: bool, magnitudes: Tensor) -> Callable[..., Any]:
        """What calls a member: traced, where a trace can be kept."""
        # In a scope of Keras's, as of symbolic calls, reads and assignments are not those of variables.
        if tf.executing_eagerly() or in_stateless_scope():
            return self._call
        # From here on, it is known what it assigns.
        self._traced.get_concrete_function(
            tf.constant(0, tf.int64), True, magnitudes, inputs, training
        )
        function: Callable[..., Any] = self._traced
        return function

    def _call(
        self, number: Tensor, noisy: bool, magnitudes: Tensor, inputs: Any, training: bool
    ) -> tuple[Any, list[Tensor]]:
        """The outputs of a member, or if not `noisy` of the model, and the losses that its layers add."""
        values = self._values(number, noisy, magnitudes)
        kwargs = {"training": training} if self._passes_training else {}
        # Keeps losses from the model, where tensors of a loop's body are of no use after the loop.
        with _Assignments() as scope:
            outputs = substituted_call(self._model, self._targets, values, [inputs], kwargs)
        self._assigned_ids[training] |= scope.assigned
        _check_dense(self._model, outputs)
        return outputs, list(scope.losses)

    def _values(self, number: Tensor, noisy: bool, magnitudes: Tensor) -> list[Value]:
        """What targets read as; of large ones what makes it, so that one is noisy after the other."""
        clean = stored_values([target.variable for target in self._targets])
        if not noisy:
            return list(clean)

        def drawn(places: Sequence[int], after: Tensor | None = None) -> list[Tensor]:
            return self._perturb(places, [clean[i] for i in places], number, magnitudes, after)

        # What is learned is read to draw: where the model is called, reading it is refused.
        learned = any(needs_learned(noise) for noise, _ in self.assigned)
        large = [i for i, w in enumerate(clean) if adding.is_large(w.shape) and not learned]
        small = [i for i in range(len(clean)) if i not in large]
        values: dict[int, Value] = dict(zip(small, drawn(small) if small else [], strict=True))
        values |= {i: functools.partial(lambda i, after: drawn([i], after)[0], i) for i in large}
        return [values[i] for i in range(len(clean))]

    def _perturb(
        self,
        places: Sequence[int],
        clean: Sequence[Tensor],
        number: Tensor,
        magnitudes: Tensor,
        after: Tensor | None,
    ) -> list[Tensor]:
        """The values of some targets under noise."""
        numbers, left = itertools.count(), iter(tf.unstack(magnitudes))
        assigned, sizes = [], []
        for noise, targets in self.assigned:
            size = [next(left) for _ in noise.members]
            own = [target for target in targets if next(numbers) in places]
            if own:
                assigned.append((noise, own))
                sizes.append(size)
        return perturb_assigned(
            assigned,
            clean,
            seed=tf.constant(self._seed, tf.int64),
            step=number,
            chip=number,
            magnitudes=sizes,
            after=after,
        )

    def _changeable(self) -> list[Variable]:
        """The variables that a call may change."""
        targets = {id(target.variable) for target in self._targets}
        return [v for v in reachable_variables(self._model) if id(v) not in targets]

    def _changed(self, training: bool) -> list[Variable]:
        """The variables that the calls so far have assigned, or may have."""
        everything = reachable_variables(self._model)
        unseen = _assigned_unseen(self._model, everything)
        ids = self._assigned_ids[training] | {id(v) for v in unseen}
        return [v for v in everything if id(v) in ids]


class _Assignments(NoisyReads):
    """A scope in which all is as outside, that notes which variables are assigned."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.assigned: set[int] = set()

    def add_update(self, update: tuple[Variable, Tensor]) -> None:
        self.assigned.add(id(update[0]))
        super().add_update(update)


def _check_dense(model: Any, outputs: Any) -> None:
    for output in keras.tree.flatten(outputs):
        if not tf.is_tensor(output) or isinstance(output, tf.RaggedTensor | tf.SparseTensor):
            raise TypeError(
                f"`WeightNoiseEnsemble` cannot put together what {model.name!r} returns. Expected dense "
                f"tensors alone. Received: an output of type {type(output).__name__}"
            )


def _draws(noise: Noise) -> list[Any]:
    return [member.draws for member in noise.members]


def _assigned_unseen(model: Layer, everything: Sequence[Variable]) -> list[Variable]:
    """State that a call may assign unseen: TensorFlow's variables, and what a `tf.function` assigns."""
    unseen: list[Variable] = []
    if any(isinstance(v, tf.Variable) for v in everything):
        unseen = [v for v in state_variables(model) if isinstance(v, tf.Variable)]
    for layer in reachable.sublayers(model):
        if hasattr(layer.call, "get_concrete_function"):  # It may be traced already.
            unseen += state_variables(layer)
    return unseen


def _seed_offset(number: Tensor, variable: Variable) -> Tensor:
    """What makes another stream of a seed, for a member: Keras's seeds are [seed, count of draws]."""
    return tf.cast([number * _SEED_STRIDE % 2**32, 0], variable.dtype)


def _total(losses: Sequence[Tensor]) -> Tensor:
    return tf.add_n([tf.constant(0.0), *(tf.cast(loss, tf.float32) for loss in losses)])

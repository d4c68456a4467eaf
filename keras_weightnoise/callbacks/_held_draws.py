"""Random numbers that are kept where one draw lasts for several steps."""

from collections.abc import Sequence

import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.draws import Numbers, draw
from keras_weightnoise._weights.rules import Assigned
from keras_weightnoise.callbacks._replicas import free, local, made, replace_value, state


class HeldDraws:
    """The draws of several noises, made anew only when their step changes.

    Args:
        noises: Pairs of a noise and its targets.
    """

    def __init__(self, noises: Sequence[Assigned]) -> None:
        self._noises = noises
        self._kept = [
            [
                [
                    [state(tf.zeros(t.variable.shape, each.law.dtype)) for t in targets]
                    for each in member.draws
                ]
                for member in noise.members
            ]
            for noise, targets in noises
        ]
        self._step = state(tf.constant(-1, tf.int64))

    def at(self, seed: Tensor, step: Tensor, replica: int, stream: int) -> list[Numbers]:
        """Makes the ops that give a replica its draws of a step, for each noise.

        Args:
            seed: See `draws.draw`.
            step: See `draws.draw`.
            replica: The replica that they are kept on.
            stream: What `draws.draw` calls the replica.
        """
        kept = tf.nest.map_structure(lambda v: local(v)[replica], self._kept)
        kept_step = local(self._step)[replica]

        def redraw() -> Tensor:
            ops = []
            for (noise, targets), of_noise in zip(self._noises, kept, strict=True):
                numbers = draw(noise, targets, seed=seed, step=step, replica=stream)
                pairs = zip(tf.nest.flatten(numbers), tf.nest.flatten(of_noise), strict=True)
                ops += [v.assign(value, read_value=False) for value, v in pairs]
            # An interrupted step may have kept only some of them.
            with tf.control_dependencies(made(ops)):
                stamp = kept_step.assign(step, read_value=False)
            with tf.control_dependencies(made([stamp])):
                return tf.constant(True)

        redrawn = tf.cond(kept_step != step, redraw, lambda: tf.constant(False))
        with tf.control_dependencies(made([redrawn])):
            return tf.nest.map_structure(tf.convert_to_tensor, kept)  # type: ignore[no-any-return]

    def reserve(self) -> None:
        """Takes memory for draws, and forgets those there were. Not in a graph."""
        self._step.assign(-1)
        for variable in self._variables():
            replace_value(variable, [tf.zeros(v.shape, v.dtype) for v in local(variable)])

    def release(self) -> None:
        """Frees it, until it is reserved again. Not in a graph."""
        for variable in self._variables():
            free(variable)

    def _variables(self) -> list[tf.Variable]:
        return tf.nest.flatten(self._kept)  # type: ignore[no-any-return]

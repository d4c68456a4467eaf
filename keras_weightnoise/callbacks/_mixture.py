"""The gradient of a step, from those of its passes."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Variable
from keras_weightnoise._weights.values import widen
from keras_weightnoise.callbacks._replicas import stored

Gradients = list[Tensor | None]


class Mixture:
    """`a g_clean + (1 - a) g_noisy`, where `g_noisy` is the mean over noisy passes, by their sizes.

    Of equal gradients, it is that gradient bit for bit.

    Args:
        clean_share: The share `a` of the gradient at the clean weights.
    """

    def __init__(self, clean_share: float) -> None:
        self._clean_share = clean_share
        self._noisy: Gradients | None = None
        self._size: Tensor = 0.0
        self._clean: Gradients | None = None
        self.variables: list[Variable] = []

    def add(self, gradients: Sequence[Any], *, noisy: bool, size: Tensor = 1.0) -> None:
        """Adds the gradients of a pass, one for each of `variables`. One of size 0 does not count."""
        dense = [_dense(g, v) for g, v in zip(gradients, self.variables, strict=True)]
        if not noisy:
            self._clean = dense
            return
        self._size += size
        if self._noisy is None:
            self._noisy = dense
            return
        largest = tf.maximum if tf.is_tensor(self._size) else max
        share = size / largest(self._size, 1.0)
        pairs = zip(self._noisy, dense, strict=True)
        self._noisy = [_toward(*pair, share) for pair in pairs]

    def clean_of(self, variables: Sequence[Variable]) -> list[Tensor]:
        """The gradients at the clean weights of some variables, 0 where there are none."""
        known = {id(v): g for v, g in zip(self.variables, self._clean or [], strict=True)}
        known |= {id(stored(v)): known[id(v)] for v in self.variables}
        found = [known.get(id(v), known.get(id(stored(v)))) for v in variables]
        return [
            tf.zeros(v.shape, v.dtype) if g is None else g
            for v, g in zip(variables, found, strict=True)
        ]

    def result(self) -> Gradients:
        """The gradients of the step, each in the dtype of its variable."""
        mixed = self._noisy or self._clean or []
        if self._noisy is not None and self._clean is not None and self._clean_share:
            share = self._clean_share
            if tf.is_tensor(self._size):  # All noisy passes may be of size 0.
                share = tf.where(self._size > 0.0, share, 1.0)
            mixed = [_toward(*pair, share) for pair in zip(self._noisy, self._clean, strict=True)]
        return [
            None if g is None else tf.cast(g, v.dtype)
            for g, v in zip(mixed, self.variables, strict=True)
        ]


def _dense(gradient: Any, variable: Variable) -> Tensor | None:
    if isinstance(gradient, tf.IndexedSlices):
        gradient = tf.math.unsorted_segment_sum(
            gradient.values, gradient.indices, variable.shape[0]
        )
    return None if gradient is None else widen(gradient)


def _toward(a: Tensor | None, b: Tensor | None, share: Tensor) -> Tensor | None:
    """`a + (b - a) * share`: exact where they are equal."""
    if a is None or b is None:
        one = b if a is None else a
        if one is None:
            return None
        a, b = (tf.zeros_like(one) if each is None else each for each in (a, b))
    mixed = a + (b - a) * tf.cast(share, a.dtype)
    if tf.is_tensor(share):  # What has no share may not be finite.
        mixed = tf.where(share == 0.0, a, tf.where(share == 1.0, b, mixed))
    return mixed

"""The kernels that draw: compiled by XLA where that is faster, plain ops elsewhere. The same numbers.

They are apart from each other, because XLA on CPU works in lanes of the largest type there is; and from
whatever uses them, because it would draw again for each use.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_weightnoise._random import generator
from keras_weightnoise._random.laws import Law
from keras_weightnoise._types import Tensor

_COMPILED = 2**13  # Elements: fewer are drawn sooner than a kernel for them is compiled.


def pairs_kernel(length: int | None, compiled: bool) -> Callable[..., Tensor]:
    """`generator.make_pairs` for so many elements or, of `None`, for as many as it is told."""
    rows = None if length is None else -(-length // generator.ROW)
    return _pairs_kernel(rows, compiled)


@functools.cache
def _pairs_kernel(rows: int | None, compiled: bool) -> Callable[..., Tensor]:
    pairs = generator.make_pairs
    if rows is not None:
        pairs = functools.partial(pairs, length=rows * generator.ROW)
    return _compile(pairs) if compiled else _trace_once(pairs)


@functools.cache
def transform_kernel(law: Law, compiled: bool) -> Callable[..., Tensor]:
    """From words to numbers; compiled, times a factor where there is one."""
    if not compiled:
        return _trace_once(law.transform)

    def transform(words: Tensor, scale: Tensor | None = None) -> Tensor:
        numbers = law.transform(words)
        return numbers if scale is None else scale * numbers

    return _compile(transform)


@functools.cache
def add_kernel(law: Law) -> Callable[..., Tensor]:
    """From words to weights with their numbers, times a factor, added. Compiled for each size."""

    def add(words: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
        n = scale * law.transform(words)
        # Rounded before it is added, as numbers that are kept are: a product goes into a sum unrounded.
        return weights + tf.minimum(n, tf.float32.max)

    of_any_size = [
        tf.TensorSpec(shape, dtype)
        for shape, dtype in [([None], tf.int32), ([], tf.float32), ([None], tf.float32)]
    ]
    return tf.function(add, of_any_size, jit_compile=True, autograph=False)  # type: ignore[no-any-return]


def _compile(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # Of partials, which have no code of their own, TensorFlow does not warn that the same code is traced
    # again and again.
    return tf.function(  # type: ignore[no-any-return]
        functools.partial(function), jit_compile=True, autograph=False
    )


def _trace_once(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # Its ops are hundreds, and a call of it is one: else, tracing a step would be tracing the generator.
    return tf.function(functools.partial(function), autograph=False)  # type: ignore[no-any-return]


@functools.cache
def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    return _compile(function)


def compiled(function: Callable[..., Any], elements: int) -> Callable[..., Any]:
    """A function of tensors with so many elements: fused by XLA where that is faster, else itself."""
    return _kernel(function) if worth_compiling(elements) else function


def worth_compiling(elements: int) -> bool:
    """Whether so many are drawn faster by compiled code."""
    return elements >= _COMPILED and xla_works()


@functools.cache
def xla_works() -> bool:
    """Whether this build of TensorFlow can compile for this machine, and that is known to be fast."""
    if tf.config.get_visible_devices("GPU"):
        return False  # Never measured there.
    try:
        with tf.init_scope():
            tf.function(lambda: tf.zeros(()), jit_compile=True)()
    except (tf.errors.OpError, ValueError):
        return False
    return True

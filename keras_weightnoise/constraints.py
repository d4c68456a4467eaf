"""Weights that stay within a few standard deviations, which noise-aware training needs."""

import math
from typing import Any

import keras
from keras import ops

from keras_weightnoise._checks import is_number
from keras_weightnoise._types import Tensor

__all__ = ["ClipToStddev"]


@keras.saving.register_keras_serializable(package="keras_weightnoise")
class ClipToStddev(keras.constraints.Constraint):  # type: ignore[misc]  # Keras ships no types.
    """Clips a weight to its own standard deviation: `w <- min(max(w, -k std(w)), k std(w))`.

    `std(w)` is that of the whole variable, at each call. Use it with noise whose size follows the
    largest weight (`relative_to="max"` or `"range"`), as in training for analog or low-precision
    hardware: without it a few large weights set the noise of all others. Keras applies constraints
    after each optimizer update, which `WeightNoiseCallback` lets land on the clean weights: what is
    clipped never holds noise.

    Clipping takes from the deviation, so that the next clipping is tighter: it is not idempotent, but
    comes to rest once few weights are left outside. It suits kernels, whose mean is near 0; a variable
    whose elements are all equal (new biases, for example) has no deviation, and is left as it is.

    As an argument of a layer, `keras.layers.Dense(8, kernel_constraint=ClipToStddev(2.0))`; for the
    layers of an existing model, `clip_weights`.

    Args:
        k: How many standard deviations. Float >= 1: with less, every update would shrink all weights
            towards 0. Defaults to `2.0`.

    Raises:
        ValueError: If `k` is below 1 or not finite.
        TypeError: If `k` is not a number.

    Example:

    >>> import numpy as np
    >>> from keras_weightnoise.constraints import ClipToStddev
    >>> w = np.array([-1.0, 0.0, 1.0, 8.0], "float32")
    >>> clipped = ClipToStddev(1.0)(w)
    >>> round(float(w.std()), 4), [round(float(each), 4) for each in clipped]
    (3.5355, [-1.0, 0.0, 1.0, 3.5355])

    References:
        - [Joshi et al., 2020](https://doi.org/10.1038/s41467-020-16108-9) (k = 2)
    """

    def __init__(self, k: float = 2.0) -> None:
        if not is_number(k):
            raise TypeError(
                f"Invalid `k`. Expected a number. Received: k={k!r} (of type {type(k).__name__})"
            )
        if not (math.isfinite(k) and k >= 1):
            raise ValueError(
                "Invalid `k`. Expected a finite number >= 1: with less, every update would shrink all "
                f"weights towards 0. Received: k={k!r}"
            )
        self.k = float(k)

    def __call__(self, w: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        dtype = keras.backend.standardize_dtype(w.dtype)
        # Sums of squares overflow in half precision.
        wide = w if dtype == "float64" else ops.cast(w, "float32")
        bound = self.k * ops.std(wide)
        # The deviation of equal elements is not quite 0: their mean is rounded.
        differ = ops.max(wide) > ops.min(wide)
        clipped = ops.where(differ, ops.clip(wide, -bound, bound), wide)
        return ops.cast(clipped, dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"k": self.k}

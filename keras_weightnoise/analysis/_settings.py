"""What made a result, written down with it."""

import hashlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise._version import __version__
from keras_weightnoise._weights.values import stored_values


def describe(model: Any, perturbed: Sequence[Any], **more: Any) -> dict[str, Any]:
    """The settings of an analysis: the model, its weights' fingerprint, `more`, and versions.

    Args:
        model: The model, without noise.
        perturbed: The variables that are perturbed.
        **more: Numbers, strings, and lists of these.
    """
    return {
        "model": model.name,
        "fingerprint": fingerprint(model, perturbed),
        **more,
        "versions": {
            "keras_weightnoise": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        },
    }


def fingerprint(model: Any, perturbed: Sequence[Any]) -> str:
    """A hash of a model's weights, bit for bit, and of which of them are perturbed."""
    found = hashlib.sha256()
    chosen = {id(variable) for variable in perturbed}
    for variable, value in zip(model.variables, stored_values(model.variables), strict=True):
        found.update(f"{value.shape}{value.dtype}{id(variable) in chosen}".encode())
        if value.dtype != tf.string:
            found.update(np.ascontiguousarray(value).tobytes())
    return found.hexdigest()[:16]

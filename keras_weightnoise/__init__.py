"""Noise in weight space for Keras 3 models on TensorFlow."""

import keras

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "keras_weightnoise works on TensorFlow alone. Expected the Keras backend 'tensorflow', which the "
        "environment variable KERAS_BACKEND sets before Keras is imported. "
        f"Received: backend={keras.config.backend()!r}"
    )

from keras_weightnoise import noises, schedules
from keras_weightnoise.callback import WeightNoiseCallback
from keras_weightnoise.perturb import perturb_weights, perturbed_weights
from keras_weightnoise.substitution import noisy_call
from keras_weightnoise.wrapper import GaussianWeightNoise

__all__ = [
    "GaussianWeightNoise",
    "WeightNoiseCallback",
    "noises",
    "noisy_call",
    "perturb_weights",
    "perturbed_weights",
    "schedules",
]

"""Noise in weight space for Keras 3 models on TensorFlow."""

from keras_weightnoise import noises, schedules
from keras_weightnoise.callback import WeightNoiseCallback
from keras_weightnoise.substitution import noisy_call
from keras_weightnoise.wrapper import GaussianWeightNoise

__all__ = ["GaussianWeightNoise", "WeightNoiseCallback", "noises", "noisy_call", "schedules"]

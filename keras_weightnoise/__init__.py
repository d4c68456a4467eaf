"""Noise in weight space for Keras 3 models on TensorFlow."""

from keras_weightnoise import noises

__all__ = ["noises"]

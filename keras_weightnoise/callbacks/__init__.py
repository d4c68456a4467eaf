"""Noise written into variables, from the start of a training step until the optimizer updates them."""

from keras_weightnoise.callbacks.weight_noise import WeightNoiseCallback

__all__ = ["WeightNoiseCallback"]

"""Noise that is read in a call: the variables themselves are never written."""

from keras_weightnoise.layers.gaussian_weight_noise import GaussianWeightNoise
from keras_weightnoise.layers.noisy_call import noisy_call

__all__ = ["GaussianWeightNoise", "noisy_call"]

"""Noise that is read in a call: the variables themselves are never written."""

from keras_weightnoise.layers.adaptive_stddev import AdaptiveStddev
from keras_weightnoise.layers.gaussian_weight_noise import GaussianWeightNoise
from keras_weightnoise.layers.noisy_call import noisy_call
from keras_weightnoise.layers.noisy_dense import NoisyDense
from keras_weightnoise.layers.parametric_noise import ParametricNoise
from keras_weightnoise.layers.variational_weight_noise import VariationalWeightNoise

__all__ = [
    "AdaptiveStddev",
    "GaussianWeightNoise",
    "NoisyDense",
    "ParametricNoise",
    "VariationalWeightNoise",
    "noisy_call",
]

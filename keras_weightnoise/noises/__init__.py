"""Noise models: immutable, serializable values that say how a weight is perturbed, and how much.

All of them pass gradients straight through: the gradient that arrives at the noisy weight w' is the
gradient of the clean weight w, whatever the noise. So the callback, which moves the clean weights by
the gradient at the noisy ones, and the wrapper, through which it flows, train alike.
"""

from keras_weightnoise._checks import check_magnitude
from keras_weightnoise._random import laws
from keras_weightnoise.noises._get import get
from keras_weightnoise.noises._scales import Scale, check_scale, scale
from keras_weightnoise.noises.additive import Gaussian, Rademacher, TruncatedGaussian, Uniform
from keras_weightnoise.noises.bit_flip import BitFlip
from keras_weightnoise.noises.faults import StuckAt
from keras_weightnoise.noises.multiplicative import DropConnect, LogNormal
from keras_weightnoise.noises.noise import (
    Compose,
    Draw,
    Generator,
    Magnitude,
    Noise,
    Schedule,
    name_magnitudes,
)
from keras_weightnoise.noises.pcm import PCM
from keras_weightnoise.noises.polynomial import Polynomial
from keras_weightnoise.noises.quantization import PseudoQuantization, Quantization
from keras_weightnoise.noises.reram import ReRAM

__all__ = [
    "PCM",
    "BitFlip",
    "Compose",
    "Draw",
    "DropConnect",
    "Gaussian",
    "Generator",
    "LogNormal",
    "Magnitude",
    "Noise",
    "Polynomial",
    "PseudoQuantization",
    "Quantization",
    "Rademacher",
    "ReRAM",
    "Scale",
    "Schedule",
    "StuckAt",
    "TruncatedGaussian",
    "Uniform",
    "check_magnitude",
    "check_scale",
    "get",
    "laws",
    "name_magnitudes",
    "scale",
]

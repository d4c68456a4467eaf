"""Priors of weights: what noise that learns its size is drawn towards.

`VariationalWeightNoise` holds for each weight a Gaussian q(w) = N(mu, sigma^2), and adds KL(q || p) to the
loss. Here is p. Each has one law for all weights of a variable, and another variable has its own.
"""

from keras_weightnoise.priors._get import get
from keras_weightnoise.priors._softplus import softplus_inverse as softplus_inverse
from keras_weightnoise.priors.gaussian import Gaussian, LearnedGaussian, OptimalGaussian
from keras_weightnoise.priors.prior import Prior
from keras_weightnoise.priors.scale_mixture import ScaleMixture

__all__ = [
    "Gaussian",
    "LearnedGaussian",
    "OptimalGaussian",
    "Prior",
    "ScaleMixture",
    "get",
]

"""Published methods by name. Each returns something ready: a callback, a perturbed model, an average.

`**settings` are arguments of `WeightNoiseCallback`, or of what else a recipe says: all can be given, also
those that the recipe sets. What is one argument away has no function: see the table in the README.
"""

from keras_weightnoise.recipes.adversarial import asam, awp, sam
from keras_weightnoise.recipes.random_noise import layerwise, lpf_sgd, m_rwp, rwp, smoothout
from keras_weightnoise.recipes.trained import hardware_aware, noisegrad, noisytune

__all__ = [
    "asam",
    "awp",
    "hardware_aware",
    "layerwise",
    "lpf_sgd",
    "m_rwp",
    "noisegrad",
    "noisytune",
    "rwp",
    "sam",
    "smoothout",
]

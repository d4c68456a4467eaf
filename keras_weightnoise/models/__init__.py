"""What is done to trained models: perturb, convert, clip, predict as an ensemble."""

from keras_weightnoise.models._spread import EnsembleSpread
from keras_weightnoise.models.clip import clip_weights
from keras_weightnoise.models.conversion import add_weight_noise, strip_weight_noise
from keras_weightnoise.models.ensemble import WeightNoiseEnsemble
from keras_weightnoise.models.perturb import perturb_weights, perturbed_weights
from keras_weightnoise.models.prune import prune_weights
from keras_weightnoise.models.variational_conversion import add_variational_weight_noise

__all__ = [
    "EnsembleSpread",
    "WeightNoiseEnsemble",
    "add_variational_weight_noise",
    "add_weight_noise",
    "clip_weights",
    "perturb_weights",
    "perturbed_weights",
    "prune_weights",
    "strip_weight_noise",
]

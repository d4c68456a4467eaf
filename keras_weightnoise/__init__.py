"""Noise in weight space for Keras 3 models on TensorFlow."""

import keras

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "keras_weightnoise works on TensorFlow alone. Expected the Keras backend 'tensorflow', which the "
        "environment variable KERAS_BACKEND sets before Keras is imported. "
        f"Received: backend={keras.config.backend()!r}"
    )

from keras_weightnoise import constraints, noises, schedules
from keras_weightnoise.calibration import CalibrationResult, calibration_report
from keras_weightnoise.callback import WeightNoiseCallback
from keras_weightnoise.constraints import clip_weights
from keras_weightnoise.conversion import add_weight_noise, strip_weight_noise
from keras_weightnoise.ensemble import WeightNoiseEnsemble
from keras_weightnoise.perturb import perturb_weights, perturbed_weights
from keras_weightnoise.robustness import robustness_sweep
from keras_weightnoise.robustness_result import RobustnessResult
from keras_weightnoise.sensitivity import layer_sensitivity
from keras_weightnoise.sensitivity_result import SensitivityResult
from keras_weightnoise.substitution import noisy_call
from keras_weightnoise.wrapper import GaussianWeightNoise

__all__ = [
    "CalibrationResult",
    "GaussianWeightNoise",
    "RobustnessResult",
    "SensitivityResult",
    "WeightNoiseCallback",
    "WeightNoiseEnsemble",
    "add_weight_noise",
    "calibration_report",
    "clip_weights",
    "constraints",
    "layer_sensitivity",
    "noises",
    "noisy_call",
    "perturb_weights",
    "perturbed_weights",
    "robustness_sweep",
    "schedules",
    "strip_weight_noise",
]

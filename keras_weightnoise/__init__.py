"""Noise in weight space for Keras 3 models on TensorFlow.

- Train with it: `WeightNoiseCallback` in any `fit`, `GaussianWeightNoise` around a layer, `add_weight_noise`
  around those of a model, `noisy_call` in a loop of your own; published methods by name: `recipes`. Watch how
  robust a model becomes: `NoisyValidationCallback`.
- Learn how much: `VariationalWeightNoise` around a layer, `add_variational_weight_noise` around those of a
  model. Then predict with `WeightNoiseEnsemble(model, noises.Learned())`, see what was learned with
  `signal_to_noise`, remove what does not matter with `prune_weights`, and have the plain model back from
  `strip_weight_noise`. Against adversarial examples: `ParametricNoise`. Let agents explore: `NoisyDense`,
  `AdaptiveStddev`.
- Examine a trained model: `robustness_sweep`, `layer_sensitivity`, `noise_tolerance`, `noise_budget`,
  `loss_landscape`. Several models side by side: `compare`.
- Perturb it: `perturb_weights`, `perturbed_weights`. Predict with many copies: `WeightNoiseEnsemble`, at the
  magnitude that `choose_magnitude` finds; see with `calibration_report` what that is worth, beside
  `fit_temperature`.

What noise there is: `noises`; what looks for the worst: `adversaries`. When and how much: `schedules`.
Weights without outliers: `clip_weights`, `constraints`. What learned noise is drawn towards: `priors`.
"""

import keras

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "keras_weightnoise works on TensorFlow alone. Expected the Keras backend 'tensorflow', which the "
        "environment variable KERAS_BACKEND sets before Keras is imported. "
        f"Received: backend={keras.config.backend()!r}"
    )

from keras_weightnoise import (
    _not_public,
    adversaries,
    constraints,
    noises,
    priors,
    recipes,
    schedules,
)
from keras_weightnoise._version import __version__
from keras_weightnoise.analysis import (
    BudgetResult,
    CalibrationResult,
    ComparisonResult,
    LandscapeResult,
    MagnitudeResult,
    NoisyValidationCallback,
    RobustnessResult,
    SensitivityResult,
    SignalToNoiseResult,
    ToleranceResult,
    calibration_report,
    choose_magnitude,
    compare,
    fit_temperature,
    layer_sensitivity,
    loss_landscape,
    noise_budget,
    noise_tolerance,
    robustness_sweep,
    scale_temperature,
    signal_to_noise,
)
from keras_weightnoise.callbacks import WeightNoiseCallback
from keras_weightnoise.layers import (
    AdaptiveStddev,
    GaussianWeightNoise,
    NoisyDense,
    ParametricNoise,
    VariationalWeightNoise,
    noisy_call,
)
from keras_weightnoise.models import (
    EnsembleSpread,
    WeightNoiseEnsemble,
    add_variational_weight_noise,
    add_weight_noise,
    clip_weights,
    perturb_weights,
    perturbed_weights,
    prune_weights,
    strip_weight_noise,
)

_not_public.keep_from_autograph(__name__)

__all__ = [
    "AdaptiveStddev",
    "BudgetResult",
    "CalibrationResult",
    "ComparisonResult",
    "EnsembleSpread",
    "GaussianWeightNoise",
    "LandscapeResult",
    "MagnitudeResult",
    "NoisyDense",
    "NoisyValidationCallback",
    "ParametricNoise",
    "RobustnessResult",
    "SensitivityResult",
    "SignalToNoiseResult",
    "ToleranceResult",
    "VariationalWeightNoise",
    "WeightNoiseCallback",
    "WeightNoiseEnsemble",
    "__version__",
    "add_variational_weight_noise",
    "add_weight_noise",
    "adversaries",
    "calibration_report",
    "choose_magnitude",
    "clip_weights",
    "compare",
    "constraints",
    "fit_temperature",
    "layer_sensitivity",
    "loss_landscape",
    "noise_budget",
    "noise_tolerance",
    "noises",
    "noisy_call",
    "perturb_weights",
    "perturbed_weights",
    "priors",
    "prune_weights",
    "recipes",
    "robustness_sweep",
    "scale_temperature",
    "schedules",
    "signal_to_noise",
    "strip_weight_noise",
]

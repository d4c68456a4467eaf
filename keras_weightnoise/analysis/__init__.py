"""What noise tells of a model: how much it bears, where it breaks, how far to trust it."""

from keras_weightnoise.analysis.budget_result import BudgetResult
from keras_weightnoise.analysis.calibration import CalibrationResult, calibration_report
from keras_weightnoise.analysis.choose_magnitude import choose_magnitude
from keras_weightnoise.analysis.comparison import ComparisonResult, compare
from keras_weightnoise.analysis.landscape_result import LandscapeResult
from keras_weightnoise.analysis.loss_landscape import loss_landscape
from keras_weightnoise.analysis.magnitude_result import MagnitudeResult
from keras_weightnoise.analysis.noise_budget import noise_budget
from keras_weightnoise.analysis.noise_tolerance import noise_tolerance
from keras_weightnoise.analysis.noisy_validation import NoisyValidationCallback
from keras_weightnoise.analysis.robustness import robustness_sweep
from keras_weightnoise.analysis.robustness_result import RobustnessResult
from keras_weightnoise.analysis.sensitivity import layer_sensitivity
from keras_weightnoise.analysis.sensitivity_result import SensitivityResult
from keras_weightnoise.analysis.signal_to_noise import signal_to_noise
from keras_weightnoise.analysis.signal_to_noise_result import SignalToNoiseResult
from keras_weightnoise.analysis.temperature import fit_temperature, scale_temperature
from keras_weightnoise.analysis.tolerance_result import ToleranceResult

__all__ = [
    "BudgetResult",
    "CalibrationResult",
    "ComparisonResult",
    "LandscapeResult",
    "MagnitudeResult",
    "NoisyValidationCallback",
    "RobustnessResult",
    "SensitivityResult",
    "SignalToNoiseResult",
    "ToleranceResult",
    "calibration_report",
    "choose_magnitude",
    "compare",
    "fit_temperature",
    "layer_sensitivity",
    "loss_landscape",
    "noise_budget",
    "noise_tolerance",
    "robustness_sweep",
    "scale_temperature",
    "signal_to_noise",
]

"""What noise tells of a model: how much it bears, where it breaks, how far to trust it."""

from keras_weightnoise.analysis.calibration import CalibrationResult, calibration_report
from keras_weightnoise.analysis.robustness import robustness_sweep
from keras_weightnoise.analysis.robustness_result import RobustnessResult
from keras_weightnoise.analysis.sensitivity import layer_sensitivity
from keras_weightnoise.analysis.sensitivity_result import SensitivityResult

__all__ = [
    "CalibrationResult",
    "RobustnessResult",
    "SensitivityResult",
    "calibration_report",
    "layer_sensitivity",
    "robustness_sweep",
]

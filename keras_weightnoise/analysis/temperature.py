"""Temperature scaling: the simplest cure for overconfidence, to compare others with."""

import warnings
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_weightnoise._checks import check_positive
from keras_weightnoise.analysis.calibration import check_predictions, check_probabilities

Array = npt.NDArray[Any]

_COLDEST, _HOTTEST = 1e-2, 1e2


def fit_temperature(y_true: Any, probabilities: Any) -> float:
    """Returns the temperature T at which `scale_temperature(p, T)` has the lowest likelihood loss.

    T minimises `-mean(log q[label])` for `q = softmax(log(p) / T)`: above 1 where a model is
    overconfident. Fit it on validation data, never on those that you report on. It is looked for between
    0.01 and 100: a warning says where it is at an end, as where all predictions are right.

    Args:
        y_true: Labels, as `calibration_report` takes them.
        probabilities: Predicted probabilities, as `calibration_report` takes them.

    Returns:
        The temperature, in [0.01, 100].

    Raises:
        ValueError: If shapes do not fit each other, or these are no labels and probabilities.
        TypeError: If labels are in the place of probabilities.

    Example:

    >>> import numpy as np
    >>> from keras_weightnoise import fit_temperature, scale_temperature
    >>> sure = np.array([[0.99, 0.01]] * 4)  # Right in three of four cases.
    >>> temperature = fit_temperature([0, 0, 0, 1], sure)
    >>> scale_temperature(sure, temperature)[0].round(3)
    array([0.75, 0.25])

    References:
        - [Guo et al., 2017](https://arxiv.org/abs/1706.04599)
    """
    p, labels = check_predictions(y_true, probabilities)
    z = _logarithms(p)
    of_label = z[np.arange(len(z)), labels]
    ends = low, high = np.log(1.0 / _HOTTEST), np.log(1.0 / _COLDEST)
    # The loss is convex in 1 / T. Its slope there is the mean of E_q[z] - z[label].
    for _ in range(60):
        middle = (low + high) / 2.0
        q = _softmax(z * np.exp(middle))
        if np.mean(np.sum(q * z, axis=1) - of_label) > 0.0:
            high = middle
        else:
            low = middle
    if low == ends[0] or high == ends[1]:
        warnings.warn(
            f"The best temperature is at an end of what is tried, [{_COLDEST}, {_HOTTEST}]: the predictions "
            "are always right, or no better than chance. Expected validation data on which the model is "
            f"right at times. Received: predictions of accuracy {np.mean(p.argmax(axis=1) == labels):.4g}",
            stacklevel=2,
        )
    return float(np.exp(-(low + high) / 2.0))


def scale_temperature(probabilities: Any, temperature: float) -> Array:
    """Returns probabilities at another temperature: `q = softmax(log(p) / T)`.

    Accuracy stays as it is: T > 1 makes predictions less sure of themselves, T < 1 surer.

    Args:
        probabilities: Predicted probabilities, as `calibration_report` takes them.
        temperature: Number > 0, such as from `fit_temperature`.

    Returns:
        An array of shape (n, classes).

    Raises:
        ValueError: If these are no probabilities, or the temperature is not above 0 and finite.
        TypeError: If the temperature is not a number.

    Example:

    See `fit_temperature`.
    """
    check_positive("temperature", temperature)
    return _softmax(_logarithms(check_probabilities(probabilities)) / temperature)


def _logarithms(p: Array) -> Array:
    # As Keras's losses clip them.
    z: Array = np.log(np.maximum(p, keras.config.epsilon()))
    return z


def _softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    q: Array = e / e.sum(axis=1, keepdims=True)
    return q

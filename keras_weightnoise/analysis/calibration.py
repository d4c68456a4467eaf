"""How far predicted probabilities can be trusted: `calibration_report`."""

import dataclasses
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_weightnoise._checks import check_count, shown
from keras_weightnoise._tables import Table
from keras_weightnoise.analysis._plots import make_axes
from keras_weightnoise.analysis._results import Result
from keras_weightnoise.analysis._summaries import number

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CalibrationResult(Result):
    """What `calibration_report` returns. It prints as a table.

    Attributes:
        nll: Mean negative log likelihood of the labels, in nats.
        brier: Mean over examples of the squared differences' sum over classes, between 0 and 2.
        ece: Expected calibration error of the top label.
        accuracy: Share of the examples whose top label is right.
        edges: The bins' edges, `bins + 1` of them.
        bin_confidence: Mean confidence of the examples in each bin; NaN where there are none.
        bin_accuracy: Accuracy of the examples in each bin; NaN where there are none.
        bin_count: The number of examples in each bin.
    """

    nll: float
    brier: float
    ece: float
    accuracy: float
    edges: Array
    bin_confidence: Array
    bin_accuracy: Array
    bin_count: Array

    def _tables(self, top: int | None) -> list[Table]:
        return [
            Table(
                f"accuracy {self.accuracy:.4f}   nll {self.nll:.4f}   brier {self.brier:.4f}   "
                f"ece {self.ece:.4f}   examples {self.bin_count.sum()}",
                ("bin", "confidence", "accuracy", "count"),
                [
                    [
                        f"{record['low']:.3f} to {record['high']:.3f}",
                        number(record["confidence"]),
                        number(record["accuracy"]),
                        str(record["count"]),
                    ]
                    for record in self._records()
                    if record["count"]
                ],
            )
        ]

    def _records(self) -> list[dict[str, Any]]:
        columns = {
            "low": self.edges[:-1],
            "high": self.edges[1:],
            "confidence": self.bin_confidence,
            "accuracy": self.bin_accuracy,
            "count": self.bin_count,
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @classmethod
    def _from_standard(cls, content: dict[str, Any]) -> dict[str, Any]:
        types = {"edges": float, "bin_confidence": float, "bin_accuracy": float, "bin_count": int}
        return {
            name: np.asarray(value, types[name]) if name in types else float(value)
            for name, value in content.items()
        }

    def plot(self, ax: Any = None, label: str | None = None) -> Any:
        """Draws a reliability diagram: accuracy against confidence, a point for each bin.

        A point's area is the share of the examples that its bin holds. Points below the diagonal are
        overconfident. Draw several results, a model's and its ensemble's, on one `ax`.

        Args:
            ax: A `matplotlib.axes.Axes`. Defaults to that of a new figure.
            label: A name for the legend, which also shows the expected calibration error.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        ax = make_axes(ax, 5.0, 5.0)
        if not any(line.get_gid() == _DIAGONAL for line in ax.get_lines()):
            ax.plot([0, 1], [0, 1], "--", color="0.6", zorder=1, label=_DIAGONAL, gid=_DIAGONAL)
            ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            ax.set(xlabel="confidence (area: share of examples)", ylabel="accuracy")
        some = self.bin_count > 0
        confidence, accuracy = self.bin_confidence[some], self.bin_accuracy[some]
        (line,) = ax.plot(confidence, accuracy, linewidth=1, alpha=0.7)
        ece = f"ECE {self.ece:.3f}"
        ax.scatter(
            confidence,
            accuracy,
            s=800 * self.bin_count[some] / self.bin_count.sum(),
            color=line.get_color(),
            alpha=0.6,
            clip_on=False,
            zorder=3,
        )
        line.set_label(ece if label is None else f"{label} ({ece})")
        ax.legend(loc="best")
        return ax


_DIAGONAL = "perfect calibration"


def calibration_report(y_true: Any, probabilities: Any, *, bins: int = 15) -> CalibrationResult:
    """Returns how well predicted probabilities fit the labels.

    - `nll = -mean(log p[label])`, with p clipped from below at `keras.config.epsilon()`, 1e-7, as in
      Keras's losses: a label that was given probability 0 costs 16.1.
    - `brier = mean(sum_k (p_k - [k == label])^2)`, over all classes, as Brier defined it. For two classes
      that is twice what scikit-learn's `brier_score_loss` returns.
    - `ece = sum_b count_b / n * |accuracy_b - confidence_b|`. Confidence is the probability of the top
      label; bin b holds the examples of confidence in (b / bins, (b + 1) / bins].

    Use it on data the model was not trained on, for a model and its `WeightNoiseEnsemble`. The first two
    grade single predictions and reward accuracy, too. The third compares averages, and its value depends
    on the bins: compare only values of the same number of bins and of examples.

    Args:
        y_true: Integer labels of shape (n,) or (n, 1), or one-hot labels of shape (n, classes).
        probabilities: Predicted probabilities of shape (n, classes), whose rows sum to one (to 0.01). For
            two classes also the probability of class 1, of shape (n,) or (n, 1).
        bins: The number of bins, an int >= 1. Defaults to `15`.

    Returns:
        A `CalibrationResult`.

    Raises:
        ValueError: If shapes do not fit each other, labels are no classes, probabilities are none (logits,
            for example), or `bins` is less than 1.
        TypeError: If `bins` is not an int.

    Example:

    >>> import numpy as np
    >>> from keras_weightnoise import calibration_report
    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    >>> calibration_report([0, 1, 1, 1], p, bins=5)
    accuracy 0.7500   nll 0.6456   brier 0.4500   ece 0.2500   examples 4
      bin             confidence  accuracy  count
      0.400 to 0.600      0.6000    1.0000      1
      0.600 to 0.800      0.7500    0.5000      2
      0.800 to 1.000      0.9000    1.0000      1

    References:
        - [Brier, 1950](https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2)
        - [Guo et al., 2017](https://arxiv.org/abs/1706.04599) (expected calibration error)
    """
    check_count("bins", bins)
    p, labels = check_predictions(y_true, probabilities)
    of_label = p[np.arange(len(p)), labels]
    one_hot = np.arange(p.shape[1]) == labels[:, None]
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels

    edges = np.linspace(0.0, 1.0, bins + 1)
    # Rows that sum to a little more than one may hold a little more than one.
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    sums = [np.bincount(bin_of, each, minlength=bins) for each in (confidence, right)]
    with np.errstate(invalid="ignore"):
        bin_confidence, bin_accuracy = (each / count for each in sums)
    return CalibrationResult(
        nll=float(-np.mean(np.log(np.maximum(of_label, keras.config.epsilon())))),
        brier=float(np.mean(np.sum((p - one_hot) ** 2, axis=1))),
        ece=float(np.sum(np.abs(sums[1] - sums[0])) / len(p)),
        accuracy=float(np.mean(right)),
        edges=edges,
        bin_confidence=bin_confidence,
        bin_accuracy=bin_accuracy,
        bin_count=count,
    )


def check_predictions(y_true: Any, probabilities: Any) -> tuple[Array, Array]:
    """Probabilities of shape (n, classes), and the integer labels of shape (n,) that they are to fit."""
    _check_order(y_true, probabilities)
    p = check_probabilities(probabilities)
    return p, _check_labels(y_true, *p.shape)


def _check_order(y_true: Any, probabilities: Any) -> None:
    """Raises if labels were given for probabilities."""
    labels = np.asarray(probabilities)
    if labels.size and labels.dtype.kind in "iu" and np.max(labels) > 1:
        swapped = np.asarray(y_true).dtype.kind == "f" and np.ndim(y_true) == 2
        expected = (
            "the labels first, then the probabilities" if swapped else "probabilities, not labels"
        )
        raise TypeError(
            f"Invalid `probabilities`. Expected {expected}. "
            f"Received: y_true={shown(y_true)}, probabilities={shown(probabilities)}"
        )


def check_probabilities(probabilities: Any) -> Array:
    """Probabilities of shape (n, classes) in double precision."""
    p = np.asarray(probabilities, np.float64)
    shape = p.shape
    if p.ndim == 2 and p.shape[1] == 1:
        p = p[:, 0]
    if p.ndim == 1:
        p = np.stack([1.0 - p, p], axis=1)
    if p.ndim != 2 or not p.size:
        raise ValueError(
            "Invalid `probabilities`. Expected the shape (n, classes), or, for two classes, (n,) or "
            f"(n, 1), with n >= 1. Received: probabilities of shape {shape}"
        )
    # Softmax outputs in low precision sum to one within that.
    if not (np.all(p >= 0.0) and np.all(np.abs(p.sum(axis=1) - 1.0) < 0.01)):
        raise ValueError(
            "Invalid `probabilities`. Expected values in [0, 1] that sum to one over the classes (of "
            "logits, take the softmax). Received: probabilities with values in "
            f"[{np.min(probabilities)}, {np.max(probabilities)}]"
        )
    return p


def _check_labels(y_true: Any, n: int, classes: int) -> Array:
    """Integer labels of shape (n,)."""
    y = np.asarray(y_true)
    if y.shape not in ((n,), (n, 1), (n, classes)):
        raise ValueError(
            f"Invalid `y_true`. Expected integer labels of shape ({n},), or one-hot labels of shape "
            f"({n}, {classes}), as there are {n} rows of {classes} probabilities. "
            f"Received: y_true of shape {y.shape}"
        )
    if y.shape == (n, classes):
        if not (np.all((y == 0) | (y == 1)) and np.all(y.sum(axis=1) == 1)):
            raise ValueError(
                "Invalid `y_true`. Expected one-hot labels: a single 1 in each row, and 0 else. "
                f"Received: y_true={y_true}"
            )
        labels: Array = y.argmax(axis=1)
        return labels
    y = y.reshape(n)
    if not np.all(np.isin(y, np.arange(classes))):
        raise ValueError(
            f"Invalid `y_true`. Expected integer labels in [0, {classes}). "
            f"Received: y_true={y_true}"
        )
    return y.astype(np.int64)

"""The calibration figures, against scikit-learn and by hand."""

import sys

import keras
import numpy as np
import pytest
from sklearn import metrics

from keras_weightnoise.analysis.calibration import CalibrationResult, calibration_report

pytestmark = pytest.mark.any_version

RNG = np.random.default_rng(0)
P = RNG.dirichlet([0.5] * 4, size=300)
Y = np.array([RNG.choice(4, p=0.5 * p + 0.125) for p in P])
BINARY = RNG.random(300)
Y2 = (RNG.random(300) < BINARY**2).astype(int)


def by_hand(y, p, bins):
    """The expected calibration error as Guo et al. define it, example by example."""
    error = 0.0
    for b in range(bins):
        inside = [(q.max(), q.argmax() == k) for q, k in zip(p, y, strict=True)]
        inside = [(c, right) for c, right in inside if b / bins < c <= (b + 1) / bins]
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            error += len(inside) / len(y) * abs(accuracy - confidence)
    return error


@pytest.mark.parametrize("bins", [1, 2, 15, 100])
@pytest.mark.parametrize(
    ("y", "p", "rows"),
    [(Y, P, P), (Y2, BINARY, np.stack([1 - BINARY, BINARY], 1))],
    ids=["four classes", "binary"],
)
def test_against_sklearn_and_by_hand(y, p, rows, bins):
    result = calibration_report(y, p, bins=bins)
    assert isinstance(result, CalibrationResult)
    assert result.nll == pytest.approx(metrics.log_loss(y, rows))
    assert result.accuracy == metrics.accuracy_score(y, rows.argmax(1))
    assert result.brier == pytest.approx(np.mean(np.sum((rows - np.eye(rows.shape[1])[y]) ** 2, 1)))
    assert result.ece == pytest.approx(by_hand(y, rows, bins))
    assert result.bin_count.sum() == len(y)
    some = result.bin_count > 0
    weights = result.bin_count[some] / len(y)
    gaps = np.abs(result.bin_accuracy - result.bin_confidence)[some]
    assert result.ece == pytest.approx(weights @ gaps)
    assert np.all(np.isnan(result.bin_accuracy[~some]) & np.isnan(result.bin_confidence[~some]))


def test_the_brier_score_of_two_classes_is_twice_sklearns():
    expected = 2 * metrics.brier_score_loss(Y2, BINARY)
    assert calibration_report(Y2, BINARY).brier == pytest.approx(expected)


def test_the_likelihood_is_keras_losses():
    for y, p in [(Y, P), ([0, 1], [[0.0, 1.0], [0.5, 0.5]])]:
        loss = keras.losses.SparseCategoricalCrossentropy()(np.array(y), np.array(p))
        assert calibration_report(y, p).nll == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize(
    ("y", "p", "same_y", "same_p"),
    [
        (np.eye(4)[Y], P, Y, P),
        (Y[:, None], P, Y, P),
        (Y.astype("float32"), P.tolist(), Y, P),
        (Y2.astype(bool), BINARY[:, None], Y2, BINARY),
        (np.eye(2)[Y2], BINARY, Y2, BINARY),
        (Y2, np.stack([1 - BINARY, BINARY], 1), Y2, BINARY),
        (keras.ops.convert_to_tensor(Y), keras.ops.convert_to_tensor(P), Y, P),
    ],
)
def test_forms_of_labels_and_probabilities(y, p, same_y, same_p):
    assert repr(calibration_report(y, p)) == repr(calibration_report(same_y, same_p))


@pytest.mark.parametrize(
    ("confidence", "where"), [(0.5, 2), (0.6, 2), (0.8, 3), (0.8 + 1e-9, 4), (1.0, 4), (1.005, 4)]
)
def test_bins_hold_their_upper_edge(confidence, where):
    result = calibration_report([0], [[confidence, max(0.0, 1 - confidence)]], bins=5)
    assert np.flatnonzero(result.bin_count).tolist() == [where]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bins": 0}, ValueError, r"Invalid `bins`.*Received: bins=0"),
        ({"bins": 2.5}, TypeError, r"Invalid `bins`.*Received: bins=2.5"),
        ({"bins": True}, TypeError, r"Invalid `bins`.*Received: bins=True"),
        ({"y_true": Y[:5]}, ValueError, r"Invalid `y_true`.*\(300,\).*of shape \(5,\)"),
        (
            {"y_true": np.eye(5)[Y]},
            ValueError,
            r"Invalid `y_true`.*\(300, 4\).*of shape \(300, 5\)",
        ),
        ({"y_true": np.full((300, 4), 0.25)}, ValueError, r"Expected one-hot.*Received: y_true="),
        ({"y_true": np.ones((300, 4))}, ValueError, r"Expected one-hot.*Received: y_true="),
        ({"y_true": Y + 1}, ValueError, r"integer labels in \[0, 4\).*Received: y_true=\["),
        ({"y_true": Y + 0.5}, ValueError, r"integer labels in \[0, 4\).*Received: y_true=\["),
        ({"y_true": ["a"] * 300}, ValueError, r"integer labels in \[0, 4\).*Received: y_true=\["),
        ({"probabilities": np.log(P)}, ValueError, r"of logits, take the softmax.*with values in"),
        ({"probabilities": 2 * P}, ValueError, r"sum to one over the classes"),
        ({"probabilities": P * np.nan}, ValueError, r"Expected values in \[0, 1\].*\[nan, nan\]"),
        ({"probabilities": Y2 * 1.5}, ValueError, r"Expected values in \[0, 1\].*\[0.0, 1.5\]"),
        ({"probabilities": P[None]}, ValueError, r"Expected the shape.*of shape \(1, 300, 4\)"),
        ({"probabilities": P[:0]}, ValueError, r"with n >= 1.*of shape \(0, 4\)"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        calibration_report(**{"y_true": Y, "probabilities": P, **arguments})


def test_it_prints_what_it_holds():
    result = calibration_report(Y, P, bins=10)
    first, _, *lines = str(result).splitlines()
    for name in ("accuracy", "nll", "brier", "ece"):
        assert f"{name} {getattr(result, name):.4f}" in first
    assert sum(int(line.split()[-1]) for line in lines) == 300
    assert len(lines) == np.sum(result.bin_count > 0)


def test_dataframe():
    pandas = pytest.importorskip("pandas")
    result = calibration_report(Y, P, bins=10)
    frame = result.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.columns.tolist() == ["low", "high", "confidence", "accuracy", "count"]
    weights = frame["count"] / frame["count"].sum()
    assert (weights * (frame["accuracy"] - frame["confidence"]).abs()).sum() == pytest.approx(
        result.ece
    )


def test_plots_lie_over_each_other():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = [calibration_report(Y, P, bins=10), calibration_report(Y2, BINARY, bins=10)]
    ax = results[0].plot(label="model")
    assert results[1].plot(ax) is ax
    diagonal, *lines = ax.get_lines()
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[1:] == [f"model (ECE {results[0].ece:.3f})", f"ECE {results[1].ece:.3f}"]
    for result, line, points in zip(results, lines, ax.collections, strict=True):
        some = result.bin_count > 0
        expected = np.stack([result.bin_confidence, result.bin_accuracy], 1)[some]
        np.testing.assert_allclose(line.get_xydata(), expected)
        np.testing.assert_allclose(points.get_offsets(), expected)
        sizes = points.get_sizes() / points.get_sizes().sum()
        np.testing.assert_allclose(sizes, result.bin_count[some] / result.bin_count.sum())
    plt.close(ax.figure)


@pytest.mark.parametrize(
    ("module", "method", "message"),
    [
        ("matplotlib.pyplot", "plot", "pip install matplotlib"),
        ("pandas", "to_dataframe", "pip install pandas"),
    ],
)
def test_what_is_not_installed_is_named(monkeypatch, module, method, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message):
        getattr(calibration_report(Y, P), method)()

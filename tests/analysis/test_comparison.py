"""compare: several results of one kind in one table, plot and DataFrame."""

import matplotlib
import numpy as np
import pytest

from keras_weightnoise.analysis.calibration import calibration_report
from keras_weightnoise.analysis.comparison import ComparisonResult, compare
from keras_weightnoise.analysis.landscape_result import LandscapeResult
from keras_weightnoise.analysis.robustness_result import RobustnessResult, RobustnessRow
from keras_weightnoise.analysis.tolerance_result import ToleranceResult

pytestmark = pytest.mark.any_version

matplotlib.use("Agg")


def made(values, noise="Gaussian", metrics=("loss", "accuracy"), complete=True):
    return RobustnessResult(
        clean=dict.fromkeys(metrics, 0.9),
        rows=tuple(
            RobustnessRow(noise, m, d, dict.fromkeys(metrics, v))
            for m, each in values.items()
            for d, v in enumerate(each)
        ),
        complete=complete,
        higher_is_better={name: name != "loss" for name in metrics},
    )


ONE = made({0.1: [0.8, 0.9], 0.2: [0.5, 0.5]})
TWO = made({0.1: [0.7, 0.7], 0.5: [0.3, 0.3]}, metrics=("loss", "accuracy", "auc"))


def test_table():
    lines = str(compare({"one": ONE, "two": TWO})).splitlines()
    start = lines.index("Gaussian: accuracy")
    table = [line.split("  ") for line in lines[start + 1 :]]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in table]
    assert cells == [
        ["magnitude", "one", "two"],
        ["without", "0.9000", "0.9000"],
        ["0.1", "0.8500 ± 0.6353", "0.7000 ± 0.0000"],
        ["0.2", "0.5000 ± 0.0000"],
        ["0.5", "0.3000 ± 0.0000"],
    ]
    assert not any("auc" in line for line in lines)


def test_noises_of_one_model_only_and_incomplete_sweeps():
    other = made({0.1: [0.5]}, noise="Uniform", complete=False)
    text = str(compare({"one": ONE, "two": other}))
    assert "INCOMPLETE: two." in text
    assert text.count("Gaussian: ") == text.count("Uniform: ") == 2


def test_json_and_dataframe():
    result = compare({"one": ONE, "two": TWO})
    assert ComparisonResult.from_json(result.to_json()) == result != compare({"one": ONE})
    frame = result.to_dataframe()
    assert list(frame.columns)[:4] == ["model", "noise", "magnitude", "draw"]
    assert frame.groupby("model")["accuracy"].mean().to_dict() == pytest.approx(
        {"one": 0.675, "two": 0.5}
    )


def test_plot():
    import matplotlib.pyplot as plt

    ax = compare({"one": ONE, "two": TWO}).plot()
    assert [text.get_text() for text in ax.get_legend().texts] == ["one", "two", "without noise"]
    assert "accuracy" in ax.get_ylabel()
    plt.close("all")


def borne(magnitude, drop=0.1, metric="loss"):
    return ToleranceResult(
        clean={metric: 0.5},
        rows=tuple(
            RobustnessRow("Gaussian", m, d, {metric: 0.5 + m * (1 + d) / magnitude / 15})
            for m in (magnitude, 1.0)
            for d in range(2)
        ),
        complete=True,
        higher_is_better={metric: False},
        metric=metric,
        drop=drop,
        magnitude=magnitude,
    )


def test_tolerances():
    import matplotlib.pyplot as plt

    result = compare({"sharp": borne(0.1), "flat": borne(0.2)})
    lines = str(result).splitlines()
    assert lines[1] == "The magnitude at which loss is worse by 0.1"
    rows = [line.split() for line in lines[3:]]
    assert [(row[0], row[2], row[-1]) for row in rows] == [
        ("sharp", "0.1", "100"),
        ("flat", "0.2", "25"),
    ]
    assert ComparisonResult.from_json(result.to_json()) == result
    assert [text.get_text() for text in result.plot().get_legend().texts] == [
        "sharp: 0.1",
        "flat: 0.2",
    ]
    plt.close("all")


def landscape(scale, rank):
    axis = np.linspace(-1, 1, 5)
    values = scale * sum(np.meshgrid(*[axis**2] * rank, indexing="ij"))
    return LandscapeResult(
        clean={"loss": 0.0},
        coordinates=(axis,) * rank,
        labels=("one", "two")[:rank],
        values={"loss": values},
        complete=rank == 1,
    )


def test_landscapes():
    import matplotlib.pyplot as plt

    planes = {"steep": landscape(4.0, 2), "flat": landscape(1.0, 2)}
    result = compare(planes)
    lines = str(result).splitlines()
    assert lines[1] == "INCOMPLETE: steep, flat."
    assert lines[-2].split() == ["steep", "0.0000", "4.0000", "0.0000", "8.0000"]
    assert ComparisonResult.from_json(result.to_json()) == result
    steep, flat = result.plot()
    # One scale of colors, and one bar.
    assert [ax.get_title() for ax in (steep, flat)] == ["steep", "flat"]
    levels = [ax.collections[0].levels for ax in (steep, flat)]
    np.testing.assert_array_equal(*levels)
    assert len(steep.figure.axes) == 3
    assert result.plot(ax=[steep, flat])[1] is flat
    lines = compare({"steep": landscape(4.0, 1), "flat": landscape(1.0, 1)}).plot()
    assert [text.get_text() for text in lines.get_legend().texts] == ["steep", "flat"]
    plt.close("all")


def test_predictions():
    import matplotlib.pyplot as plt

    sure = np.array([[0.99, 0.01]] * 4)
    reports = {
        n: calibration_report([0, 0, 0, 1], p) for n, p in {"a": sure, "b": sure - 0}.items()
    }
    result = compare(reports)
    assert [row.split()[:2] for row in str(result).splitlines()[2:]] == [
        ["a", "0.7500"],
        ["b", "0.7500"],
    ]
    assert ComparisonResult.from_json(result.to_json()) == result
    entries = [text.get_text() for text in result.plot().get_legend().texts]
    assert entries == ["perfect calibration", "a (ECE 0.240)", "b (ECE 0.240)"]
    plt.close("all")


@pytest.mark.parametrize(
    ("results", "error", "message"),
    [
        ([ONE], TypeError, "Invalid `results`.*type list"),
        ({"one": 1}, TypeError, "Invalid `results`.*Received: {'one': 'int'}"),
        ({1: ONE}, TypeError, "a mapping from names"),
        ({"one": ONE, "two": borne(0.1)}, TypeError, "results of one kind"),
        ({"one": borne(0.1), "two": borne(0.1, drop=0.2)}, ValueError, "one metric and one `drop`"),
        ({}, ValueError, "at least one"),
        ({"one": ONE, "two": made({0.1: [1]}, metrics=("mae",))}, ValueError, "a metric that all"),
    ],
)
def test_wrong_arguments(results, error, message):
    with pytest.raises(error, match=message):
        compare(results)

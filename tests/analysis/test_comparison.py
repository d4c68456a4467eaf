"""compare: several sweeps in one table, plot and DataFrame."""

import matplotlib
import pytest

from keras_weightnoise.analysis.comparison import ComparisonResult, compare
from keras_weightnoise.analysis.robustness_result import RobustnessResult, RobustnessRow

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


@pytest.mark.parametrize(
    ("results", "error", "message"),
    [
        ([ONE], TypeError, "Invalid `results`.*type list"),
        ({"one": 1}, TypeError, "Invalid `results`"),
        ({}, ValueError, "at least one"),
        ({"one": ONE, "two": made({0.1: [1]}, metrics=("mae",))}, ValueError, "a metric that all"),
    ],
)
def test_wrong_arguments(results, error, message):
    with pytest.raises(error, match=message):
        compare(results)

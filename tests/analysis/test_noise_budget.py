"""noise_budget: each layer's magnitude in closed form, all at once, its rules, and its result."""

import functools
import math

import keras
import matplotlib
import numpy as np
import pytest

from keras_weightnoise import WeightNoiseCallback, noises, perturb_weights, perturbed_weights
from keras_weightnoise.analysis.budget_result import BudgetResult
from keras_weightnoise.analysis.noise_budget import noise_budget

pytestmark = pytest.mark.any_version

matplotlib.use("Agg")
L = keras.layers
X = np.eye(6, dtype="float32")
budget = functools.partial(noise_budget, drop=0.04, verbose=0, draws=2, bisections=7)
FRAGILITY = {"a": 1.0, "b": 4.0, "c": 100.0}


def network(cross=0.0):
    """Three layers, whose costs are `fragility * mean(n^2)` by a formula; `cross` adds a term of all."""
    keras.utils.set_random_seed(1)
    inner = keras.Sequential([L.Dense(6, use_bias=False, name="a")], name="inner")
    layers = [inner, L.Dense(6, name="b"), L.Dense(6, use_bias=False, name="c")]
    model = keras.Sequential([keras.Input((6,)), *layers], name="net")
    model.compile("adam", "mse")
    clean = model.get_weights()

    def evaluate(**options):
        now = [np.mean((w - c) ** 2) for w, c in zip(model.get_weights(), clean, strict=True)]
        moved = {"a": now[0], "b": now[1], "c": now[3]}
        costs = [FRAGILITY[name] * each for name, each in moved.items()]
        return {"loss": float(sum(costs) + cross * np.prod(costs) ** (1 / 3))}

    model.evaluate = evaluate
    return model, (X, X)


def squares(model, draws=2):
    """The mean square of each kernel's noise, in each draw."""
    clean = model.get_weights()
    found = []
    with perturbed_weights(model, 1.0, seed=0) as noisy:
        for _ in range(draws):
            moved = zip(model.get_weights(), clean, strict=True)
            found.append([np.mean((w - c) ** 2) for w, c in moved])
            noisy.redraw()
    return np.delete(np.mean(found, axis=0), 2)


def test_in_closed_form():
    model, data = network()
    before = [v.numpy().tobytes() for v in model.variables]
    result = budget(model, data, variables="kernels")
    assert [v.numpy().tobytes() for v in model.variables] == before
    means = squares(model)
    for (name, layer), fragility, mean in zip(
        result.layers.items(), FRAGILITY.values(), means, strict=True
    ):
        assert name.endswith("abc"["abc".index(name[-1])])
        assert layer.magnitude == pytest.approx(math.sqrt(0.04 / fragility / mean), abs=2**-7)
        share = math.sqrt(0.04 / 3 / fragility / mean)
        assert share - 2**-7 <= result.magnitudes[name] <= share * (1 + 1e-4)
    # These costs add up.
    assert result.together.magnitude == 1.0
    total = result.together.summaries()[1.0].mean
    assert 0.02 < total <= 0.04
    # One evaluation checked it, and none was made twice.
    assert len(result.together.rows) == 2
    for layer in result.layers.values():
        assert len({(row.magnitude, row.draw) for row in layer.rows}) == len(layer.rows)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["layer", "variable"])
def test_the_budget_is_noise_that_costs_what_it_says(by):
    model, data = network(cross=3.0)
    result = budget(model, data, by=by)
    # Costs that do not add up: all is made smaller.
    factor = result.together.magnitude
    assert 0.3 < factor < 1.0
    costs = []
    with perturbed_weights(model, result.noise, seed=0) as noisy:
        for _ in range(2):
            costs.append(model.evaluate()["loss"])
            noisy.redraw()
    assert 0.035 < np.mean(costs) <= 0.04
    assert np.mean(costs) == pytest.approx(result.together.summaries()[factor].mean, rel=1e-5)
    expected = {
        "layer": ["^inner/a/kernel$", "^b/(kernel|bias)$", "^c/kernel$"],
        "variable": ["^inner/a/kernel$", "^b/kernel$", "^b/bias$", "^c/kernel$"],
    }
    assert list(result.noise) == expected[by]
    assert [noise.stddev for noise in result.noise.values()] == list(result.magnitudes.values())
    # What costs nothing has all there is.
    if by == "variable":
        assert result.layers["b/bias"].magnitude == 1.0
        assert result.layers["b/bias"].interval == (1.0, math.inf)
        assert ">= 1" in str(result)


def test_layers_whose_paths_end_alike():
    """In Keras the path of `inner/d/kernel` may be that of another `d/kernel` of the same model."""
    inner = keras.Sequential([keras.Input((6,)), L.Dense(6, use_bias=False, name="d")], name="in")
    inputs = keras.Input((6,))
    outputs = L.Dense(6, use_bias=False, name="d")(inner(inputs))
    model = keras.Model(inputs, outputs)
    model.compile(loss="mse")
    model.evaluate = lambda **options: {"loss": float(np.sum(model.get_weights()[0]))}
    result = budget(model, (X, X), mode="max", draws=1, bisections=2)
    noise = perturbed_weights(model, result.noise)
    assert [[t.variable for t in targets] for _, targets in noise.assigned] == [
        [layer.kernel for layer in (inner.layers[0],)],
        [model.layers[-1].kernel],
    ]


def test_it_is_noise_for_training_and_for_a_copy():
    model, data = network()
    result = budget(model, data, noise=lambda s: noises.Uniform(s, relative_to="range"), draws=1)
    copy = perturb_weights(model, result.noise, seed=3)
    moved = [np.max(np.abs(a - b)) for a, b in zip(copy.weights, model.weights, strict=True)]
    limits = [
        result.magnitudes[name] * np.ptp(model.get_weights()[place])
        for name, place in zip(result.magnitudes, (0, 1, 3), strict=True)
    ]
    for most, limit in zip(np.delete(moved, 2), limits, strict=True):
        assert 0.8 * limit < most <= limit * (1 + 1e-5)
    WeightNoiseCallback(result.noise)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("when", [2, 20, 30])
def test_interrupts_and_errors(when, error):
    model, data = network()
    before = [v.numpy().tobytes() for v in model.variables]
    evaluate, calls = model.evaluate, []

    def interrupted(**options):
        calls.append(None)
        if len(calls) == when:
            raise error
        return evaluate()

    model.evaluate = interrupted
    if error is KeyboardInterrupt and when > 2:
        with pytest.warns(UserWarning, match="Interrupted") as caught:
            result = budget(model, data, bisections=4)
        assert caught[0].filename == __file__
        assert not result.complete
        assert 1 <= len(result.layers) <= 3
        assert "INCOMPLETE" in str(result)
        assert BudgetResult.from_json(result.to_json()) == result
        result.plot()
        matplotlib.pyplot.close("all")
        with pytest.raises(ValueError, match="no budget"):
            _ = result.noise
    else:
        with pytest.raises(error):
            budget(model, data, bisections=4)
    assert [v.numpy().tobytes() for v in model.variables] == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"drop": 0}, ValueError, "Invalid `drop`"),
        ({"high": -1}, ValueError, "Invalid `high`"),
        ({"bisections": 0}, ValueError, "Invalid `bisections`"),
        ({"mode": "up"}, ValueError, "Invalid `mode`"),
        ({"by": "model"}, ValueError, "Invalid `by`"),
        ({"noise": 0.1}, TypeError, "Invalid `noise`"),
        ({"noise": noises.BitFlip, "high": 2.0}, ValueError, "Invalid `rate`"),
        ({"variables": "nothing"}, ValueError, "matches no eligible"),
        ({"metric": "auc"}, ValueError, "Invalid `metric`"),
    ],
    ids=str,
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        budget(*network(), **options)


def test_result():
    result = budget(*network())
    assert BudgetResult.from_json(result.to_json()) == result
    lines = str(result).splitlines()
    assert lines[0] == "Noise budget: Gaussian in each layer, for a drop of 0.04 in loss"
    # The most fragile first.
    assert [line.split()[0] for line in lines[2:]] == ["layer", "c", "b", "inner/a"]
    assert result.table(1).splitlines()[-1].strip() == "... and 2 less fragile: see `table()`"
    frame = result.to_dataframe()
    assert list(frame.columns) == ["layer", "alone", "low", "high", "magnitude"]
    assert list(frame.layer) == ["inner/a", "b", "c"]
    ax = result.plot()
    ax.figure.canvas.draw()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["c", "b", "inner/a"]
    assert ax.lines[-1].get_xdata()[0] == result.magnitudes["c"]
    matplotlib.pyplot.close("all")


def test_nothing_is_borne():
    model, data = network()
    model.evaluate = lambda **options: {"loss": float(np.any(model.get_weights()[0] != CLEAN))}
    CLEAN = model.get_weights()[0]
    with pytest.warns(
        UserWarning, match=r"no noise in \['inner/a'\].*Received: high=1.0"
    ) as caught:
        result = budget(model, data, bisections=2, draws=1)
    assert caught[0].filename == __file__
    assert "nan" not in str(result)
    assert result.magnitudes["inner/a"] == 0.0
    assert result.together.magnitude == 1.0
    assert [noise.stddev for noise in result.noise.values()] == [0.0, 1.0, 1.0]
    result.plot().figure.canvas.draw()
    matplotlib.pyplot.close("all")

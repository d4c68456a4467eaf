"""noise_tolerance: where a model breaks, in closed form; the search, its uncertainty and its result."""

import functools
import math
import warnings

import keras
import matplotlib
import numpy as np
import pytest
from fits import watch

from keras_weightnoise import compare, noises, perturb_weights, perturbed_weights
from keras_weightnoise.analysis._summaries import t_quantile
from keras_weightnoise.analysis.noise_tolerance import noise_tolerance
from keras_weightnoise.analysis.tolerance_result import ToleranceResult

pytestmark = pytest.mark.any_version

matplotlib.use("Agg")
L = keras.layers
X = np.eye(6, dtype="float32")
find = functools.partial(noise_tolerance, verbose=0, draws=3, bisections=6)


def linear(power=2, metrics=("loss",), units=1):
    """A model whose loss is what its weights are off by, which a formula says: it is faster."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), L.Dense(units, use_bias=False)], name="net")
    clean = model.layers[0].kernel.numpy()
    model.compile("adam", "mse")

    def evaluate(**options):
        off = np.mean(np.abs(model.layers[0].kernel.numpy() - clean) ** power)
        return dict.fromkeys(metrics, float(off))

    model.evaluate = evaluate
    return model, (X, clean)


def drawn(model, noise=1.0, draws=3):
    """What noise adds to the weights in each draw."""
    clean = model.layers[0].kernel.numpy()
    moved = []
    with perturbed_weights(model, noise, seed=0) as noisy:
        for _ in range(draws):
            moved.append(model.layers[0].kernel.numpy() - clean)
            noisy.redraw()
    return np.array(moved)


@pytest.mark.parametrize(
    ("power", "noise", "scaled"),
    [
        (2, None, noises.Gaussian(1.0)),
        (1, noises.Uniform, noises.Uniform(1.0)),
        (2, noises.Gaussian(relative_to="max"), noises.Gaussian(1.0, relative_to="max")),
    ],
    ids=["quadratic, gaussian", "linear, uniform", "quadratic, relative"],
)
def test_in_closed_form(power, noise, scaled):
    model, data = linear(power)
    halvings = 9
    if noise is None:
        del model.evaluate  # Keras's own takes longer.
        halvings = 5
    # The cost is s^p mean |n|^p.
    costs = np.mean(np.abs(drawn(model, scaled)) ** power, axis=(1, 2))
    result = find(model, data, noise=noise, drop=0.01, high=0.5, bisections=halvings)
    expected = (0.01 / costs.mean()) ** (1 / power)
    assert result.magnitude <= expected * (1 + 1e-4)
    assert result.magnitude == pytest.approx(expected, abs=0.5 / 2**halvings + 1e-5)
    assert result.flatness == pytest.approx(result.magnitude**-2)
    half = t_quantile(2) * costs.std(ddof=1) / math.sqrt(3)
    for end, least in zip(result.interval, (costs.mean() + half, costs.mean() - half), strict=True):
        crossing = (0.01 / least) ** (1 / power) if least > 0.01 / 0.5**power else math.inf
        assert end == pytest.approx(crossing, rel=0.15)


def test_the_variant_that_knows_magnitudes():
    """Its variance is s^2 w^2 + eps^2, with standard deviations, not variances, as arguments."""
    model, data = linear(units=200)
    eps = 0.05
    result = find(
        model,
        data,
        noise=lambda s: noises.Gaussian(s, relative_to="weight") + noises.Gaussian(eps),
        drop=0.02,
        draws=3,
    )
    w = model.layers[0].kernel.numpy()
    expected = math.sqrt((0.02 - eps**2) / np.mean(w**2))
    assert result.magnitude == pytest.approx(expected, rel=0.1)


def test_monotone_and_the_same_in_two_runs():
    results = [
        find(*linear(), drop=drop, high=1.0, bisections=4, draws=2)
        for drop in (0.01, 0.02, 0.02, 0.1)
    ]
    magnitudes = [result.magnitude for result in results]
    assert magnitudes == sorted(magnitudes)
    assert results[1] == results[2] != results[3]


def test_every_evaluation_is_of_a_draw_common_to_all_magnitudes():
    model, data = linear(metrics=("loss", "mae"))
    clean = model.layers[0].kernel.numpy()
    seen = watch(model, lambda i: model.layers[0].kernel.numpy() - clean)
    with pytest.warns(UserWarning, match="bears nothing that was tried, down to 0.25"):
        result = find(model, data, metric="loss", drop=0.01, bisections=3, draws=range(2, 4))
    assert sorted({row.magnitude for row in result.rows}) == [0.25, 0.5, 1.0, 2.0]
    assert [row.draw for row in result.rows] == [2, 3] * 4
    assert len(seen) == 1 + len(result.rows)
    for i in (3, 5, 7):
        np.testing.assert_allclose(seen[i], seen[1] * 2.0 ** -((i - 1) // 2), rtol=1e-4, atol=1e-6)
    assert result.magnitude == 0.0
    assert result.flatness == math.inf


@pytest.mark.parametrize(
    ("metric", "mode", "expected"),
    [(None, "auto", "accuracy"), ("loss", "auto", "loss"), ("accuracy", "max", "accuracy")],
)
def test_accuracies_may_fall_and_losses_rise(metric, mode, expected):
    model, data = linear()
    off = model.evaluate
    # The accuracy falls by as much as the loss rises.
    model.evaluate = lambda **data: {"loss": off()["loss"], "accuracy": 1.0 - off()["loss"]}
    result = find(model, data, metric=metric, mode=mode, drop=0.1, bisections=4)
    assert result.metric == expected
    assert 0.1 < result.magnitude < 2.0
    means = {m: s.mean for m, s in result.summaries().items()}
    sign = 1.0 if expected == "accuracy" else -1.0
    assert sign * (result.clean[expected] - means[result.magnitude]) <= 0.1
    above = min(m for m in means if m > result.magnitude)
    assert sign * (result.clean[expected] - means[above]) > 0.1


def test_it_ends_when_it_is_close_enough():
    result = find(*linear(), drop=0.01, within=0.005, bisections=15)
    cost = result.summaries()[result.magnitude].mean - result.clean["loss"]
    assert abs(cost - 0.01) <= 0.005
    assert len(result.rows) < 3 * 12


def test_noise_that_is_not_random_is_evaluated_once():
    model, data = linear()
    seen = watch(model, lambda i: None)
    # The coarser, the larger the magnitude: in [0, 1], what is left of eight bits.
    noise = lambda s: noises.Quantization(max(2, round(8 - 6 * s)))  # noqa: E731
    result = find(model, data, noise=noise, drop=1e-3, high=1.0, bisections=3)
    assert len(seen) == 1 + 4
    assert len(result.rows) == 3 * 4
    # Of one draw made three times there is no spread: what is left are the magnitudes next to each other.
    low, high = result.interval
    assert low == result.magnitude < high < result.magnitude + 1.0 / 2**3


def test_a_model_that_bears_everything():
    with pytest.warns(UserWarning, match="bears all that was tried.*Received: high=0.5") as caught:
        result = find(*linear(), drop=100.0, high=0.5)
    assert caught[0].filename == __file__
    assert result.magnitude == 0.5
    assert len(result.rows) == 3
    assert result.interval == (0.5, math.inf)
    assert "up to a magnitude of 0.5, the largest that was tried" in str(result)
    assert "interval over draws 0.5 to above 0.5" in str(result)


@pytest.mark.parametrize("bisections", [1, 2, 3, 6])
def test_the_magnitude_is_within_its_interval(bisections):
    """Where few magnitudes are tried, the lines between them pass it by."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = find(*linear(), drop=0.01, bisections=bisections)
    low, high = result.interval
    assert low <= result.magnitude < high
    # Said where it is 0, and nowhere else.
    smallest = 2.0 / 2**bisections
    nothing = f"at no magnitude that was tried, of which {smallest:.4g} is the smallest" in str(
        result
    )
    assert nothing == (result.magnitude == 0.0) == (bisections < 5)
    compare({"net": result}).plot().figure.canvas.draw()
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(
    ("noise", "high"),
    [(noises.StuckAt(), 1.0), (noises.BitFlip(count=1), 2.0), (noises.Gaussian(), 2.0)],
    ids=["rate", "count", "stddev"],
)
def test_no_more_is_tried_than_a_noise_takes(noise, high):
    with pytest.warns(UserWarning, match=f"Received: high={high}"):
        find(*linear(), drop=1e9, noise=noise, bisections=1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_without_noise(value):
    model, data = linear()
    model.evaluate = lambda **options: {"loss": value}
    with pytest.raises(ValueError, match=f"Without noise.*Received: loss={value}"):
        find(model, data, drop=0.1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("when", [0, 1, 8])
def test_interrupts_and_errors(when, error):
    model, data = linear()
    before = [v.numpy().tobytes() for v in model.variables]

    def look(i):
        if i == when:
            raise error

    watch(model, look)
    if error is KeyboardInterrupt and when == 8:
        with pytest.warns(UserWarning, match="7 rows") as caught:
            result = find(model, data, drop=0.3)
        assert caught[0].filename == __file__
        assert not result.complete
        assert "INCOMPLETE" in str(result)
        assert result.magnitude == 0.0
    else:
        with pytest.raises(error):
            find(model, data, drop=0.3)
    assert [v.numpy().tobytes() for v in model.variables] == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"drop": 0}, ValueError, "Invalid `drop`.*Received: drop=0"),
        ({"drop": math.nan}, ValueError, "Invalid `drop`"),
        ({"drop": "a"}, TypeError, "Invalid `drop`"),
        ({"high": 0}, ValueError, "Invalid `high`"),
        ({"high": math.inf}, ValueError, "Invalid `high`"),
        ({"within": -1}, ValueError, "Invalid `within`"),
        ({"bisections": 0}, ValueError, "Invalid `bisections`"),
        ({"mode": "up"}, ValueError, "Invalid `mode`.*Received: mode='up'"),
        ({"draws": 0}, ValueError, "Invalid `draws`"),
        ({"seed": None}, TypeError, "Invalid `seed`"),
        ({"noise": 0.1}, TypeError, "Invalid `noise`"),
        ({"noise": noises.BitFlip}, ValueError, "Invalid `high`.*high=2.0.*Received: rate=2.0"),
        ({"data": X}, ValueError, "needs targets"),
    ],
)
def test_wrong_arguments_fail_before_anything_is_evaluated(options, error, message):
    model, data = linear()
    seen = watch(model, lambda i: None)
    with pytest.raises(error, match=message):
        find(model, **{"data": data, "drop": 0.01} | options)
    assert not seen


def test_a_metric_that_is_not_there():
    with pytest.raises(ValueError, match=r"Invalid `metric`.*Received: metric='accuracy'"):
        find(*linear(), drop=0.1, metric="accuracy")


def test_result():
    result = find(*linear(), drop=0.01, bisections=5)
    assert ToleranceResult.from_json(result.to_json()) == result
    lines = str(result).splitlines()
    assert lines[0] == "Tolerance to weight noise: Gaussian"
    assert lines[1].endswith(f"up to a magnitude of {result.magnitude:.4g}")
    assert len(lines) == 3 + 2 + 6
    assert list(result.to_dataframe().columns) == ["noise", "magnitude", "draw", "loss"]
    with pytest.raises(TypeError):
        result + result
    single = find(*linear(), drop=0.01, draws=1)
    assert math.isnan(single.interval[0])
    assert "95 % interval over draws -, flatness" in str(single)
    assert "nan" not in str(single) + str(compare({"net": single}))


def test_plot():
    import matplotlib.pyplot as plt

    result = find(*linear(), drop=0.01, bisections=5)
    ax = result.plot(label="net")
    ax.figure.canvas.draw()
    mean, draws, limit, cross = ax.lines
    assert len(mean.get_xdata()) == 6
    assert len(draws.get_xdata()) == 18
    assert limit.get_ydata()[0] == pytest.approx(result.clean["loss"] + 0.01)
    assert cross.get_xdata()[0] == result.magnitude
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1  # It hides nothing.
    assert result.plot(ax=ax) is ax
    plt.close("all")


def test_the_copy_at_this_magnitude_costs_this_much():
    model, data = linear()
    result = find(model, data, drop=0.01, draws=1, bisections=10)
    perturb_weights(model, result.magnitude, seed=0, inplace=True)
    assert model.evaluate()["loss"] == pytest.approx(0.01, rel=0.1)

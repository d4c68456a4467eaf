"""layer_sensitivity: one layer at a time, the most fragile first."""

import functools
import math

import keras
import matplotlib
import numpy as np
import pytest
from fits import watch

from keras_weightnoise import noises, perturbed_weights, schedules
from keras_weightnoise.analysis import _summaries
from keras_weightnoise.analysis.sensitivity import layer_sensitivity
from keras_weightnoise.analysis.sensitivity_result import SensitivityResult, SensitivityRow
from keras_weightnoise.models import perturb

matplotlib.use("Agg")
L = keras.layers
X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 20)
measure = functools.partial(layer_sensitivity, verbose=0, draws=2)


def network():
    keras.utils.set_random_seed(1)
    inner = keras.Sequential(
        [L.Dense(6, activation="relu", name="dense"), L.BatchNormalization(name="bn")], name="inner"
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(3, name="head")(inner(inputs)), name="net")
    inner.layers[0].trainable = False
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


LAYERS = {
    "inner/dense": ["inner/dense/kernel", "inner/dense/bias"],
    "inner/bn": [
        "inner/bn/gamma", "inner/bn/beta",
    ],
    "head": ["head/kernel", "head/bias"],
}  # fmt: skip


def state(model):
    return [v.numpy().tobytes() for v in model.variables]


def moved(model):
    before = [v.numpy() for v in model.variables]
    return watch(
        model,
        lambda i: {
            v.path for v, b in zip(model.variables, before, strict=True) if np.any(v.numpy() != b)
        },
    )


@pytest.mark.any_version
@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "by"),
    [
        (0.5, "layer"),
        (0.5, "variable"),
        (noises.Quantization(4, 0.5) + noises.Uniform(0.1), "layer"),
        ({"kernel": 0.5, "head": noises.Uniform(1.0), None: noises.Rademacher(0.3)}, "layer"),
    ],
    ids=["number", "variables", "composition", "rules"],
)
def test_values(noise, by):
    model = network()
    before = state(model)
    result = measure(model, (X, Y), noise, by=by, seed=4)
    assert state(model) == before
    assert result.complete
    assert result.clean == model.evaluate(X, Y, verbose=0, return_dict=True)
    paths = {path: [path] for each in LAYERS.values() for path in each}
    expected = {}
    for name, own in (LAYERS if by == "layer" else paths).items():
        # The rules in reach of this layer: the first that matches counts, whatever is selected.
        rules = noise
        if isinstance(noise, dict):
            kernel, rest = noise["kernel"], noise[None]
            rules = [
                (p, kernel if p.endswith("kernel") else noise["head"] if "head" in p else rest)
                for p in own
            ]
        with perturbed_weights(model, rules, variables=[f"^{p}$" for p in own], seed=4) as noisy:
            for draw in range(2):
                metrics = model.evaluate(X, Y, verbose=0, return_dict=True)
                expected[name, draw] = pytest.approx(metrics, rel=1e-5)
                noisy.redraw()
    assert {(r.name, r.draw): r.metrics for r in result.rows} == expected
    assert list(result.summaries("loss")) == sorted(
        result.summaries("loss"), key=lambda n: -result.summaries("loss")[n].mean
    )


@pytest.mark.any_version
@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, list(LAYERS.values())),
        ({"by": "variable"}, [[path] for each in LAYERS.values() for path in each]),
        ({"variables": "kernels"}, [["inner/dense/kernel"], ["head/kernel"]]),
        ({"exclude": L.BatchNormalization}, [LAYERS["inner/dense"], LAYERS["head"]]),
        ({"noise": {"head": 0.5}}, [LAYERS["head"]]),
    ],
    ids=str,
)
def test_one_at_a_time(options, expected):
    model = network()
    seen = moved(model)
    measure(model, (X, Y), **{"noise": 0.5} | options)
    assert seen == [set(), *map(set, expected * 2)]


@pytest.mark.any_version
def test_noise_that_is_not_random_is_evaluated_once():
    model = network()
    seen = moved(model)
    result = measure(model, (X, Y), noises.Quantization(2), variables="kernels", draws=3)
    assert seen == [set(), {"inner/dense/kernel"}, {"head/kernel"}]
    assert len(result.rows) == 6
    assert [s.std for s in result.summaries("loss").values()] == [0.0, 0.0]


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("noise", "text"),
    [
        (0.5, "Gaussian(stddev=0.5, relative_to=None)"),
        (noises.StuckAt(0.1), "StuckAt(rate=0.1, value='zero')"),
        ({"head": noises.LogNormal(0.2)}, "head: LogNormal(sigma=0.2)"),
    ],
)
def test_the_noise_is_named(noise, text):
    result = measure(network(), (X, Y), noise, draws=1)
    assert result.noise == text
    assert str(result).splitlines()[0].endswith(text)


@pytest.mark.any_version
def test_all_layers_are_drawn_at_once(monkeypatch):
    drawn = []
    original = perturb.perturb_assigned

    def counted(*args, **kwargs):
        drawn.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(perturb, "perturb_assigned", counted)
    measure(network(), (X, Y), 0.1, by="variable", draws=3)
    assert len(drawn) == 3


@pytest.mark.slow
def test_forms_of_data():
    model = network()
    generator = ((X[i : i + 5], Y[i : i + 5]) for i in (0, 5, 10, 15, 0))
    assert measure(model, generator, 0.1, steps=4) == measure(model, (X, Y), 0.1, batch_size=5)


@pytest.mark.slow
def test_a_variable_that_the_model_owns_and_layers_of_one_name():
    class Model(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
            self.parts = [L.Dense(3, name="part"), L.Dense(3, name="part")]

        def call(self, x):
            return self.scale * self.parts[1](self.parts[0](x))

    model = Model()
    model(X)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    names = list(measure(model, (X, Y), 0.1).summaries())
    assert sorted(names) == ["own", "part", "part (2)"]
    names = list(measure(model, (X, Y), 0.1, by="variable", variables="scale|bias").summaries())
    assert sorted(names) == ["part/bias", "part/bias (2)", "scale"]


@pytest.mark.any_version
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("when", [0, 1, 5])
def test_interrupts_and_errors(when, error):
    model = network()
    before = state(model)

    def look(i):
        if i == when:
            raise error

    watch(model, look)
    if error is KeyboardInterrupt and when == 5:
        with pytest.warns(UserWarning, match="4 rows") as caught:
            result = measure(model, (X, Y), 0.1)
        assert caught[0].filename == __file__
        assert not result.complete
        assert "INCOMPLETE" in str(result)
        assert [s.draws for s in result.summaries().values()].count(2) == 1
        assert SensitivityResult.from_json(result.to_json()) == result
    else:
        with pytest.raises(error):
            measure(model, (X, Y), 0.1)
    assert state(model) == before


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"by": "model"}, ValueError, "Invalid `by`.*Received: by='model'"),
        ({"noise": -1.0}, ValueError, "Invalid `noise`"),
        ({"noise": "a"}, TypeError, "Invalid `noise`"),
        (
            {"noise": schedules.LinearRamp(0.0, 0.1, start_step=0, ramp_steps=5)},
            TypeError,
            "evaluate a schedule",
        ),
        ({"noise": {"head": 0.1, "hd": 0.2}}, ValueError, "matches no eligible"),
        ({"draws": 0}, ValueError, "Invalid `draws`"),
        ({"seed": None}, TypeError, "Invalid `seed`"),
        ({"variables": "nothing"}, ValueError, "matches no eligible"),
        ({"verbose": "loud"}, ValueError, "Invalid `verbose`"),
        ({"model": L.Dense(1)}, TypeError, "Invalid `model`"),
    ],
)
def test_wrong_arguments(options, error, message):
    model = network()
    seen = moved(model)
    with pytest.raises(error, match=message):
        measure(**{"model": model, "data": (X, Y), "noise": 0.1} | options)
    assert not seen


# Results.


def made(values, higher=True):
    return SensitivityResult(
        clean={"loss": 0.1, "accuracy": 0.9},
        rows=tuple(
            SensitivityRow(name, d, {"loss": 1 - v, "accuracy": v})
            for name, each in values.items()
            for d, v in enumerate(each)
        ),
        complete=True,
        higher_is_better={"loss": False, "accuracy": higher},
        by="layer",
        noise="Gaussian",
    )


VALUES = {"a": [0.8, 0.9], "b": [0.9, 0.9], "c": [0.9, math.nan], "d": [0.2, 0.4]}


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("metric", "higher", "order"),
    [
        (None, True, "cdab"),
        ("accuracy", True, "cdab"),
        ("loss", True, "cdab"),
        ("accuracy", False, "cbad"),
    ],
)
def test_order(metric, higher, order):
    assert list(made(VALUES, higher).summaries(metric)) == list(order)


@pytest.mark.any_version
def test_printed():
    lines = str(made(VALUES)).splitlines()
    assert lines[0] == "Sensitivity to weight noise in one layer at a time: Gaussian"
    start = lines.index("accuracy, without noise 0.9000")
    assert [line.split()[0] for line in lines[start + 1 :]] == ["layer", "c", "d", "a", "b"]
    assert lines[start + 3].split()[:4] == ["d", "-0.6000", "0.3000", "0.1414"]


@pytest.mark.any_version
def test_of_many_layers_the_most_fragile_are_shown():
    result = made({f"layer{i}": [0.9 - 0.01 * i] for i in range(30)})
    lines = str(result).splitlines()
    assert [line.split()[0] for line in lines[3:13]] == [f"layer{i}" for i in range(29, 19, -1)]
    assert lines[13].strip() == "... and 20 less fragile: see `table()`"
    assert len(result.table().splitlines()) == 1 + 2 * 32
    assert len(result.plot().patches) == 10
    assert len(result.plot(top=None).patches) == 30
    assert result._repr_html_().count("<tr>") == 2 * 11
    with pytest.raises(ValueError, match="Invalid `top`"):
        result.plot(top=0)


@pytest.mark.any_version
def test_parts_add_up_to_the_whole():
    whole = measure(network(), (X, Y), 0.5, draws=3)
    parts = [measure(network(), (X, Y), 0.5, draws=each) for each in (range(2, 3), range(2))]
    assert parts[0] + parts[1] == whole
    with pytest.raises(TypeError):
        parts[0] + 1


def test_names_do_not_depend_on_what_was_built_before(tmp_path):
    model = network()
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    results = [measure(each, (X, Y), 0.5, by="variable") for each in (model, network(), loaded)]
    for result in results[1:]:
        assert list(result.summaries("loss")) == list(results[0].summaries("loss"))


@pytest.mark.any_version
def test_json_and_dataframe():
    result = made(VALUES)
    assert SensitivityResult.from_json(result.to_json()) == result != made({"a": [0.5]})
    frame = result.to_dataframe()
    assert list(frame.columns) == ["layer", "draw", "loss", "accuracy"]
    assert len(frame) == 8


@pytest.mark.any_version
def test_plot():
    import matplotlib.pyplot as plt

    result = made({"a": [0.8, 0.9], "b": [0.9, 0.7], "d": [0.2, 0.4]})
    ax = result.plot()
    ax.figure.canvas.draw()
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([-0.6, -0.1, -0.05])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["d", "b", "a"]
    assert ax.yaxis_inverted()
    (errors,) = ax.containers[1].errorbar[2]
    half = 12.7062 * 0.1  # t, of two draws that differ by 0.2.
    assert np.ptp(errors.get_segments()[0][:, 0]) == pytest.approx(2 * half)
    assert "accuracy" in ax.get_xlabel()
    assert result.plot("loss", ax=ax) is ax
    made({"a": [0.8], "b": [math.nan]}).plot().figure.canvas.draw()
    plt.close("all")


@pytest.mark.any_version
def test_one_draw_has_no_spread_to_print():
    cells = _summaries.cells(_summaries.summarize({0: 1.0}, False))
    assert cells == ["1.0000", "-", "-", "-", "-", "1.0000 (0)", "1"]
    assert len(cells) == len(_summaries.HEADER)

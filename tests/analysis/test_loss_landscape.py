"""loss_landscape: the grid against formulas and other models' weights, directions, and its result."""

import functools
import math
import pathlib

import keras
import matplotlib
import numpy as np
import pytest
from fits import watch

from keras_weightnoise import compare
from keras_weightnoise.analysis._directions import random_directions
from keras_weightnoise.analysis._trajectory import principal_directions
from keras_weightnoise.analysis.landscape_result import LandscapeResult
from keras_weightnoise.analysis.loss_landscape import loss_landscape

pytestmark = pytest.mark.any_version

matplotlib.use("Agg")
L = keras.layers
X = np.eye(6, dtype="float32")
landscape = functools.partial(loss_landscape, verbose=0, points=3)


def linear(seed=1, bias=False, metrics=("loss",)):
    """A model whose loss is the mean square of what its kernel is off by: by a formula, which is faster."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((6,)), L.Dense(2, use_bias=bias, name="d")], name="net")
    model.compile("adam", "mse")
    clean = model.layers[0].kernel.numpy()

    def evaluate(**options):
        off = float(np.mean((model.layers[0].kernel.numpy() - clean) ** 2))
        return dict.fromkeys(metrics, off)

    model.evaluate = evaluate
    return model, (X, clean)


def state(model):
    return [v.numpy().tobytes() for v in model.variables]


@pytest.mark.parametrize("directions", [1, 2])
def test_the_landscape_of_a_quadratic_is_the_quadratic(directions):
    model, data = linear()
    before = state(model)
    result = landscape(model, data, directions=directions, span=0.5, points=5, seed=3)
    assert state(model) == before
    assert result.complete
    (axis,) = {tuple(axis) for axis in result.coordinates}
    assert axis == (-0.5, -0.25, 0.0, 0.25, 0.5)
    found = random_directions(model, directions, "kernels", None, 3, "filter")
    vectors = [direction[0].numpy() for direction in found.vectors]
    for place in np.ndindex(*result.values["loss"].shape):
        moved = sum(axis[i] * d for i, d in zip(place, vectors, strict=True))
        expected = np.mean(moved**2)
        assert result.values["loss"][place] == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_the_centre_is_what_evaluate_says():
    model, (x, y) = linear()
    del model.evaluate
    model.compile("adam", "mse", metrics=["mae"])
    result = landscape(model, (x, y + 0.1), directions=1)
    assert result.clean == model.evaluate(x, y + 0.1, verbose=0, return_dict=True)
    assert {name: values[1] for name, values in result.values.items()} == result.clean


@pytest.mark.parametrize("normalize", ["filter", "variable", None])
def test_random_directions_have_the_norms_of_the_weights(normalize):
    inputs = keras.Input((8, 8, 3)), keras.Input((5,), dtype="int32"), keras.Input((5, 4))
    layers = {
        # The axes of a filter.
        "conv": (L.Conv2D(4, 3), {"kernel": (0, 1, 2)}),
        "transposed": (L.Conv2DTranspose(2, 3), {"kernel": (0, 1, 3)}),
        "depthwise": (L.DepthwiseConv2D(3, depth_multiplier=2), {"kernel": (0, 1)}),
        "separable": (
            L.SeparableConv2D(4, 3),
            {"depthwise_kernel": (0, 1), "pointwise_kernel": (0, 1, 2)},
        ),
    }
    outputs = [L.GlobalAveragePooling2D()(layer(inputs[0])) for layer, _ in layers.values()]
    others = {
        "embedding": (L.Embedding(7, 4), {"embeddings": (1,)}),
        "einsum": (L.EinsumDense("abc,cde->abde", (None, 2, 3)), {"kernel": (0,)}),
        "lstm": (L.LSTM(3), {"kernel": (0,), "recurrent_kernel": (0,)}),
        "norm": (L.BatchNormalization(), {}),
    }
    sequence = others["embedding"][0](inputs[1])
    outputs.append(L.Flatten()(others["einsum"][0](others["norm"][0](sequence))))
    outputs.append(others["lstm"][0](inputs[2]))
    model = keras.Model(inputs, outputs)
    found = random_directions(model, 2, "kernels", None, 0, normalize)
    moved = found.moved
    expected = {
        (id(layer), name): axes
        for layer, kernels in (layers | others).values()
        for name, axes in kernels.items()
    }
    by_place = {
        id(v): expected.get((id(layer), v.name))
        for layer, _ in (layers | others).values()
        for part in (layer, getattr(layer, "cell", layer))
        for v in part.variables
    }
    assert len(moved) == len(expected) == 9
    for i, variable in enumerate(moved):
        axes = by_place[id(variable)]
        first, second = (direction[i].numpy() for direction in found.vectors)
        assert not np.allclose(first, second)
        if normalize == "variable":
            axes = None
        lengths = [np.sqrt(np.sum(each**2, axis=axes)) for each in (first, second)]
        weights = np.sqrt(np.sum(variable.numpy() ** 2, axis=axes))
        for length in lengths:
            if normalize is None:
                assert 0.3 < np.std(first) < 1.7
            else:
                np.testing.assert_allclose(length, weights, rtol=1e-5)


def test_what_is_not_a_kernel_stays():
    model, data = linear(bias=True)
    before = [v.numpy() for v in model.variables]
    moved = watch(
        model,
        lambda i: [np.any(v.numpy() != b) for v, b in zip(model.variables, before, strict=True)],
    )
    landscape(model, data, directions=1)
    assert moved == [[False, False], [True, False], [True, False]]
    moved.clear()
    landscape(model, data, directions=1, variables=None, exclude="kernel", normalize=None)
    assert moved[1:] == [[False, True]] * 2


def test_towards_other_models():
    def model(seed):
        keras.utils.set_random_seed(seed)
        layers = [L.Dense(4), L.BatchNormalization(), L.Dense(2)]
        made = keras.Sequential([keras.Input((6,)), *layers])
        made.compile("adam", "mse")
        made.layers[1].moving_mean.assign(np.random.default_rng(seed).normal(size=4))
        return made

    here, one, two = (model(seed) for seed in (1, 2, 3))
    y = np.ones((6, 2))
    result = landscape(here, (X, y), directions=[one, two])
    losses = [each.evaluate(X, y, verbose=0) for each in (here, one, two)]
    values = result.values["loss"]
    assert [values[1, 1], values[2, 1], values[1, 2]] == losses
    # The corner, by hand.
    a, b, c = (each.get_weights() for each in (here, one, two))
    weights = [q + r - p for p, q, r in zip(a, b, c, strict=True)]
    before = here.get_weights()
    here.set_weights(weights)
    assert values[2, 2] == pytest.approx(here.evaluate(X, y, verbose=0), rel=1e-5)
    here.set_weights(before)
    line = landscape(here, (X, y), directions=one, points=5, span=2.0)
    np.testing.assert_array_equal(line.values["loss"][3], losses[1])


def test_of_one_seed_models_have_the_same_directions():
    results = [landscape(*linear(), seed=seed) for seed in (0, 0, 1)]
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("when", [0, 1, 5])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupts_and_errors(when, error):
    model, data = linear()
    before = state(model)

    def look(i):
        if i == when:
            raise error

    watch(model, look)
    if error is KeyboardInterrupt and when:
        with pytest.warns(UserWarning, match="Interrupted") as caught:
            result = landscape(model, data)
        assert caught[0].filename == __file__
        assert not result.complete
        assert "INCOMPLETE" in str(result)
        # The row of the centre first.
        assert np.sum(np.isfinite(result.values["loss"])) == when
        assert np.isfinite(result.values["loss"][1, 1])
        assert LandscapeResult.from_json(result.to_json()) == result
        result.plot().figure.canvas.draw()
        matplotlib.pyplot.close("all")
    else:
        with pytest.raises(error):
            landscape(model, data)
    assert state(model) == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"directions": 3}, ValueError, "Invalid `directions`.*Received: directions=3"),
        ({"directions": True}, ValueError, "Invalid `directions`"),
        ({"directions": []}, ValueError, "Invalid `directions`"),
        ({"directions": "random"}, ValueError, "Invalid `directions`"),
        ({"span": 0}, ValueError, "Invalid `span`"),
        ({"span": math.inf}, ValueError, "Invalid `span`"),
        ({"points": 4}, ValueError, "Invalid `points`.*odd.*Received: points=4"),
        ({"points": 1}, ValueError, "Invalid `points`"),
        ({"points": 3.0}, TypeError, "Invalid `points`"),
        ({"normalize": "layer"}, ValueError, "Invalid `normalize`"),
        ({"seed": None}, TypeError, "Invalid `seed`"),
        ({"variables": "nothing"}, ValueError, "matches no eligible"),
        ({"data": X}, ValueError, "needs targets"),
    ],
    ids=str,
)
def test_wrong_arguments_fail_before_anything_is_evaluated(options, error, message):
    model, data = linear()
    seen = watch(model, lambda i: None)
    with pytest.raises(error, match=message):
        landscape(model, **{"data": data} | options)
    assert not seen


def test_another_architecture():
    model, data = linear()
    other, _ = linear(bias=True)
    with pytest.raises(ValueError, match=r"Invalid `directions`.*weights of the shapes"):
        landscape(model, data, directions=other)
    with pytest.raises(ValueError, match=r"Received: .* whose weights are those of the model"):
        landscape(model, data, directions=model)


# Along a run.


def run(model, steps=4, rank=None):
    """Weights of a run that ends at the model, as `get_weights` returns them, in a plane if rank is 2."""
    rng = np.random.default_rng(0)
    end = model.get_weights()
    ways = [[rng.normal(size=w.shape) for w in end] for _ in range(rank or steps)]
    mixed = rng.normal(size=(steps, len(ways)))
    return [
        [w + sum(a * d[i] for a, d in zip(row, ways, strict=True)) for i, w in enumerate(end)]
        for row in mixed
    ]


def flat(weights):
    return np.concatenate([np.ravel(w) for w in weights])


def test_a_run_in_a_plane_is_in_the_plane():
    model, _ = linear(bias=True)
    weights = run(model, rank=2)
    found = principal_directions(model, weights, 2)
    assert found.trajectory.shape == (5, 2)
    np.testing.assert_allclose(found.trajectory[-1], 0.0, atol=1e-6)
    np.testing.assert_allclose(np.ptp(found.trajectory, axis=0), 1.0)
    assert np.all(found.trajectory[0] <= 0.0)
    end = flat(model.get_weights())
    directions = np.array([flat(direction) for direction in found.vectors])
    for at, each in zip(found.trajectory, weights, strict=False):
        np.testing.assert_allclose(end + at @ directions, flat(each), rtol=1e-5, atol=1e-5)
    first, second = directions
    assert abs(first @ second) < 1e-5 * np.linalg.norm(first) * np.linalg.norm(second)


@pytest.mark.parametrize("count", [1, 2])
def test_the_shares_are_those_of_principal_components(count):
    model, _ = linear()
    weights = run(model)
    found = principal_directions(model, weights, count)
    points = np.array([flat(each) for each in [*weights, model.get_weights()]])
    _, sizes, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    shares = sizes**2 / np.sum(sizes**2)
    names = ["first", "second"][:count]
    assert found.labels == [
        f"{name} component, {share:.1%} of variance"
        for name, share in zip(names, shares, strict=False)
    ]
    for direction, axis in zip(found.vectors, axes, strict=False):
        unit = flat(direction) / np.linalg.norm(flat(direction))
        assert abs(unit @ axis) == pytest.approx(1.0, abs=1e-5)


def test_the_landscape_along_a_run():
    model, data = linear()
    before = state(model)
    weights = run(model, rank=2)
    seen = watch(model, lambda i: model.get_weights())
    result = landscape(model, data, trajectory=weights, points=9)
    assert state(model) == before
    for axis, on_it in zip(result.coordinates, result.trajectory.T, strict=True):
        assert len(axis) == 9
        np.testing.assert_allclose(np.diff(axis), 1.5 / 8)
        assert np.sum(axis == 0.0) == 1
        assert axis[0] < on_it.min()
        assert on_it.max() < axis[-1]
    centre = tuple(int(np.argmin(np.abs(axis))) for axis in result.coordinates)
    assert result.values["loss"][centre] == result.clean["loss"] == 0.0
    # A corner, by hand.
    directions = principal_directions(model, weights, 2).vectors
    corner = [axis[-1] for axis in result.coordinates]
    moved = sum(a * d[0].numpy() for a, d in zip(corner, directions, strict=True))
    assert result.values["loss"][-1, -1] == pytest.approx(np.mean(moved**2), rel=1e-4)
    assert len(seen) == 81
    assert LandscapeResult.from_json(result.to_json()) == result
    assert str(result).splitlines()[1].startswith("Along first component, ")
    ax = result.plot()
    assert np.array_equal(ax.lines[0].get_xydata(), result.trajectory)
    assert ax.get_ylabel().startswith("second component, ")
    line = landscape(model, data, trajectory=weights, directions=1, points=5, span=1.0)
    assert np.ptp(line.coordinates[0]) == pytest.approx(3.0)
    line.plot().figure.canvas.draw()
    matplotlib.pyplot.close("all")


@pytest.mark.slow
def test_weights_of_a_run_are_files_models_or_arrays(tmp_path):
    def trained():
        keras.utils.set_random_seed(1)
        made = keras.Sequential(
            [keras.Input((6,)), L.Dense(4), L.BatchNormalization(), L.Dropout(0.5)]
        )
        made.compile("adam", "mse")
        return made

    model = trained()
    path = str(tmp_path / "{epoch}.weights.h5")
    arrays = []
    collect = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: arrays.append(model.get_weights())
    )
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    model.fit(X, np.ones((6, 4)), epochs=3, verbose=0, callbacks=[save, collect])
    before = state(model) + [v.numpy().tobytes() for v in model.optimizer.variables]
    files = [path.format(epoch=epoch) for epoch in (1, 2, 3)]
    models = []
    for weights in arrays:
        models.append(trained())
        models[-1].set_weights(weights)
    found = [principal_directions(model, each, 2) for each in (files, models, arrays)]
    assert state(model) + [v.numpy().tobytes() for v in model.optimizer.variables] == before
    for each in found[1:]:
        np.testing.assert_array_equal(each.trajectory, found[0].trajectory)
    # Statistics move along: from the model to the first weights, all of them.
    first = dict(zip([v.path for v in model.weights], arrays[0], strict=True))
    at, vectors = found[0].trajectory[0], zip(*found[0].vectors, strict=True)
    for variable, (a, b) in zip(found[0].moved, vectors, strict=True):
        moved = variable.numpy() + at[0] * a.numpy() + at[1] * b.numpy()
        np.testing.assert_allclose(moved, first[variable.path], atol=1e-4)
    # Of a model that was not trained, there is no state to read into, and no warning.
    principal_directions(models[0], [pathlib.Path(each) for each in files[1:]], 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"directions": 3}, ValueError, "Invalid `directions`.*Expected 1 or 2 along"),
        ({"trajectory": "1.weights.h5"}, ValueError, "Invalid `trajectory`.*at least 2"),
        ({"trajectory": []}, ValueError, "Invalid `trajectory`"),
        ({"trajectory": [1, 2]}, TypeError, "Invalid `trajectory`.*Received: 1"),
        ({"trajectory": "the model"}, ValueError, "differ from each other and from the model's"),
        ({"trajectory": "a line"}, ValueError, "at least 2 directions"),
        ({"trajectory": "shapes"}, ValueError, "Invalid `trajectory`.*weights of the shapes"),
        ({"trajectory": ["missing.weights.h5"] * 2}, Exception, "missing.weights.h5"),
    ],
    ids=str,
)
def test_wrong_runs(options, error, message):
    model, data = linear()
    (w,) = model.get_weights()
    special = {
        "the model": [[w], [w]],
        "a line": [[w + 1], [w + 2]],
        "shapes": [[w], [w[:3]]],
    }
    options = {"trajectory": run(model)} | options
    if isinstance(options["trajectory"], str):
        options["trajectory"] = special.get(options["trajectory"], options["trajectory"])
    with pytest.raises(error, match=message):
        landscape(model, data, **options)


# Results.


def made(rank):
    axis = np.array([-1.0, 0.0, 1.0])
    grid = np.meshgrid(*[axis] * rank, indexing="ij")
    values = sum((i + 1) * each**2 + 0.1 * each for i, each in enumerate(grid))
    return LandscapeResult(
        clean={"accuracy": 0.9, "loss": 0.0},
        coordinates=(axis,) * rank,
        labels=("first direction", "second direction")[:rank],
        values={"accuracy": 0.9 - values, "loss": values},
        complete=True,
    )


@pytest.mark.parametrize("rank", [1, 2])
def test_result(rank):
    result = made(rank)
    assert LandscapeResult.from_json(result.to_json()) == result
    lines = str(result).splitlines()
    assert lines[0] == f"Loss landscape: {' x '.join(['3'] * rank)} points in [-1, 1]"
    assert lines[-1].split()[:3] == ["loss", "0.0000", "0.0000"]
    assert "<table>" in result._repr_html_()
    frame = result.to_dataframe()
    assert list(frame.columns) == [*"ab"[:rank], "accuracy", "loss"]
    assert len(frame) == 3**rank
    if rank == 2:
        row = frame[(frame.a == 1.0) & (frame.b == -1.0)]
        assert row.loss.item() == pytest.approx(1.1 + 1.9)


def test_a_landscape_of_nothing_but_nan():
    result = made(2)
    result.values["loss"][:] = np.nan
    assert str(result).splitlines()[-1].split() == ["loss", "0.0000", "nan", "nan"]
    both = compare({"a": result, "b": result})
    assert "nan" in str(both)
    for ax in (result.plot(), *both.plot()):
        ax.figure.canvas.draw()
    matplotlib.pyplot.close("all")


def test_plots():
    import matplotlib.pyplot as plt

    ax = made(2).plot(limits=(0.05, 3.1), label="net")
    ax.figure.canvas.draw()
    assert ax.get_title() == "net"
    filled = ax.collections[0]
    assert (filled.levels[0], filled.levels[-1]) == (0.05, 3.1)
    assert filled.colorbar.get_ticks().tolist() == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    # The first direction is across: there, the values differ less.
    assert ax.get_xlabel() == "first direction"
    surface = made(2).plot("accuracy", kind="surface")
    surface.figure.canvas.draw()
    assert surface.get_zlabel() == "accuracy"
    line = made(1).plot(label="one")
    assert made(1).plot("accuracy", ax=line, label="two", limits=(0, 2)) is line
    assert [text.get_text() for text in line.get_legend().texts] == ["one", "two"]
    np.testing.assert_allclose(line.lines[0].get_ydata(), [0.9, 0.0, 1.1])
    with pytest.raises(ValueError, match="Invalid `kind`"):
        made(2).plot(kind="map")
    with pytest.raises(ValueError, match="Invalid `metric`"):
        made(2).plot("auc")
    plt.close("all")

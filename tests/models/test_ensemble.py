"""WeightNoiseEnsemble: its members, their mean and spread, and what Keras does with it."""

import copy
import warnings

import fits
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import EnsembleSpread, noises, perturbed_weights
from keras_weightnoise._random import adding
from keras_weightnoise._weights.state import Snapshot, reachable_variables, seed_variables
from keras_weightnoise.models.ensemble import WeightNoiseEnsemble

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 4)).astype("float32")
Y = RNG.integers(0, 3, 10)


@pytest.fixture(autouse=True)
def _kernels_are_large(monkeypatch):
    """The small kernels of tests are drawn when they are read, as large ones are; biases before."""
    monkeypatch.setattr(adding, "_LARGE", 4)  # Elements.


def mlp(*last):
    last = last or [layers.Dense(3, activation="softmax", name="head")]
    return keras.Sequential([keras.Input((4,)), layers.Dense(6, activation="tanh"), *last])


def draws(model, noise, members, predict, **kwargs):
    """The members' predictions, by hand."""
    outputs = []
    with perturbed_weights(model, noise, **kwargs) as noisy:
        for _ in range(members):
            outputs.append(predict(model))
            noisy.redraw()
    return keras.tree.map_structure(lambda *each: np.stack(each), *outputs)


def close(a, b, **kwargs):
    shapes = [keras.tree.map_structure(lambda _: 0, each) for each in (a, b)]
    assert shapes[0] == shapes[1]
    for x, y in zip(keras.tree.flatten(a), keras.tree.flatten(b), strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            np.testing.assert_allclose(x, y, **{"rtol": 1e-5, "atol": 1e-6, **kwargs})


def predicted(model, x=X, **kwargs):
    return model.predict(x, verbose=0, **kwargs)


def everything_predicted(ensemble):
    return [predicted(ensemble), ensemble.predict_members(X), ensemble.predict_spread(X)]


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"members": 0}, ValueError, r"Invalid `members`.*Received: members=0"),
        ({"members": 2.0}, TypeError, r"Invalid `members`.*Received: members=2.0"),
        ({"members": True}, TypeError, r"Invalid `members`.*Received: members=True"),
        ({"noise": -1.0}, ValueError, r"Invalid `noise`.*Received: noise=-1.0"),
        ({"noise": "x"}, TypeError, r"Invalid `noise`.*Received: noise='x'"),
        (
            {"noise": keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)},
            TypeError,
            r"Expected a magnitude that is a number.*Received: noise=",
        ),
        ({"noise": {"head": 0.1, "nowhere": 0.2}}, ValueError, r"`noise` matches no.*nowhere"),
        ({"variables": "nowhere"}, ValueError, r"`variables` matches no.*nowhere"),
        ({"variables": 3}, TypeError, r"Invalid `variables`.*Received: variables=3"),
        ({"exclude": "nowhere"}, ValueError, r"`exclude` matches no.*nowhere"),
        ({"exclude": ".*"}, ValueError, r"is left to perturb.*Received: .*exclude=\.\*"),
        ({"seed": -1}, ValueError, r"Invalid `seed`.*Received: seed=-1"),
        ({"model": None}, TypeError, r"Invalid `model`.*Received: model=None"),
        (
            {"model": keras.Sequential([layers.Dense(2)])},
            ValueError,
            r"Expected a built model",
        ),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        WeightNoiseEnsemble(**{"model": mlp(), "noise": 0.1, **arguments})


class Returning(keras.Model):
    """Returns what a function makes of its outputs."""

    def __init__(self, function):
        super().__init__()
        self.dense = layers.Dense(3)
        self.function = function

    def call(self, inputs):
        return self.function(self.dense(inputs))


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (tf.RaggedTensor.from_tensor, "Expected dense tensors.*of type RaggedTensor"),
        (tf.sparse.from_dense, "Expected dense tensors.*of type SparseTensor"),
        (lambda y: {"a": y, "b": None}, "Expected dense tensors.*of type NoneType"),
        (tf.as_string, "Expected tensors of real numbers.*dtype 'string'"),
        (lambda y: tf.complex(y, y), "Expected tensors of real numbers.*dtype 'complex64'"),
    ],
    ids=["ragged", "sparse", "none", "strings", "complex"],
)
def test_outputs_without_a_mean(function, message):
    """Of complex ones it was that of the real parts, without a word."""
    model = Returning(function)
    model.dense.build((None, 4))
    model.built = True
    with pytest.raises(TypeError, match=message):
        WeightNoiseEnsemble(model, 0.1, members=2)(X)


def test_an_unknown_keyword_is_an_error():
    with pytest.raises(ValueError, match="unit"):
        WeightNoiseEnsemble(mlp(), 0.1, unit=3)


# Members.


def frozen():
    model = mlp()
    model.trainable = False
    return model, X


def convolutional():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.SeparableConv2D(3, 2),
            layers.Dropout(0.5),
            layers.Flatten(),
            mlp_of(3),
        ]
    )
    return model, RNG.normal(size=(7, 6, 6, 2)).astype("float32")


def mlp_of(units):
    return keras.Sequential([layers.Dense(5, activation="relu"), layers.Dense(units)])


def recurrent():
    tokens = keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True)(tokens)
    x = layers.GRU(3, return_sequences=True)(x)
    return keras.Model(
        tokens, layers.Dense(2)(layers.MultiHeadAttention(2, 3)(x[:, :2], x[:, :2]))
    ), RNG.integers(0, 9, (7, 5))


def several():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((2,), name="b")}
    shared = layers.Dense(3)
    hidden = layers.Concatenate()([shared(inputs["a"]), layers.Dense(4)(inputs["b"])])
    outputs = {"class": layers.Dense(3, activation="softmax")(hidden), "value": [hidden, hidden]}
    return keras.Model(inputs, outputs), {"a": X, "b": X[:, :2]}


@keras.saving.register_keras_serializable(package="test_ensemble")
class Subclassed(keras.Model):
    """Takes no `training`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(2)
        self.dropout = layers.Dropout(0.5)

    def call(self, inputs):
        return self.dropout(self.inner(inputs)), keras.ops.sum(inputs, -1)


def subclassed():
    model = Subclassed()
    model(X)
    return model, X


def plain():
    return mlp(), X


AS_WRITTEN = pytest.mark.as_written
MODELS = [
    plain,
    pytest.param(frozen, marks=AS_WRITTEN),
    pytest.param(convolutional, marks=AS_WRITTEN),
    pytest.param(recurrent, marks=AS_WRITTEN),
    pytest.param(several, marks=AS_WRITTEN),
    subclassed,
]
SETTINGS = [
    ({}, 0.3),
    ({"variables": "kernels", "seed": 5}, noises.Uniform(0.3, relative_to="std")),
    ({"exclude": "bias"}, [("head", noises.BitFlip(0.1)), (None, 0.2)]),
]


@pytest.mark.slow
@pytest.mark.parametrize("make", MODELS)
def test_members_are_the_draws_of_perturbed_weights(make):
    model, x = make()
    before = model.get_weights()
    ensemble = WeightNoiseEnsemble(model, 0.3, 3)
    batches = {"batch_size": 4} if make is plain else {}  # The last is smaller: another trace.
    members = ensemble.predict_members(x, **batches)
    mean = predicted(ensemble, x, **batches)
    assert fits.same(before, model.get_weights())
    expected = draws(model, 0.3, 3, lambda m: predicted(m, x), seed=0)
    close(members, expected)
    close(mean, keras.tree.map_structure(lambda each: each.mean(0), expected))
    for each in keras.tree.flatten(members)[:1]:
        assert np.all(np.std(each, axis=0).max(axis=0) > 1e-4)


@pytest.mark.as_written
@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "noise"), SETTINGS)
def test_noise_and_selectors(arguments, noise):
    model = mlp()
    members = WeightNoiseEnsemble(model, noise, 4, **arguments).predict_members(X)
    close(members, draws(model, noise, 4, predicted, **{"seed": 0, **arguments}))


@pytest.mark.any_version
@pytest.mark.slow
def test_different_noise_for_different_variables():
    model = mlp()
    noise = {"head": noises.Uniform(0.2), None: 0.1}
    members = WeightNoiseEnsemble(model, noise, 4, exclude="bias").predict_members(X)
    close(members, draws(model, noise, 4, predicted, exclude="bias", seed=0))
    both = draws(model, 0.1, 4, predicted, exclude="bias", seed=0)
    assert np.max(np.abs(members - both)) > 1e-3


@pytest.mark.any_version
@pytest.mark.slow
def test_members_differ_by_seed_and_agree_with_it():
    model = mlp()
    a, b, c = (WeightNoiseEnsemble(model, 0.3, 3, seed=s).predict_members(X) for s in (1, 1, 2))
    assert fits.same([a], [b])
    assert np.min(np.std([a, c], axis=0).max(axis=(1, 2))) > 1e-3
    seeds = {WeightNoiseEnsemble(model, 0.3, 3, seed=None).seed for _ in range(2)}
    assert len(seeds) == 2


@pytest.mark.as_written
@pytest.mark.slow
def test_inputs_whose_shape_is_not_known():
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, layers.Dense(3)(inputs))
    ensemble = WeightNoiseEnsemble(model, 0.3, 3)
    for shape in [(5, 4, 2), (5, 7, 2)]:
        x = RNG.normal(size=shape).astype("float32")
        close(predicted(ensemble, x), ensemble.predict_members(x).mean(0))


# Mean and spread.


def entropy(p):
    return -np.sum(p * np.log(p), axis=-1)


@pytest.mark.any_version
@pytest.mark.slow
def test_spread_of_probabilities():
    ensemble = WeightNoiseEnsemble(mlp(), 0.5, 5)
    members = ensemble.predict_members(X).astype("float64")
    spread = ensemble.predict_spread(X, batch_size=4)
    mean = members.mean(0)
    close(spread.mean, mean)
    assert fits.same([spread.mean], [predicted(ensemble, batch_size=4)])
    close(spread.stddev, members.std(0))
    close(spread.predictive_entropy, entropy(mean))
    close(spread.mutual_information, entropy(mean) - entropy(members).mean(0))
    assert np.min(spread.mutual_information) > 0.0


@pytest.mark.as_written
@pytest.mark.slow
def test_spread_of_several_outputs():
    model, x = several()
    ensemble = WeightNoiseEnsemble(model, 0.3, 4)
    members, spread = ensemble.predict_members(x), ensemble.predict_spread(x)
    close(spread.stddev, keras.tree.map_structure(lambda each: each.std(0), members))
    for entropies in (spread.predictive_entropy, spread.mutual_information):
        assert entropies["value"] == [None, None]
        assert entropies["class"].shape == (10,)


@pytest.mark.as_written
@pytest.mark.slow
@pytest.mark.parametrize(
    ("last", "known"),
    [
        ([layers.Dense(3)], False),
        ([layers.Dense(3, activation="sigmoid")], False),
        ([layers.Dense(1)], False),
        ([layers.Dense(3), layers.Lambda(lambda x: x / keras.ops.sum(x, -1, True))], False),
        ([layers.Dense(1), layers.Flatten(), layers.Lambda(lambda x: x[:, 0])], False),
        ([layers.Dense(6), layers.Reshape((2, 3)), layers.Softmax()], True),
        (
            [
                layers.Dense(3),
                layers.Lambda(lambda x: keras.ops.one_hot(keras.ops.argmax(x, -1), 3)),
            ],
            True,
        ),
        ([layers.Dense(3, dtype="bfloat16"), layers.Softmax(dtype="bfloat16")], True),
    ],
)
def test_entropies_are_those_of_probabilities_only(last, known):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spread = WeightNoiseEnsemble(mlp(*last), 0.5, 5).predict_spread(X)
    if known:
        assert spread.mutual_information.shape == spread.mean.shape[:-1]
        assert np.all(np.isfinite(spread.predictive_entropy))
        assert np.all(spread.mutual_information >= 0.0)
    else:
        assert spread.predictive_entropy is None
        assert spread.mutual_information is None


class Shift(layers.Layer):
    def build(self, input_shape):
        self.shift = self.add_weight(shape=(1,), initializer="zeros")

    def call(self, inputs):
        return inputs + self.shift


@pytest.mark.as_written
@pytest.mark.slow
@pytest.mark.parametrize(
    "last",
    [
        [layers.Dense(1, activation="sigmoid")],
        [layers.Dense(1, activation="sigmoid"), layers.Reshape(())],
        [layers.Dense(4, activation="sigmoid"), layers.Reshape((4, 1))],
    ],
)
def test_a_single_sigmoid_is_a_distribution_over_two_classes(last):
    ensemble = WeightNoiseEnsemble(mlp(*last), 0.5, 5)
    p = ensemble.predict_members(X).astype("float64").reshape(5, 10, -1)
    both = np.stack([1 - p, p], -1)
    spread = ensemble.predict_spread(X)
    shape = (10, 4) if p.shape[-1] == 4 else (10,)
    close(spread.predictive_entropy, entropy(both.mean(0)).reshape(shape))
    information = entropy(both.mean(0)) - entropy(both).mean(0)
    close(spread.mutual_information, information.reshape(shape))
    assert np.all(spread.mutual_information > 0.0)


@pytest.mark.as_written
@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "noise", "known"),
    [
        ([0.5, 0.5], 0.0, True),
        ([1.0, 0.0], 0.0, True),
        ([0.504, 0.504], 0.0, True),
        ([0.9, 0.2], 0.0, False),
        ([0.3, 0.3], 0.0, False),
        ([1.1, -0.1], 0.0, False),
        ([np.nan, 0.5], 0.0, False),
        ([0.5, 0.5], 0.3, False),  # Members are looked at: with opposite shifts, the mean is one.
    ],
)
def test_one_row_that_is_no_distribution_is_noticed(row, noise, known):
    x = np.full((5, 2), 0.5, "float32")
    x[3] = row
    model = keras.Sequential([keras.Input((2,)), Shift()])
    ensemble = WeightNoiseEnsemble(model, noises.Rademacher(noise), 2, seed=opposite(model))
    assert (ensemble.predict_spread(x).mutual_information is not None) == known


def opposite(model):
    """A seed of which the first two draws cancel out."""
    for seed in range(100):
        ensemble = WeightNoiseEnsemble(model, noises.Rademacher(1.0), 2, seed=seed)
        if float(ensemble(np.zeros((1, 2), "float32"))[0, 0]) == 0.0:
            return seed
    raise AssertionError


def test_a_small_spread_around_a_large_mean():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Rescaling(1.0, offset=1e4)(layers.Dense(3)(inputs)))
    ensemble = WeightNoiseEnsemble(model, 0.1, 50)
    members = ensemble.predict_members(X).astype("float64")
    spread = ensemble.predict_spread(X)
    assert isinstance(spread, EnsembleSpread)
    np.testing.assert_allclose(spread.stddev, members.std(0), rtol=1e-2)
    np.testing.assert_allclose(spread.mean, members.mean(0), rtol=3e-7)


@pytest.mark.parametrize("members", [1, 3])
def test_without_noise_it_is_the_model_bit_for_bit(members):
    model = mlp()
    ensemble = WeightNoiseEnsemble(model, 0.0, members)
    spread = ensemble.predict_spread(X)
    close(predicted(ensemble), predicted(model))
    assert fits.same([predicted(ensemble)] * members, list(ensemble.predict_members(X)))
    assert np.all(spread.stddev == 0.0)


@pytest.mark.any_version
@pytest.mark.slow
def test_one_member():
    model = mlp()
    ensemble = WeightNoiseEnsemble(model, 0.3, 1)
    expected = draws(model, 0.3, 1, predicted, seed=0)
    close(ensemble.predict_members(X), expected)
    close(predicted(ensemble), expected[0])


# Data, cost.


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return (X[4 * i : 4 * i + 4],)


def endless():
    while True:
        yield (X[:5],)
        yield (X[5:],)


DATA = {
    "tensor": lambda: ((tf.constant(X),), {}),
    "batch_size": lambda: ((X,), {"batch_size": 3}),
    "tf.data": lambda: ((tf.data.Dataset.from_tensor_slices(X).batch(4),), {}),
    "tf.data with labels": lambda: ((tf.data.Dataset.from_tensor_slices((X, Y)).batch(4),), {}),
    "PyDataset": lambda: ((Batches(),), {}),
    "generator": lambda: ((endless(),), {"steps": 2}),
}


@pytest.mark.as_written
@pytest.mark.slow
def test_data_of_any_form():
    ensemble = WeightNoiseEnsemble(mlp(), 0.3, 3)  # One for all: each would trace anew.
    members, spread = ensemble.predict_members(X), ensemble.predict_spread(X)
    for name, form in DATA.items():
        for method, expected in [
            (ensemble.predict, members.mean(0)),
            (ensemble.predict_members, members),
            (ensemble.predict_spread, spread),  # Cuts data as `predict_members` does.
        ][: 3 if name == "tf.data with labels" else 2]:
            x, arguments = form()
            close(method(*x, verbose=0, **arguments), expected)


class Counted(layers.Dense):
    calls = 0

    def call(self, inputs):
        type(self).calls += 1
        return super().call(inputs)


@pytest.mark.as_written
@pytest.mark.slow
@pytest.mark.parametrize("method", ["predict", "predict_members", "predict_spread"])
def test_a_second_call_traces_nothing(method):
    ensemble = WeightNoiseEnsemble(mlp(Counted(3)), 0.3, 7)
    Counted.calls = 0
    getattr(ensemble, method)(X, verbose=0)
    assert Counted.calls == 1  # Members are a loop of the graph, not of Python.
    for _ in range(2):
        getattr(ensemble, method)(X + 1, verbose=0)
        ensemble.magnitude = 0.1
    assert Counted.calls == 1


@pytest.mark.as_written
@pytest.mark.slow
def test_one_trace_of_the_model_serves_all_predictions():
    ensemble = WeightNoiseEnsemble(mlp(Counted(3)), 0.3, 7)
    ensemble.compile(loss="mse", jit_compile=False)
    Counted.calls = 0
    results = [predicted(ensemble), ensemble.predict_members(X), ensemble.predict_spread(X)]
    assert Counted.calls == 1
    close(results[0], results[1].mean(0))
    close(results[0], results[2].mean)
    ensemble.compile(jit_compile=False)  # As after a change of the model.
    predicted(ensemble)
    assert Counted.calls == 2


def graph_size(members):
    ensemble = WeightNoiseEnsemble(mlp(), 0.3, members)
    function = tf.function(ensemble).get_concrete_function(tf.TensorSpec((None, 4)))
    definition = function.graph.as_graph_def()
    return len(definition.node), sorted(len(f.node_def) for f in definition.library.function)


def test_the_graph_does_not_grow_with_the_members():
    assert graph_size(2) == graph_size(100)


def test_all_members_are_calls_of_one_function():
    """Not inlined, and with no constant argument: TensorFlow would optimize it for each call."""
    ensemble = WeightNoiseEnsemble(mlp(), 0.3, members=3)
    graph = tf.function(ensemble).get_concrete_function(tf.TensorSpec((None, 4))).graph
    (loop,) = (op for op in graph.get_operations() if op.type in ("While", "StatelessWhile"))
    calls = {"PartitionedCall", "StatefulPartitionedCall"}
    (first,) = (op for op in graph.get_operations() if op.type in calls)
    assert "Const" not in {each.op.type for each in first.inputs}
    library = {f.signature.name: f for f in graph.as_graph_def().library.function}
    body = library[loop.get_attr("body").name]
    (later,) = (node for node in body.node_def if node.op in calls)
    assert later.attr["f"].func.name == first.get_attr("f").name
    assert library[first.get_attr("f").name].attr["_noinline"].b


# Ways to call it.


@pytest.mark.slow
def test_eager_and_in_functions_and_under_xla():
    model = mlp()
    ensemble = WeightNoiseEnsemble(model, 0.3, 3)
    expected = draws(model, 0.3, 3, predicted, seed=0).mean(0)
    close(ensemble(X), expected)
    close(tf.function(ensemble)(X), expected)
    close(tf.function(ensemble, jit_compile=True)(X), expected)
    inputs = keras.Input((4,))
    close(predicted(keras.Model(inputs, ensemble(inputs))), expected)


@pytest.mark.as_written
@pytest.mark.slow
def test_compile_settings_count_for_every_prediction():
    ensemble = WeightNoiseEnsemble(mlp(Counted(3)), 0.3, 3)
    results = everything_predicted(ensemble)
    for settings, calls in [({"jit_compile": True}, 1), ({"run_eagerly": True}, 9)]:
        ensemble.compile(**settings)
        Counted.calls = 0
        close(everything_predicted(ensemble), results)
        assert Counted.calls == calls


@pytest.mark.slow
def test_replicas():
    with fits.strategy().scope():
        model = mlp()
        ensemble = WeightNoiseEnsemble(model, 0.3, 3)
    members = ensemble.predict_members(X)
    close(members, draws(model, 0.3, 3, predicted, seed=0))
    close(predicted(ensemble), members.mean(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "last", "dtypes"),
    [
        ("mixed_bfloat16", "mixed_bfloat16", ["bfloat16", "float32"]),
        pytest.param("float16", "float16", ["float16", "float32"], marks=AS_WRITTEN),
        pytest.param("float64", "float64", ["float64", "float64"], marks=AS_WRITTEN),
        pytest.param("mixed_bfloat16", "float32", ["float32", "float32"], marks=AS_WRITTEN),
    ],
)
def test_precision(policy, last, dtypes):
    keras.config.set_dtype_policy(policy)
    model = mlp(layers.Dense(3, dtype=last))
    ensemble = WeightNoiseEnsemble(model, 0.3, 3)
    members, mean = ensemble.predict_members(X), predicted(ensemble)
    assert [members.dtype.name, mean.dtype.name, ensemble(X).dtype.name] == [*dtypes, dtypes[1]]
    expected = draws(model, 0.3, 3, predicted, seed=0).astype("float64")
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if "16" in policy else {}
    close(members.astype("float64"), expected, **tolerance)
    close(mean, members.astype("float64").mean(0))


@pytest.mark.as_written
@pytest.mark.slow
def test_inputs_reach_the_model_as_they_are():
    model = mlp()
    keras.config.set_dtype_policy("mixed_bfloat16")
    ensemble = WeightNoiseEnsemble(model, 0.3, 3)
    expected = draws(model, 0.3, 3, predicted, seed=0)
    close(ensemble.predict_members(X), expected)
    close(predicted(ensemble), expected.mean(0))


@pytest.mark.slow
def test_training_is_passed_on():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), layers.BatchNormalization(momentum=0.5)]
    )
    model.add(layers.Dropout(0.5))
    ensemble = WeightNoiseEnsemble(model, 0.0, 3)
    average = model.layers[1].moving_mean
    for call in (ensemble, tf.function(ensemble)):
        before = average.numpy()
        close(call(X), model(X))
        assert fits.same([before], [average.numpy()])
        output = call(X, training=True)
        assert np.mean(output == 0.0) < 0.3  # Each member drops others.
        assert len(np.unique(np.round(output / call(X), 2))) > 3
        # As one call leaves it, however many members have one each.
        target = np.mean(model.layers[0](X), axis=0)
        close(average.numpy(), target + (before - target) * 0.5)


# The magnitude.


@pytest.mark.as_written
@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "magnitude", "other", "expected"),
    [
        (0.3, 0.3, 0.1, 0.1),
        (0.3, 0.3, [0.0], 0.0),
        (0.0, 0.0, 0.2, 0.2),
        (noises.DropConnect(0.1), 0.1, 0.5, noises.DropConnect(0.5)),
        (
            noises.Uniform(0.1, relative_to="std") + noises.StuckAt(0.2),
            (0.1, 0.2),
            (0.4, 0.0),
            noises.Uniform(0.4, relative_to="std") + noises.StuckAt(0.0),
        ),
        (
            {"head": 0.1, None: noises.LogNormal(0.2)},
            (0.1, 0.2),
            [0.3, 0.0],
            {"head": 0.3, None: noises.LogNormal(0.0)},
        ),
    ],
)
def test_the_magnitude_can_be_set(tmp_path, noise, magnitude, other, expected):
    model = mlp()
    ensemble = WeightNoiseEnsemble(model, noise, 3)
    assert ensemble.magnitude == magnitude
    before = everything_predicted(ensemble)
    ensemble.magnitude = other
    assert ensemble.magnitude == WeightNoiseEnsemble(model, expected, 3).magnitude
    members = draws(model, expected, 3, predicted, seed=0)
    mean, found, spread = everything_predicted(ensemble)
    close([mean, found, *spread[:2]], [members.mean(0), members, members.mean(0), members.std(0)])
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    close(loaded(X), members.mean(0))
    ensemble.magnitude = magnitude
    close(everything_predicted(ensemble), before)


@pytest.mark.as_written
@pytest.mark.slow
def test_a_variable_as_magnitude():
    model = mlp()
    scale = tf.Variable(0.1)
    ensemble = WeightNoiseEnsemble(model, noises.Gaussian(scale), 3)
    for value in (0.1, 0.4):
        scale.assign(value)
        close(predicted(ensemble), draws(model, value, 3, predicted, seed=0).mean(0))
    ensemble.magnitude = 0.1
    close(predicted(ensemble), draws(model, 0.1, 3, predicted, seed=0).mean(0))


@pytest.mark.as_written
@pytest.mark.slow
def test_a_magnitude_that_decides_what_is_drawn():
    """Where all weights are quantized, nothing is drawn; where some are, it is."""
    model = mlp()
    ensemble = WeightNoiseEnsemble(model, noises.Quantization(3, probability=1.0), 3)
    for fraction in (1.0, 0.5, 1.0):
        ensemble.magnitude = fraction
        other = noises.Quantization(3, probability=fraction)
        expected = draws(model, other, 3, predicted, seed=0)
        close(ensemble.predict_members(X), expected)
        close(predicted(ensemble), expected.mean(0))


@pytest.mark.parametrize(
    ("noise", "magnitude", "error", "message"),
    [
        (0.1, -1.0, ValueError, r"Invalid `stddev`.*Received: stddev=-1"),
        (noises.DropConnect(0.1), 2.0, ValueError, r"Invalid `\w+`.*Received: \w+=2"),
        (0.1, "much", TypeError, r"Invalid `magnitude`. Expected a number.*magnitude='much'"),
        (0.1, [0.1, 0.2], ValueError, r"Invalid `magnitude`. Expected a number"),
        (
            noises.Uniform(0.1) + noises.StuckAt(0.1),
            0.1,
            ValueError,
            r"Expected 2 numbers, one for",
        ),
        ({"head": 0.1, None: 0.2}, [0.1, "x"], TypeError, r"Expected 2 numbers, one for each of"),
    ],
)
def test_bad_magnitudes(noise, magnitude, error, message):
    ensemble = WeightNoiseEnsemble(mlp(), noise, 3)
    before, expected = ensemble.magnitude, ensemble(X)
    with pytest.raises(error, match=message):
        ensemble.magnitude = magnitude
    assert ensemble.magnitude == before
    close(ensemble(X), expected)


# What calls change beside the weights.


class Averages(layers.Layer):
    """Keeps a running mean of what it sees, in inference too, and a count where Keras does not look."""

    def build(self, shape):
        self.mean = self.add_weight(shape=(shape[-1],), trainable=False)
        self.count = [tf.Variable(0.0)]

    def call(self, x):
        self.mean.assign(0.5 * (self.mean + keras.ops.mean(x, range(len(x.shape) - 1))))
        self.count[0].assign_add(1.0)
        return x + self.mean + self.count[0]


class Traced(layers.Layer):
    """Assigns in a `tf.function`, which may be traced long before."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), trainable=False)

    @tf.function
    def call(self, x):
        self.count.assign(self.count + 1)
        return x * self.count


STATEFUL = {
    "LSTM": (lambda: [layers.LSTM(4, stateful=True)], {}),
    "cells": (
        lambda: [layers.RNN([layers.GRUCell(3), layers.LSTMCell(4)], stateful=True)],
        {},
    ),
    "own": (lambda: [Averages(), layers.Flatten()], {}),
    "tf.function": (lambda: [Traced(), layers.Flatten()], {}),
    "BatchNormalization": (
        lambda: [layers.BatchNormalization(), layers.Flatten()],
        {"training": True},
    ),
    "SpectralNormalization": (
        lambda: [layers.SpectralNormalization(layers.Dense(3, name="sn")), layers.Flatten()],
        {"training": True},
    ),
}
SEQUENCES = RNG.normal(size=(4, 5, 3)).astype("float32")


def stateful(make):
    return keras.Sequential([keras.Input(batch_shape=(4, 5, 3)), *make(), layers.Dense(2)])


def everything(model):
    return [np.array(v) for v in reachable_variables(model)]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "arguments"), STATEFUL.values(), ids=STATEFUL)
@pytest.mark.parametrize("how", ["eager", "graph", "XLA"])
def test_a_call_leaves_the_state_of_one_call_of_the_model(make, arguments, how):
    if how == "XLA" and make is STATEFUL["own"][0]:
        pytest.skip("its own variable is TensorFlow's, which XLA does not update in a loop")
    model = stateful(make)
    model(SEQUENCES)
    x = tf.constant(SEQUENCES)
    start = Snapshot(reachable_variables(model))
    expected = [np.array(model(x, **arguments)) for _ in range(2)]
    after = everything(model)
    ensemble = WeightNoiseEnsemble(
        model, 0.0, 3, variables=lambda variable: "sn/" not in variable.path
    )
    call = {"eager": ensemble, "graph": tf.function(ensemble)}.get(how)
    call = call or tf.function(ensemble, jit_compile=True)
    for magnitude in (0.0, 0.5):
        ensemble.magnitude = magnitude
        start.restore()
        for each in expected:  # The second goes on where the first call ended.
            if magnitude == 0.0:
                close(call(x, **arguments), each)
            else:
                assert np.any(np.abs(call(x, **arguments) - each) > 1e-3)
        close(everything(model), after)


@pytest.mark.as_written
@pytest.mark.slow
def test_predictions_leave_the_state_of_one_prediction():
    model = stateful(STATEFUL["LSTM"][0])
    x = np.concatenate([SEQUENCES, 2 * SEQUENCES])
    start = Snapshot(reachable_variables(model))
    expected = model.predict(x, batch_size=4, verbose=0)
    after = everything(model)
    ensemble = WeightNoiseEnsemble(model, 0.0, 3)
    for magnitude in (0.0, 0.5):
        ensemble.magnitude = magnitude
        for method in (ensemble.predict, ensemble.predict_members, ensemble.predict_spread):
            start.restore()
            results = method(x, batch_size=4, verbose=0)
            close(everything(model), after)
            if magnitude == 0.0 and method == ensemble.predict_members:
                close(results, np.stack([expected] * 3))


def test_members_drop_others_in_every_call():
    model = keras.Sequential([keras.Input((400,)), layers.Dropout(0.5), layers.Dense(400)])
    model.layers[1].set_weights([np.eye(400), np.zeros(400)])
    ensemble = WeightNoiseEnsemble(model, 0.0, 2)
    x = tf.ones((1, 400))
    states = seed_variables(model)
    start = Snapshot(states)
    masks = [np.array(ensemble(x, training=True)) for _ in range(3)]
    seeds = [np.array(v) for v in states]
    start.restore()
    first = [np.array(model(x, training=True)) for _ in range(3)]
    assert fits.same(seeds, [np.array(v) for v in states])
    # The first member drops what the model does; the second of no call what a member of another does.
    second = [2 * mask - each for mask, each in zip(masks, first, strict=True)]
    drawn = np.concatenate([*first, *second])
    assert set(np.unique(drawn)) == {0.0, 2.0}
    correlations = np.corrcoef(drawn) - np.eye(6)
    assert np.max(np.abs(correlations)) < 0.25


# Compiled, fitted, saved.


@pytest.mark.as_written
@pytest.mark.slow
def test_evaluate():
    ensemble = WeightNoiseEnsemble(mlp(), 0.5, 5)
    ensemble.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    mean = ensemble.predict_members(X).mean(0)
    expected = [-np.mean(np.log(mean[np.arange(10), Y])), np.mean(mean.argmax(1) == Y)]
    close(ensemble.evaluate(X, Y, verbose=0), expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_losses_that_layers_add_are_averaged(jit_compile):
    def evaluated(model):
        model.compile(loss=fits.mean_output, jit_compile=jit_compile)
        return model.evaluate(X, np.zeros((10, 3)), batch_size=10, verbose=0)

    head = layers.Dense(3, activity_regularizer="l2", kernel_regularizer="l1", name="head")
    model = mlp(head)
    ensemble = WeightNoiseEnsemble(model, 0.5, 3, exclude="kernel")
    results = draws(model, 0.5, 3, evaluated, exclude="kernel", seed=0)
    assert results.shape == (3,)
    assert evaluated(ensemble) == pytest.approx(np.mean(results), rel=1e-5)
    ensemble(X)
    assert len(ensemble.losses) == 2


@pytest.mark.slow
def test_fit_trains_the_model_through_the_mean():
    model, other = fits.linear(), fits.linear()
    other.set_weights(model.get_weights())
    ensemble = WeightNoiseEnsemble(model, 0.5, 3)
    for each in (ensemble, other):
        each.compile(keras.optimizers.SGD(0.1), loss=fits.mean_output)
        each.fit(fits.X, np.zeros((12, 2)), batch_size=4, shuffle=False, verbose=0)
    # The loss is linear in the weights: had they kept noise, they would differ.
    close(model.get_weights(), other.get_weights())
    assert [id(v) for v in ensemble.variables] == [id(v) for v in model.variables]


@pytest.mark.as_written
@pytest.mark.slow
def test_it_follows_its_model():
    model = mlp()
    ensemble = WeightNoiseEnsemble(model, 0.3, 3)
    predicted(ensemble)
    model.set_weights([w + 1 for w in model.get_weights()])
    close(predicted(ensemble), draws(model, 0.3, 3, predicted, seed=0).mean(0))


@keras.saving.register_keras_serializable(package="test_ensemble")
def is_kernel(variable):
    return variable.name == "kernel"


@pytest.mark.as_written
@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "arguments"),
    [
        (0.3, {"seed": 7, "name": "crowd"}),
        (noises.Uniform(0.3, relative_to="std") + noises.DropConnect(0.1), {"seed": None}),
        ({"head": 0.1, None: noises.LogNormal(0.2)}, {"exclude": ["bias"]}),
        (
            [(is_kernel, 0.1), (["head", "dense"], 0.2)],
            {"variables": is_kernel, "exclude": "xx|bias"},
        ),
    ],
)
def test_it_saves_and_loads(tmp_path, noise, arguments):
    if "variables" in arguments:
        noise = [noise[0]]
    ensemble = WeightNoiseEnsemble(mlp(), noise, 3, **arguments)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert (loaded.name, loaded.members, loaded.seed) == (ensemble.name, 3, ensemble.seed)
    assert loaded.get_config().keys() == ensemble.get_config().keys()
    members = ensemble.predict_members(X)
    close(loaded.predict_members(X), members)
    close(predicted(loaded), members.mean(0))
    close(copy.deepcopy(ensemble)(X), members.mean(0))


@pytest.mark.as_written
@pytest.mark.slow
@pytest.mark.parametrize("make", [several, subclassed])
def test_it_saves_before_it_is_called(tmp_path, make):
    model, x = make()
    ensemble = WeightNoiseEnsemble(model, 0.3, 3)
    assert ensemble.count_params() == model.count_params()
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    close(predicted(loaded, x), predicted(ensemble, x))


@pytest.mark.as_written
@pytest.mark.slow
def test_it_saves_compiled_with_a_model_trained_and_compiled(tmp_path):
    model = mlp()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X, Y, verbose=0)
    ensemble = WeightNoiseEnsemble(model, 0.3, 3)
    assert not ensemble.compiled
    ensemble.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    ensemble.fit(X, Y, verbose=0)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    close(loaded.evaluate(X, Y, verbose=0), ensemble.evaluate(X, Y, verbose=0))


@pytest.mark.as_written
@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise", "variables", "exclude"])
def test_a_layer_as_selector_works_but_cannot_be_saved(tmp_path, name):
    model = mlp()
    head = model.get_layer("head")
    arguments = {"noise": 0.3, name: {head: 0.3} if name == "noise" else [head]}
    ensemble = WeightNoiseEnsemble(model, members=3, **arguments)
    assert ensemble.layers == [model]
    by_path = {"noise": 0.3, name: {"head": 0.3} if name == "noise" else "head"}
    close(
        ensemble.predict_members(X), draws(model, members=3, predict=predicted, seed=0, **by_path)
    )
    with pytest.raises(ValueError, match=f"cannot be saved.*Received: {name}="):
        ensemble.save(tmp_path / "ensemble.keras")


def tokens():
    ids = keras.Input((7,), dtype="int32", name="ids")
    hidden = layers.Flatten()(layers.Embedding(20, 4)(ids))
    return keras.Model(ids, layers.Dense(1)(hidden)), np.arange(28, dtype="int32").reshape(
        4, 7
    ) % 20


def images():
    parts = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(2)]
    model = keras.Sequential([keras.Input((3, 3, 1), dtype="uint8", name="pixels"), *parts])
    return model, RNG.integers(0, 255, (4, 3, 3, 1)).astype("uint8")


def served(loaded, x):
    try:
        return loaded.serve(x)
    except TypeError:  # Keras 3.5 exports a dict of inputs as a list, of every model.
        return loaded.serve(keras.tree.flatten(x))


def texts():
    inputs = keras.Input((), dtype="string", name="text")
    vectorize = layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3)
    # No `Flatten`: Keras 3.5 cannot predict with it here, with the plain model neither.
    outputs = layers.Dense(2)(layers.Reshape((6,))(layers.Embedding(5, 2)(vectorize(inputs))))
    return keras.Model(inputs, outputs), tf.constant(["a b", "b c"])


def mixed_inputs():
    inputs = {"b": keras.Input((2,), name="b"), "a": keras.Input((), dtype="int64", name="a")}
    hidden = layers.Concatenate()([layers.Embedding(5, 3)(inputs["a"]), inputs["b"]])
    x = {"a": np.arange(4), "b": X[:4, :2]}
    return keras.Model(inputs, {"out": layers.Dense(2)(hidden)}), x


def listed():
    inputs = [keras.Input((4,), name="second"), keras.Input((2,), name="first")]
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(inputs))), [X, X[:, :2]]


def deferred():
    model = keras.Sequential([layers.Dense(3), layers.BatchNormalization()])
    model(X)
    return model, X


def half():
    return keras.Sequential([keras.Input((4,), dtype="float16"), layers.Dense(2)]), X.astype(
        "float16"
    )


def double_subclass():
    model = Subclassed(dtype="float64")
    model(X)
    return model, X.astype("float64")


def signatures(path):
    loaded = tf.saved_model.load(path)
    function = loaded.signatures["serving_default"]
    return loaded, (
        loaded.serve.input_signature if hasattr(loaded.serve, "input_signature") else None,
        function.structured_input_signature,
        function.structured_outputs,
    )


@pytest.mark.as_written
@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: (mlp(), X),
        tokens,
        images,
        texts,
        mixed_inputs,
        listed,
        deferred,
        half,
        subclassed,
        double_subclass,
    ],
    ids=str,
)
def test_it_exports_with_the_inputs_of_the_model(tmp_path, make):
    model, x = make()
    model.compile("adam", "mse")  # Metrics are no part of what is exported.
    model.export(tmp_path / "model")
    ensemble = WeightNoiseEnsemble(model, 0.3, 3)
    expected = ensemble(x)
    ensemble.export(tmp_path / "ensemble")
    loaded, found = signatures(tmp_path / "ensemble")
    inputs = signatures(tmp_path / "model")[1][:2]
    assert found[:2] == inputs
    close(served(loaded, x), expected)
    ensemble.magnitude = 0.0  # What is exported keeps its own.
    close(served(loaded, x), expected)
    ensemble(x)
    close(ensemble.get_weights(), model.get_weights())


# What substitution cannot reach.


class Compiled(layers.Dense):
    @tf.function
    def call(self, inputs):
        return super().call(inputs)


def saved_model(path):
    inner = mlp()
    inner.export(path)
    layer = layers.TFSMLayer(path, call_endpoint="serve")
    return keras.Sequential([keras.Input((4,)), layer])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda path: mlp(Compiled(3, name="compiled")), "'compiled'"),
        (lambda path: saved_model(str(path / "saved")), "'tfsm_layer"),
    ],
    ids=["tf.function", "TFSMLayer"],
)
@pytest.mark.parametrize("method", ["predict", "predict_members", "predict_spread", "__call__"])
def test_what_noise_does_not_reach_is_named(tmp_path, make, name, method):
    model = make(tmp_path)
    before = [v.numpy() for v in model.trainable_variables]
    ensemble = WeightNoiseEnsemble(model, 0.1, 3)
    with pytest.raises(ValueError, match=f"cannot be applied to the layer.*({name})"):
        getattr(ensemble, method)(X)
    assert fits.same(before, [v.numpy() for v in model.trainable_variables])


@pytest.mark.slow
def test_a_layer_that_assigns_its_kernel_in_training_is_named():
    model = mlp(layers.SpectralNormalization(layers.Dense(3)))
    ensemble = WeightNoiseEnsemble(model, 0.1, 3)
    before = [v.numpy() for v in model.trainable_variables]
    assert ensemble.predict_members(X).shape == (3, 10, 3)
    with pytest.raises(ValueError, match=r"is assigned in the call itself"):
        ensemble(X, training=True)
    assert fits.same(before, [v.numpy() for v in model.trainable_variables])


class Branches(keras.Model):
    """Reads weights in a loop, and others in a branch and after it."""

    def __init__(self):
        super().__init__()
        self.embedding, self.cell = layers.Embedding(7, 4), layers.GRU(5)
        self.twice, self.head = layers.Dense(5), layers.Dense(2)

    def call(self, x):
        h = self.cell(self.embedding(x))
        h = self.twice(tf.cond(tf.reduce_sum(x) > 0, lambda: self.twice(h), lambda: h))
        return self.head(h), keras.ops.argmax(h, axis=-1)


@pytest.mark.slow
def test_weights_are_noisy_in_loops_and_branches():
    # Large ones are made when they are read, which may be while the graph of a loop or a branch is.
    keras.utils.set_random_seed(1)
    model, x = Branches(), np.arange(6).reshape(2, 3)
    model(x)
    noise = noises.Gaussian(0.3)
    members = WeightNoiseEnsemble(model, noise, members=3, seed=5).predict_members(x, verbose=0)
    expected = draws(model, noise, 3, lambda m: m.predict(x, verbose=0), seed=5)
    close(keras.tree.flatten(members), keras.tree.flatten(expected), rtol=1e-4, atol=1e-5)

"""add_weight_noise and strip_weight_noise: what is wrapped, what is kept, and what is refused."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from graphs import (
    MODELS,
    RANDOM,
    across_levels,
    assert_same_weights,
    convolutional,
    dictionaries,
    flags,
    mixed_functional,
    nested,
    normalized,
    outputs,
    recurrent,
    scatter,
    sequential,
    x_for,
)

from keras_weightnoise import GaussianWeightNoise, VariationalWeightNoise, perturb_weights
from keras_weightnoise._weights import reachable
from keras_weightnoise.models import _rebuilding as rebuilding
from keras_weightnoise.models.conversion import add_weight_noise, strip_weight_noise

pytestmark = pytest.mark.slow

layers = keras.layers


def noisy_layers(model):
    """The names of all wrappers in a model."""
    return [
        layer.name for layer in reachable.sublayers(model) if isinstance(layer, GaussianWeightNoise)
    ]


def structure(model):
    """A config, but for the shapes that layers were first built for."""

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k != "build_config"}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    return plain(rebuilding._config(model))


# Keras 3.5 itself warns so, without the wrapper too.
masked = pytest.mark.filterwarnings("ignore:.*EinsumDense. was passed an input with a mask")


@masked
@pytest.mark.parametrize(("make", "wrapped"), MODELS.items())
def test_round_trip(make, wrapped):
    model = scatter(make())
    x = x_for(model)
    clean, weights = outputs(model, x), model.get_weights()
    noisy = add_weight_noise(model, 0.1, seed=1)
    plain = strip_weight_noise(noisy)
    assert sorted(noisy_layers(noisy)) == wrapped
    assert not noisy_layers(plain)
    for each in (noisy, plain):
        assert_same_weights(each, model)
        assert type(each) is type(model)
        assert each.name == model.name
        assert [layer.name for layer in each.layers] == [layer.name for layer in model.layers]
        assert flags(each) == flags(model)
        for a, b in zip([each, *each.layers], [model, *model.layers], strict=True):
            if not isinstance(b, layers.InputLayer):
                assert a.dtype_policy.name == b.dtype_policy.name
        for a, b in zip(outputs(each, x), clean, strict=True):
            np.testing.assert_array_equal(a, b)
    if make is not mixed_functional:  # In which Keras 3.5 puts casts, and numbers them.
        assert structure(plain) == structure(model)
    if make not in (
        across_levels,
        recurrent,
        normalized,
    ):  # Where the path depends on who built the layer.
        assert [v.path for v in plain.weights] == [v.path for v in model.weights]
    # Noise in training; and nothing is shared.
    noiseless = outputs(plain, x, training=True)
    for a, b in zip(outputs(noisy, x, training=True), noiseless, strict=True):
        assert np.any(a != b)
    for variable in noisy.weights:
        variable.assign(variable * 0)
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(outputs(model, x), clean, strict=True):
        np.testing.assert_array_equal(a, b)


# Which layers.


def by_name(model, name):
    """A layer of a model or of one nested in it."""
    return next(each for each in reachable.sublayers(model) if each.name == name)


class Hidden(layers.Dense):
    """A Dense that reads its kernel in a `tf.function`."""

    @tf.function
    def call(self, x):
        return super().call(x)


@pytest.mark.parametrize(
    ("variables", "exclude", "wrapped"),
    [
        ("deep|top", None, ["deep", "top"]),
        ("^inner/", None, ["deep", "middle"]),
        ("^(top|inner/innermost)", None, ["deep", "top"]),
        (layers.Dense, None, ["deep", "middle", "top"]),
        (layers.Dense, "middle", ["deep", "top"]),
        (keras.Sequential, None, ["deep"]),
        (lambda model: lambda variable: "middle" in variable.path, None, ["middle"]),
        (lambda model: by_name(model, "deep"), None, ["deep"]),
        (lambda model: by_name(model, "deep").kernel, None, ["deep"]),
        (lambda model: [by_name(model, "inner"), "top"], None, ["deep", "middle", "top"]),
        (None, lambda model: by_name(model, "inner"), ["top"]),
        ("kernels", None, ["deep", "middle", "top"]),
        (None, ["deep", "top"], ["middle"]),
    ],
)
def test_selected(variables, exclude, wrapped):
    model = nested()

    def resolve(selector):
        made = callable(selector) and not isinstance(selector, type)
        return selector(model) if made else selector

    noisy = add_weight_noise(model, variables=resolve(variables), exclude=resolve(exclude))
    assert sorted(noisy_layers(noisy)) == wrapped


@pytest.mark.parametrize(
    ("arguments", "perturbed"),
    [
        ({}, {"query", "key", "value", "attention_output"}),
        ({"variables": "query"}, {"query"}),
        ({"exclude": ["query", "value/kernel"]}, {"key", "attention_output"}),
    ],
)
def test_only_the_selected_kernels_of_a_layer_are_perturbed(arguments, perturbed, tmp_path):
    query, value = keras.Input((3, 4)), keras.Input((5, 4))
    model = keras.Model([query, value], layers.MultiHeadAttention(2, 2, name="mha")(query, value))
    noisy = add_weight_noise(model, 0.1, **arguments)
    noisy.save(tmp_path / "model.keras")
    for each in (noisy, keras.saving.load_model(tmp_path / "model.keras")):
        wrapper = each.get_layer("mha")
        targets = wrapper._select(wrapper.layer)
        names = reachable.relative_names(wrapper.layer, [target.variable for target in targets])
        assert set(names) == {f"{name}/kernel" for name in perturbed}


def test_frozen_layers_are_wrapped_only_if_selected():
    model = nested()
    inner = model.get_layer("inner")
    inner.trainable = False
    assert noisy_layers(add_weight_noise(model)) == ["top"]
    noisy = add_weight_noise(model, variables="deep", seed=1)
    (deep,) = (
        each for each in reachable.sublayers(noisy) if each.name == "deep" and "layer" in vars(each)
    )
    assert not deep.trainable
    assert not deep.layer.trainable
    noisy.get_layer("inner").trainable = True
    x = x_for(model)
    assert np.any(outputs(noisy, x, training=True)[0] != outputs(noisy, x)[0])
    assert not model.get_layer("inner").trainable
    model.trainable = False
    with pytest.raises(ValueError, match=r"No layer of 'outer' is left to wrap(.|\n)*inner/middle"):
        add_weight_noise(model)


def test_wrapped_layers_stay():
    model = keras.Sequential(
        [
            keras.Input((3, 4)),
            GaussianWeightNoise(layers.Dense(3), 0.5, seed=3, name="first"),
            layers.TimeDistributed(GaussianWeightNoise(layers.Dense(3), 0.5, name="inside")),
            VariationalWeightNoise(layers.Dense(3, name="learned"), examples=10),
            layers.Dense(2, name="last"),
        ]
    )
    noisy = add_weight_noise(model, 0.1)
    assert noisy_layers(noisy) == ["first", "inside", "last"]
    assert [
        (each.name, each.stddev) for each in reachable.sublayers(noisy) if "stddev" in vars(each)
    ] == [
        ("first", 0.5),
        ("inside", 0.5),
        ("last", 0.1),
    ]
    with pytest.raises(ValueError, match=r"No layer .* is left to wrap"):
        add_weight_noise(noisy)


def test_the_estimator_picks_its_layers():
    model = recurrent()
    with pytest.raises(ValueError, match=r"No layer .* left to wrap(.|\n)*estimator='flipout'"):
        add_weight_noise(model, estimator="flipout")
    with pytest.raises(ValueError, match="'flipout' does not apply to this layer"):
        add_weight_noise(model, estimator="flipout", variables="lstm")
    noisy = add_weight_noise(convolutional(), estimator="flipout", relative_to="max")
    assert noisy_layers(noisy) == ["conv"]
    assert noisy.get_layer("conv").relative_to == "max"


def spectral():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.SpectralNormalization(layers.Dense(3), name="spectral"),
            layers.Dense(2, name="dense"),
        ]
    )


def quantized():
    model = sequential()
    model.get_layer("hidden").quantize("int8")
    return model


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (spectral, "spectral", "'spectral' .* overwrites a kernel of its own"),
        (quantized, "hidden", "'hidden' is quantized: its kernels are integers"),
    ],
)
def test_what_cannot_be_wrapped(make, name, message):
    model = make()
    with pytest.raises(ValueError, match=rf"Not all that is selected.*{message}.*variables={name}"):
        add_weight_noise(model, variables=name)
    with pytest.warns(UserWarning, match=f"Left without weight noise: .*{message}"):
        noisy = add_weight_noise(model)
    assert name not in noisy_layers(noisy)
    assert_same_weights(add_weight_noise(model, exclude=name), model)
    x = x_for(model)
    np.testing.assert_array_equal(outputs(noisy, x)[0], outputs(model, x)[0])


def test_lora_factors_are_perturbed():
    model = sequential()
    model.get_layer("head").enable_lora(2)
    scatter(model)
    noisy = add_weight_noise(model, variables="head", seed=1)
    x = x_for(model)
    np.testing.assert_array_equal(outputs(noisy, x)[0], outputs(model, x)[0])
    assert np.any(outputs(noisy, x, training=True)[0] != outputs(model, x, training=True)[0])
    assert_same_weights(strip_weight_noise(noisy), model)


def test_reads_that_are_hidden_are_found_in_training():
    model = keras.Sequential([keras.Input((4,)), Hidden(3, name="hidden"), layers.Dense(2)])
    noisy = add_weight_noise(model)
    with pytest.raises(ValueError, match=r"'hidden'.*inside a `tf.function`"):
        noisy(x_for(model), training=True)
    add_weight_noise(model, exclude="hidden")(x_for(model), training=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"variables": "nowhere"},
            ValueError,
            r"`variables` matches no eligible variable.*variables='nowhere'.*  hidden/kernel\n"
            r".*  hidden/bias  \(not eligible: no kernel, or of a layer with noise already\)",
        ),
        ({"variables": layers.ReLU}, ValueError, r"`variables` matches no eligible"),
        ({"variables": "bias"}, ValueError, r"`variables` matches no eligible"),
        ({"variables": layers.BatchNormalization}, ValueError, r"`variables` matches no eligible"),
        ({"variables": layers.Dense(2)}, ValueError, r"`variables` matches no eligible"),
        ({"variables": ["head", "nowhere"]}, ValueError, r"`variables` matches no eligible"),
        ({"variables": lambda variable: False}, ValueError, r"`variables` matches no eligible"),
        ({"exclude": "nowhere"}, ValueError, r"`exclude` matches no eligible"),
        ({"exclude": layers.Dense}, ValueError, r"No layer of 'plain' is left to wrap"),
        ({"variables": "["}, ValueError, r"Invalid `variables`.*Received: variables='\['"),
        ({"variables": 3}, TypeError, r"Invalid `variables`.*Received: variables=3"),
        ({"variables": []}, ValueError, r"Invalid `variables`.*Received: variables=\[\]"),
        ({"variables": int}, TypeError, r"Invalid `variables`.*Received: variables=<class 'int'>"),
        ({"colour": 1}, TypeError, r"`colour`. Expected `model`, .* `seed`. Received: colour=1"),
        ({"exclude": keras.Variable}, TypeError, r"Invalid `exclude`"),
        ({"stddev": -1.0}, ValueError, r"Invalid `stddev`"),
        ({"stddev": "much"}, TypeError, r"Invalid `stddev`"),
        ({"relative_to": "size"}, ValueError, r"Invalid `relative_to`"),
        ({"estimator": "none"}, ValueError, r"Invalid `estimator`"),
        ({"seed": -1}, ValueError, r"Invalid `seed`"),
        ({"model": 3}, TypeError, r"Invalid `model`.*Received: model=3"),
        ({"model": layers.Dense(2)}, TypeError, r"Invalid `model`"),
        ({"model": keras.Sequential([layers.Dense(2)])}, ValueError, r"is not built"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        add_weight_noise(**{"model": sequential(), **arguments})


# Seeds.


@pytest.mark.any_version
@pytest.mark.slow
def test_seeds():
    def seeds(**arguments):
        noisy = add_weight_noise(nested(), **arguments)
        return {
            each.name: int(each.seed_generator.state[0])
            for each in reachable.sublayers(noisy)
            if isinstance(each, GaussianWeightNoise)
        }

    first = seeds(seed=1)
    assert len(set(first.values())) == 3
    assert seeds(seed=1) == first
    assert seeds(seed=1, variables="deep") == {"deep": first["deep"]}
    assert not set(seeds(seed=2).values()) & set(first.values())
    keras.utils.set_random_seed(5)
    unseeded = seeds()
    assert len(set(unseeded.values())) == 3
    keras.utils.set_random_seed(5)
    assert seeds() == unseeded
    assert seeds() != unseeded


# Models that cannot be rebuilt.


class Subclassed(keras.Model):
    def __init__(self, anything=None):
        super().__init__()
        self.first, self.second = layers.Dense(3), GaussianWeightNoise(layers.Dense(2))

    def call(self, x):
        return self.second(self.first(x))


class Accumulating(keras.Model):
    """Functional, with one more argument, which Keras does not know of."""

    def __init__(self, batches, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches = batches


def accumulating():
    inputs = keras.Input((4,))
    outputs = GaussianWeightNoise(layers.Dense(2))(layers.Dense(3)(inputs))
    return Accumulating(3, inputs, outputs)


class Own(keras.Model):
    """Functional, with a constructor of its own."""

    def __init__(self, units):
        inputs = keras.Input((4,))
        super().__init__(inputs, GaussianWeightNoise(layers.Dense(units))(layers.Dense(3)(inputs)))
        self.units = units

    def get_config(self):
        return {"units": self.units}


@pytest.mark.parametrize("function", [add_weight_noise, strip_weight_noise])
def test_models_that_cannot_be_rebuilt(function):
    subclassed = [Subclassed(), Subclassed(object())]  # Of the second, Keras tells no config.
    for model in subclassed:
        model(np.ones((1, 4)))
    for model in (*subclassed, Own(2), accumulating()):
        with pytest.raises(
            ValueError,
            match=r"cannot be rebuilt.*pass `keras.Model\(model.input, model.output\)`.*Received: model=",
        ):
            function(model)
    x = np.ones((2, 4), "float32")
    for model in (Own(2), accumulating()):
        rebuilt = function(keras.Model(model.input, model.output))
        np.testing.assert_array_equal(rebuilt(x), model(x))
    # The same advice from `perturb_weights`, but for what else there is to do.
    with pytest.raises(ValueError, match=r"cannot be rebuilt.*`inplace=True`.*Received: model="):
        perturb_weights(accumulating(), 0.1)
    with pytest.raises(ValueError, match=r"'outer' cannot be rebuilt.*Received: model="):
        function(
            keras.Sequential([keras.Input((4,)), accumulating(), layers.Dense(2)], name="outer")
        )


class Opaque(keras.Model):
    """The same, without noise."""

    def __init__(self, units):
        inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(units, name="in_it")(inputs), name="opaque")
        self.units = units

    def get_config(self):
        return {"units": self.units}


def test_nested_models_without_a_graph_are_wrapped_as_one():
    model = keras.Sequential([keras.Input((4,)), Opaque(3), layers.Dense(1, name="dense")])
    noisy = add_weight_noise(model)
    assert noisy_layers(noisy) == ["opaque", "dense"]
    plain = strip_weight_noise(noisy)
    assert type(plain.layers[0]) is Opaque
    assert_same_weights(plain, model)


class TrainsItsWay(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


class OwnSequential(keras.Sequential):
    pass


def test_classes_of_models_are_kept():
    inputs = keras.Input((4,))
    model = TrainsItsWay(inputs, OwnSequential([keras.Input((4,)), layers.Dense(2)])(inputs))
    noisy = add_weight_noise(model)
    assert type(noisy) is TrainsItsWay
    assert type(noisy.layers[1]) is OwnSequential
    assert [type(each) for each in strip_weight_noise(noisy).layers] == [
        type(e) for e in model.layers
    ]


class Tied(layers.Layer):
    """Holds another layer, as `get_config` tells."""

    def __init__(self, other, **kwargs):
        super().__init__(**kwargs)
        self.other = other

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.other.kernel))

    def get_config(self):
        return {**super().get_config(), "other": keras.saving.serialize_keras_object(self.other)}

    @classmethod
    def from_config(cls, config):
        other = keras.saving.deserialize_keras_object(config.pop("other"))
        return cls(other, **config)


def test_ties_that_configurations_do_not_tell():
    dense = layers.Dense(3)
    model = keras.Sequential([keras.Input((4,)), dense, Tied(dense)])
    with pytest.raises(ValueError, match=r"(?s)cannot be rebuilt.* variables of the shapes"):
        add_weight_noise(model, variables="dense")


# Stripping.


def test_nothing_to_strip():
    with pytest.raises(ValueError, match="'plain' has nothing to strip"):
        strip_weight_noise(sequential())


class Noisy(layers.Layer):
    """Makes its wrapper by itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = GaussianWeightNoise(layers.Dense(2))

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


def test_what_stays_wrapped_is_an_error():
    model = keras.Sequential(
        [keras.Input((4,)), GaussianWeightNoise(layers.Dense(3)), Noisy(name="n")]
    )
    with pytest.raises(ValueError, match=r"'n' \(of type Noisy\) keeps its `GaussianWeightNoise`"):
        strip_weight_noise(model)


def wrapped_by_hand():
    wrap = GaussianWeightNoise
    inner = keras.Model(i := keras.Input((3, 4)), wrap(layers.Dense(4, name="a"))(i), name="inner")
    clean_and_noisy = layers.Dense(4, name="branches")
    inputs = keras.Input((3, 4))
    x = wrap(inner, 0.5, name="model")(inputs)
    x = keras.ops.add(wrap(clean_and_noisy)(x), clean_and_noisy(x))
    x = layers.TimeDistributed(wrap(wrap(layers.Dense(4, name="each")), name="td"), name="time")(x)
    x = wrap(wrap(layers.Dense(4, name="twice")))(x)
    x = wrap(layers.Bidirectional(layers.LSTM(2, return_sequences=True)), name="both")(x)
    return keras.Model(inputs, wrap(inner, name="again")(x))


def test_strip_what_was_wrapped_by_hand():
    model = scatter(wrapped_by_hand())
    plain = strip_weight_noise(model)
    assert not noisy_layers(plain)
    assert_same_weights(plain, model)
    x = tf.random.normal((2, 3, 4))
    np.testing.assert_array_equal(plain(x), model(x))
    np.testing.assert_array_equal(plain(x, training=True), model(x))
    assert plain.get_layer("time").layer.name == "each"
    assert type(plain.get_layer("both")) is layers.Bidirectional


@pytest.mark.parametrize(
    ("names", "stripped"),
    [
        ([{}, {}], ["a", "b"]),
        ([{"name": "first"}, {}], ["first", "b"]),
        ([{"name": "b"}, {"name": "a"}], ["b", "a"]),
        ([{}, {"name": "a"}], ["gaussian_weight_noise", "a"]),
    ],
)
def test_names_after_stripping(names, stripped):
    model = keras.Sequential([keras.Input((4,))])
    for kwargs, name in zip(names, "ab", strict=True):
        model.add(GaussianWeightNoise(layers.Dense(4, name=name), **kwargs))
    plain = strip_weight_noise(model)
    assert [layer.name for layer in plain.layers] == stripped


def test_a_frozen_wrapper_leaves_a_frozen_layer():
    model = keras.Sequential([keras.Input((4,)), GaussianWeightNoise(layers.Dense(4))])
    model.layers[0].trainable = False
    assert not strip_weight_noise(model).trainable_variables


# Compiling, training, saving.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "loss"), [(sequential, "mae"), (dictionaries, {"x": "mse", "y": "mae"})]
)
def test_compile_settings(make, loss):
    model = make()
    optimizer = keras.optimizers.Adam(0.03, weight_decay=0.1)
    model.compile(optimizer, loss, metrics=["mae"] if loss == "mae" else loss, jit_compile=False)
    x = x_for(model)
    y = keras.tree.map_structure(np.ones_like, model(x))
    model.fit(x, y, verbose=0)
    noisy = add_weight_noise(model)
    for each in (noisy, strip_weight_noise(noisy)):
        assert each.optimizer.get_config() == model.optimizer.get_config()
        assert int(each.optimizer.iterations) == 0
        assert not each.jit_compile
        expected = model.evaluate(x, y, verbose=0, return_dict=True)
        assert each.evaluate(x, y, verbose=0, return_dict=True) == expected
        each.fit(x, y, verbose=0)
    assert not add_weight_noise(make()).compiled


def test_a_loss_of_ones_own():
    def unknown(y_true, y_pred):
        return keras.ops.mean(y_pred, -1)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(1)(inputs))
    model.compile("sgd", unknown)
    assert add_weight_noise(model).loss is unknown
    model.compile("sgd", lambda y_true, y_pred: keras.ops.mean(y_pred, -1))
    with pytest.warns(UserWarning, match=r"copy of model .* is not compiled.*Compile it"):
        assert not add_weight_noise(model).compiled


def test_fit_trains_under_noise():
    """From weights of 0, only noise makes a gradient of the first layer."""
    inputs = keras.Input((4,))
    zeros = {"kernel_initializer": "zeros", "use_bias": False}
    hidden = layers.Dense(3, name="hidden", **zeros)(inputs)
    model = keras.Model(inputs, layers.Dense(1, name="head", **zeros)(hidden))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x, y = np.ones((8, 4)), np.ones((8, 1))
    moved = {}
    for name in ("hidden", "head"):
        noisy = add_weight_noise(model, 0.5, variables=name, seed=1)
        noisy.fit(x, y, verbose=0)
        moved[name] = [bool(np.any(w)) for w in strip_weight_noise(noisy).get_weights()]
    # Noise in the head reaches the gradient of the hidden layer, and the other way round.
    assert moved == {"hidden": [False, True], "head": [True, False]}


LOAD = """
import sys
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
np.save(sys.argv[2], model(np.load(sys.argv[3])))
assert "keras_weightnoise" not in sys.modules
"""


@pytest.mark.slow
def test_stripped_models_load_without_this_library(tmp_path):
    model = scatter(sequential())
    model.compile("adam", "mse")
    noisy = add_weight_noise(model, 0.1)
    x = np.ones((2, 4), "float32")
    noisy.fit(x, np.ones((2, 2)), verbose=0)
    plain = strip_weight_noise(noisy)
    np.save(tmp_path / "x.npy", x)
    plain.save(tmp_path / "plain.keras")
    files = [str(tmp_path / name) for name in ("plain.keras", "y.npy", "x.npy")]
    # Isolated: without this directory on the path.
    subprocess.run([sys.executable, "-I", "-c", LOAD, *files], check=True, timeout=200)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), plain(x), rtol=1e-6)
    np.testing.assert_array_equal(plain(x), noisy(x))


# Keras's own, of the legacy format.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*HDF5:UserWarning")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("make", [sequential, nested, convolutional])
def test_loaded_models(make, suffix, tmp_path):
    path = str(tmp_path / f"model{suffix}")
    scatter(make()).save(path)
    model = keras.models.load_model(path)
    noisy = add_weight_noise(model)
    noisy.save(tmp_path / "noisy.keras")
    noisy = keras.models.load_model(tmp_path / "noisy.keras")
    plain = strip_weight_noise(noisy)
    x = x_for(model)
    for each in (noisy, plain):
        assert_same_weights(each, model)
        for a, b in zip(outputs(each, x), outputs(model, x), strict=True):
            np.testing.assert_array_equal(a, b)


def test_vocabularies_are_kept():
    vectorize = layers.TextVectorization(output_sequence_length=3)
    vectorize.adapt(["a b c", "c d"])
    inputs = keras.Input((), dtype="string")
    outputs = layers.Dense(2)(layers.Embedding(7, 3)(vectorize(inputs)))
    model = keras.Model(inputs, outputs)
    texts = tf.constant(["c a", "d e"])
    noisy = add_weight_noise(model)
    for each in (noisy, strip_weight_noise(noisy)):
        np.testing.assert_array_equal(each(texts), model(texts))


def test_boundaries_are_kept():
    discretization = layers.Discretization(num_bins=3)
    discretization.adapt(RANDOM.normal(size=50).astype("float32"))
    model = keras.Sequential([keras.Input((1,)), discretization, layers.Embedding(3, 2)])
    x = np.linspace(-2, 2, 9)[:, None]
    np.testing.assert_array_equal(add_weight_noise(model)(x), model(x))


def steep(x):
    return FACTOR * x


FACTOR = 3.0


def test_functions_need_not_be_registered():
    class Twice(layers.Layer):
        def call(self, x):
            return 2.0 * x

    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, steep),
            layers.Lambda(steep),
            layers.Lambda(lambda x: FACTOR * x),
            Twice(),
            layers.Dense(2, layers.LeakyReLU(negative_slope=0.3)),
        ]
    )
    x = x_for(model)
    before = dict(keras.saving.get_custom_objects())
    noisy = add_weight_noise(model)
    for each in (noisy, strip_weight_noise(noisy)):
        np.testing.assert_array_equal(each(x), model(x))
    assert keras.saving.get_custom_objects() == before


def test_sparse_inputs_stay_sparse():
    inputs = keras.Input((4,), sparse=True)
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    assert add_weight_noise(model).inputs[0].sparse


def test_the_states_of_random_layers_are_kept():
    model = keras.Sequential([keras.Input((9,)), layers.Dropout(0.5), layers.Dense(2, name="head")])
    x = tf.ones((2, 9))
    model(x, training=True)
    noisy = add_weight_noise(model, 1e-30)
    for _ in range(2):
        np.testing.assert_array_equal(noisy(x, training=True), model(x, training=True))


def test_constraints_are_kept():
    dense = layers.Dense(2, kernel_constraint="max_norm")
    model = keras.Sequential([keras.Input((4,)), dense])
    dense.bias.constraint = keras.constraints.NonNeg()
    noisy = add_weight_noise(model)
    kernel, bias = noisy.trainable_variables
    assert isinstance(kernel.constraint, keras.constraints.MaxNorm)
    assert isinstance(bias.constraint, keras.constraints.NonNeg)


# Keras's own, of the architectures it ships.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetB0"])
def test_applications(name):
    model = getattr(keras.applications, name)(input_shape=(64, 64, 3), weights=None, classes=5)
    noisy = add_weight_noise(model, 0.1, relative_to="std", seed=1)
    plain = strip_weight_noise(noisy)
    convolutions = [
        each.name for each in model.layers if "kernel" in "".join(v.name for v in each.weights)
    ]
    assert noisy_layers(noisy) == convolutions
    x = tf.random.uniform((1, 64, 64, 3), 0, 255)
    clean = model(x)
    for each in (noisy, plain):
        assert_same_weights(each, model)
        np.testing.assert_array_equal(each(x), clean)
    assert structure(plain) == structure(model)

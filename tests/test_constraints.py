"""ClipToStddev and clip_weights: values, where it is applied, and what is saved."""

import fits
import keras
import numpy as np
import pytest

from keras_weightnoise import WeightNoiseCallback, clip_weights, noises
from keras_weightnoise.constraints import ClipToStddev
from keras_weightnoise.models.conversion import add_weight_noise

layers = keras.layers
RANDOM = np.random.default_rng(0)


def outliers(shape, dtype="float32"):
    """Values of which some are far out."""
    return (RANDOM.normal(size=shape) ** 3).astype(dtype)


def network(**dense):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, "relu", name="hidden", **dense),
            layers.BatchNormalization(name="normalization"),
            layers.Dense(1, name="head", **dense),
        ],
        name="net",
    )
    for variable in model.trainable_variables:
        variable.assign(variable + 0.3 * outliers(variable.shape))
    return model


def largest(variable):
    """The largest weight, in standard deviations."""
    w = variable.numpy()
    return np.abs(w).max() / w.std()


@pytest.mark.any_version
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("k", [1, 2.0, np.float32(2.5)])
@pytest.mark.parametrize("shape", [(40,), (7, 9), (3, 3, 4, 5)])
def test_values(shape, k, dtype):
    w = outliers(shape, dtype)
    wide = w.astype("float64")
    bound = k * wide.std()
    clipped = ClipToStddev(k)(keras.ops.convert_to_tensor(w))
    assert clipped.dtype == dtype
    tolerance = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-9}[dtype]
    np.testing.assert_allclose(clipped, np.clip(wide, -bound, bound), rtol=tolerance, atol=1e-7)
    inside = np.abs(wide) < 0.99 * bound
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(clipped.numpy()[inside], w[inside])


def test_large_half_precision_values_do_not_overflow():
    w = np.array([3e4, -3e4, 2e4, 6e4] * 4, "float16")
    bound = w.astype("float64").std()
    clipped = ClipToStddev(1.0)(keras.ops.convert_to_tensor(w))
    np.testing.assert_allclose(clipped, np.clip(w.astype("float64"), -bound, bound), rtol=1e-3)


def test_it_is_not_idempotent_and_comes_to_rest():
    clip = ClipToStddev(2.0)
    values = [keras.ops.convert_to_tensor(outliers((50, 40)))]
    for _ in range(100):
        values.append(clip(values[-1]))
    deviations = [float(np.std(w)) for w in values]
    assert deviations[2] < deviations[1] < deviations[0]
    np.testing.assert_allclose(values[-1], values[-2], rtol=1e-6)
    assert deviations[-1] > 0.2 * deviations[0]


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (30, 40)])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_equal_elements_are_left_as_they_are(shape, value):
    w = np.full(shape, value, "float32")
    np.testing.assert_array_equal(ClipToStddev()(keras.ops.convert_to_tensor(w)), w)


@pytest.mark.parametrize(
    ("k", "error"),
    [
        (0.9, ValueError),
        (0, ValueError),
        (-2.0, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("2", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_bad_k(k, error):
    for make in (ClipToStddev, lambda k: clip_weights(network(), k)):
        with pytest.raises(error, match=r"Invalid `k`.*Received: k="):
            make(k)


def test_serialization():
    clip = ClipToStddev(np.float32(2.5))
    copy = keras.constraints.deserialize(keras.constraints.serialize(clip))
    assert type(copy) is ClipToStddev
    assert copy.get_config() == clip.get_config() == {"k": 2.5}


class Maxima(keras.callbacks.Callback):
    """Records max|w| / std(w) of each kernel after each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen += [largest(v) for v in self.model.trainable_variables if v.name == "kernel"]


@pytest.mark.slow
@pytest.mark.parametrize("compiled_before", [False, True])
@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=str)
def test_clipped_in_training(compiled_before, options):
    model = network()
    model.compile(keras.optimizers.SGD(1e-3), "mse", **options)
    if compiled_before:
        model.fit(fits.X, fits.Y, verbose=0)
    kernels = [model.get_layer(name).kernel.numpy() for name in ("hidden", "head")]
    clipped = clip_weights(model, 1.5)
    assert [v.path for v in clipped] == ["net/hidden/kernel", "net/head/kernel"]

    for variable, w in zip(clipped, kernels, strict=True):  # At once.
        np.testing.assert_allclose(variable, np.clip(w, -1.5 * w.std(), 1.5 * w.std()), rtol=1e-5)
    noise = WeightNoiseCallback(
        noises.Gaussian(0.1, relative_to="max"), variables="kernels", seed=1
    )
    for _ in range(3):
        # Outliers that only clipping in the fit brings back.
        for variable in clipped:
            w = variable.numpy()
            w.flat[0] = 30.0
            variable.assign(w)
        bound = [1.5 * v.numpy().std() for v in clipped]
        model.fit(np.zeros((4, 4)), np.zeros((4, 1)), callbacks=[noise], verbose=0)
        for variable, most in zip(clipped, bound, strict=True):
            np.testing.assert_allclose(np.abs(variable.numpy()).max(), most, rtol=0.02)


@pytest.mark.slow
def test_a_step_that_was_traced_before_is_traced_anew():
    model = network()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    noise = WeightNoiseCallback(1e-3, seed=1)
    for callbacks in ([], [noise]):
        model.fit(fits.X, fits.Y, callbacks=callbacks, verbose=0)
    (kernel,) = clip_weights(model, 1.5, variables="hidden/kernel")
    for callbacks in ([], [noise]):
        w = kernel.numpy()
        w[0, 0] = 30.0
        kernel.assign(w)
        model.fit(fits.X, fits.Y, callbacks=callbacks, verbose=0)
        np.testing.assert_allclose(kernel, np.clip(w, -1.5 * w.std(), 1.5 * w.std()), rtol=1e-5)


@pytest.mark.any_version
@pytest.mark.slow
def test_long_training_keeps_the_bound():
    model = network()
    clip_weights(model, 2.0)
    model.compile("adam", "mse")
    maxima = Maxima()
    noise = WeightNoiseCallback(noises.Gaussian(0.1, relative_to="max"), seed=1)
    model.fit(fits.X, fits.Y, batch_size=4, epochs=10, callbacks=[noise, maxima], verbose=0)
    # Of the deviation before clipping: a little more of that after.
    assert max(maxima.seen) < 2.0 * 1.3
    free = network()
    free.compile("adam", "mse")
    assert max(largest(v) for v in free.trainable_variables if v.name == "kernel") > 2.0 * 1.3


KERNELS = {
    "dense": (lambda: layers.Dense(3), (4,)),
    "embedding": (lambda: layers.Embedding(5, 3), (4,)),
    "lstm": (lambda: layers.LSTM(3), (4, 2)),
    "bidirectional": (lambda: layers.Bidirectional(layers.GRU(3)), (4, 2)),
    "separable": (lambda: layers.SeparableConv1D(3, 2), (4, 2)),
    "depthwise": (lambda: layers.DepthwiseConv1D(2), (4, 2)),
    "transposed": (lambda: layers.Conv1DTranspose(2, 2), (4, 2)),
    "einsum": (lambda: layers.EinsumDense("ab,bc->ac", 3), (4,)),
    "wrapped": (
        lambda: add_weight_noise(keras.Sequential([keras.Input((4,)), layers.Dense(3)])),
        (4,),
    ),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("everything", [False, True])
def test_saved_with_the_layers(name, everything, tmp_path):
    make, shape = KERNELS[name]
    model = keras.Sequential([keras.Input(shape), make()])
    clip_weights(model, 3.0, variables=None if everything else "kernels")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        for variable in each.trainable_variables:
            is_clipped = everything or variable.name != "bias"  # Of a GRU, it has rank 2.
            assert (getattr(variable.constraint, "k", None) == 3.0) == is_clipped, variable.path


def test_not_saved_with_layers_that_hide_it(tmp_path):
    """As the docstring says: when this fails, that can go."""
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 2)(inputs, inputs))
    clipped = clip_weights(model)
    assert all(v.constraint is not None for v in clipped)
    # But with the conversion of a model.
    assert [v.constraint is not None for v in add_weight_noise(model).trainable_variables] == [
        v.constraint is not None for v in model.trainable_variables
    ]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert all(v.constraint is None for v in loaded.trainable_variables)


def test_called_again_it_replaces():
    model = network(kernel_constraint=ClipToStddev(3.0))
    clip_weights(model, 2.0, exclude="head")
    assert [layer.kernel_constraint.k for layer in model.layers[::2]] == [2.0, 3.0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": 3}, TypeError, r"Invalid `model`.*Received: model=3"),
        ({"model": layers.Dense(2)}, ValueError, r"no variables to clip"),
        ({"variables": "nowhere"}, ValueError, r"`variables` matches no eligible"),
        ({"variables": 3}, TypeError, r"Invalid `variables`"),
        ({"exclude": []}, ValueError, r"Invalid `exclude`"),
        ({"exclude": "kernel"}, ValueError, r"No variable of .* is left"),
        (
            {"model": {"kernel_constraint": "max_norm"}},
            ValueError,
            r"'net/hidden/kernel' has a constraint already.*Received: .*MaxNorm",
        ),
    ],
)
def test_bad_arguments_change_nothing(arguments, error, message):
    options = arguments.get("model")
    model = network(**options if isinstance(options, dict) else {})
    before = model.get_weights()
    if options is None or isinstance(options, dict):
        arguments = {**arguments, "model": model}
    with pytest.raises(error, match=f"(?s){message}"):
        clip_weights(**arguments)
    assert fits.same(model.get_weights(), before)
    assert not any(isinstance(v.constraint, ClipToStddev) for v in model.variables)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_are_put_back_after_an_error(error, monkeypatch):
    model = network()
    before = model.get_weights()
    calls = []

    def failing(self, w):
        calls.append(w)
        if len(calls) == 2:
            raise error
        return w * 0

    monkeypatch.setattr(ClipToStddev, "__call__", failing)
    with pytest.raises(error):
        clip_weights(model)
    assert len(calls) == 2
    assert fits.same(model.get_weights(), before)

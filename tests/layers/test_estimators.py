"""The estimators of GaussianWeightNoise: what the examples of a batch see of the noise.

The reference is weight noise itself. Each layer here is linear in its kernel, so one call for each
element of the kernel gives the matrix J of its outputs' derivatives, and noise of covariance S in the
kernel has the covariance J S J' in the outputs.
"""

import fits
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_weightnoise import GaussianWeightNoise, noises, noisy_call
from keras_weightnoise._random import drawing, laws
from keras_weightnoise._random.generator import make_key
from keras_weightnoise._weights import perturbation, selection
from keras_weightnoise.noises._scales import scale

pytestmark = pytest.mark.slow

layers = keras.layers
# All kinds: none, one for all, one for each output, one for each weight.
SCALES = [None, "std", "max", "channel_max", "filter_norm", "weight"]
ESTIMATORS = ["shared", "flipout", "local_reparameterization"]

# Name: layer, shape of an example.
CASES = {
    "dense": (lambda **k: layers.Dense(3, **k), (4,)),
    "dense_time": (lambda **k: layers.Dense(2, **k), (3, 4)),
    "dense_rank_4": (lambda **k: layers.Dense(2, **k), (2, 2, 3)),
    "conv1d": (lambda **k: layers.Conv1D(2, 2, **k), (4, 3)),
    "causal": (lambda **k: layers.Conv1D(2, 2, padding="causal", dilation_rate=2, **k), (4, 2)),
    "conv2d": (lambda **k: layers.Conv2D(2, 2, padding="same", strides=2, **k), (3, 3, 2)),
    "groups": (lambda **k: layers.Conv2D(4, 2, groups=2, **k), (2, 3, 4)),
    "conv3d": (lambda **k: layers.Conv3D(2, (1, 2, 2), **k), (2, 2, 2, 2)),
}
# Flipout on every layer, and on Dense every estimator, with every scale.
APPLICABLE = [
    ("dense", "shared", "filter_norm"),
    *(("dense", estimator, relative_to) for estimator in ESTIMATORS[1:] for relative_to in SCALES),
    *((name, "flipout", "filter_norm") for name in CASES if name != "dense"),
]
LAYERS = [*((name, "flipout") for name in CASES), ("dense", "local_reparameterization")]


def normal(*shape):
    return keras.random.normal(shape)  # Seeded anew for each test.


def wrapped(case="dense", estimator="flipout", stddev=0.5, relative_to=None, seed=1, **kwargs):
    """A built layer with random bias, and two different examples."""
    make, shape = CASES[case]
    x = normal(2, *shape)
    kwargs = {"bias_initializer": "normal", **kwargs}
    layer = GaussianWeightNoise(
        make(**kwargs), stddev, relative_to=relative_to, estimator=estimator, seed=seed
    )
    layer(x)
    return layer, x


def perturbation_size(layer):
    """stddev * scale, in the shape of the kernel."""
    (target,) = selection.select(layer.layer, "kernels")
    kernel = layer.layer.kernel
    size = layer.stddev * scale(tf.convert_to_tensor(kernel), layer.relative_to, target.axes)
    return np.broadcast_to(size, kernel.shape)


def shared_noise(layer, step=0):
    """The kernel noise that the `"shared"` estimator has at a call."""
    (target,) = selection.select(layer.layer, "kernels")
    zero = tf.zeros(target.variable.shape)
    (noise,) = perturbation.perturb(
        noises.Gaussian(1.0), [target], [zero], seed=layer.seed, step=step, magnitudes=[1.0]
    )
    return noise.numpy() * perturbation_size(layer)


def jacobian(layer, x):
    """J, for each example: (batch, outputs, elements of the kernel)."""
    plain = layer.layer
    kernel = plain.kernel.numpy()
    zero = plain(x).numpy()
    columns = []
    for i in range(kernel.size):
        step = np.zeros(kernel.size, "float32")
        step[i] = 1.0
        plain.kernel.assign(kernel + step.reshape(kernel.shape))
        columns.append(np.reshape(plain(x) - zero, (len(x), -1)))
    plain.kernel.assign(kernel)
    return np.stack(columns, -1)


def noise_draws(layer, x, count):
    """What the noise adds to the outputs in so many calls: (count, batch, outputs)."""

    @tf.function
    def draws():
        return tf.map_fn(
            lambda _: layer(x, training=True), tf.range(count), fn_output_signature="float32"
        )

    return (draws() - layer(x)).numpy().reshape(count, len(x), -1)


# Arguments and layers it applies to.


class OwnCall(layers.Dense):
    def call(self, inputs, training=None):
        return super().call(inputs) * 2.0


class Standardized(layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel / keras.ops.std(kernel))


class OwnKernel(layers.Dense):
    @property
    def kernel(self):
        return keras.ops.tanh(self._kernel)


def patched():
    layer = layers.Dense(2)
    layer.call = lambda inputs: inputs
    return layer


@pytest.mark.parametrize("estimator", ["Flipout", None, 1, ["flipout"]])
def test_unknown_estimators(estimator):
    with pytest.raises(ValueError, match=r"Invalid `estimator`.*'local_rep.*Received: estimator="):
        GaussianWeightNoise(layers.Dense(2), estimator=estimator)


FLIPOUT = r"Expected a layer of type Dense, Conv1D, Conv2D, Conv3D, or `estimator='shared'`"
LOCAL = r"(?s)one kernel serves several positions.*correlates them.*Expected a layer of type Dense,"


@pytest.mark.parametrize(
    ("make", "estimator", "message"),
    [
        (lambda: layers.LSTM(2), "flipout", FLIPOUT),
        (lambda: layers.Embedding(3, 2), "flipout", FLIPOUT),
        (lambda: layers.EinsumDense("ab,bc->ac", 2), "flipout", FLIPOUT),
        (lambda: layers.DepthwiseConv2D(2), "flipout", FLIPOUT),
        (lambda: layers.Conv2DTranspose(2, 2), "flipout", FLIPOUT),
        (lambda: layers.SeparableConv1D(2, 2), "flipout", FLIPOUT),
        (lambda: layers.TimeDistributed(layers.Dense(2)), "flipout", FLIPOUT),
        (lambda: GaussianWeightNoise(layers.Dense(2)), "flipout", FLIPOUT),
        (lambda: keras.Sequential([layers.Dense(2)]), "flipout", FLIPOUT),
        (lambda: OwnCall(2), "flipout", "its `call` is not that of `keras.layers.Dense`"),
        (lambda: OwnKernel(2), "flipout", "its `kernel` is not"),
        (
            lambda: Standardized(2, 2),
            "flipout",
            "its `convolution_op` is not that of `keras.layers.Conv2D`",
        ),
        (patched, "flipout", "its `call` is not"),
        (lambda: OwnCall(2), "local_reparameterization", "its `call` is not"),
        (lambda: layers.Conv1D(2, 2), "local_reparameterization", LOCAL),
        (lambda: layers.Conv3D(2, 2), "local_reparameterization", LOCAL),
        (lambda: layers.EinsumDense("abc,cd->abd", (None, 2)), "local_reparameterization", LOCAL),
    ],
)
def test_layers_it_does_not_apply_to(make, estimator, message):
    layer = make()
    with pytest.raises(ValueError, match=message + ".*Received: layer=.*, estimator="):
        GaussianWeightNoise(layer, estimator=estimator)
    GaussianWeightNoise(layer)  # As ever.


def test_subclasses_that_compute_the_same_are_welcome():
    class Named(layers.Dense):
        def get_config(self):
            return super().get_config()

    GaussianWeightNoise(Named(2), estimator="flipout")(tf.ones((2, 3)), training=True)


def test_local_reparameterization_refuses_positions():
    message = (
        r"(?s)one kernel serves several positions.*Expected inputs of shape \(batch, features\)"
    )
    layer = GaussianWeightNoise(layers.Dense(2), estimator="local_reparameterization")
    with pytest.raises(ValueError, match=message + r".*input_shape=\(None, 5, 4\)"):
        layer.build((None, 5, 4))
    with pytest.raises(ValueError, match=message + r".*input_shape=\(None, 5, 4\)"):
        layer(keras.Input((5, 4)))
    layer(tf.ones((3, 4)))
    with pytest.raises(ValueError, match=message + r".*input_shape=\(3, 5, 4\)"):
        layer(tf.ones((3, 5, 4)), training=True)


@pytest.mark.parametrize("estimator", ESTIMATORS[1:])
def test_lora_is_refused(estimator):
    layer, x = wrapped(estimator=estimator)
    layer.layer.enable_lora(2)
    layer(x)
    with pytest.raises(
        ValueError, match=r"Expected a layer without LoRA.*Received: a layer with LoRA"
    ):
        layer(x, training=True)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS[1:])
@pytest.mark.parametrize("mode", ["float8", "int8"])
def test_quantized_layers_are_refused_or_plain(estimator, mode):
    layer, x = wrapped(estimator=estimator)
    layer.layer.quantize(mode)
    layer(x)
    if mode == "float8":  # Which trains its kernel.
        with pytest.raises(ValueError, match="Received: a layer with mode 'float8'"):
            layer(x, training=True)
    else:
        with pytest.warns(UserWarning, match="does not perturb the quantized kernels"):
            np.testing.assert_array_equal(layer(x, training=True), layer.layer(x))


@pytest.mark.parametrize("estimator", ESTIMATORS[1:])
def test_frozen_layers_are_plain(estimator):
    layer, x = wrapped(estimator=estimator)
    layer.layer.trainable = False
    with pytest.warns(UserWarning, match="does not perturb anything"):
        np.testing.assert_array_equal(layer(x, training=True), layer.layer(x))


# Laws.


@pytest.mark.any_version
@pytest.mark.parametrize(("case", "estimator", "relative_to"), APPLICABLE)
def test_covariances_are_those_of_weight_noise(case, estimator, relative_to):
    """Mean 0; within an example J S J', between examples that or 0, by estimator."""
    layer, x = wrapped(case, estimator, relative_to=relative_to)
    count = 2000
    draws = noise_draws(layer, x, count).astype("float64")
    draws = draws.reshape(count, -1)
    j = jacobian(layer, x) * perturbation_size(layer).ravel()
    j = j.reshape(draws.shape[1], -1).astype("float64")
    expected = j @ j.T
    if estimator != "shared":
        half = len(expected) // 2
        expected[:half, half:] = expected[half:, :half] = 0.0
    variances = np.diag(expected)
    # Six standard errors. Those of a product of two outputs: Var(ab) <= 3 Var(a) Var(b), as for each of
    # them E[a^4] <= 3 Var(a)^2; both are Gaussian.
    assert np.all(np.abs(draws.mean(0)) < 6.0 * np.sqrt(variances / count))
    bound = 6.0 * np.sqrt(3.0 * np.outer(variances, variances) / count)
    np.testing.assert_array_less(np.abs(draws.T @ draws / count - expected), bound + 1e-12)
    # And the outputs are Gaussian.
    scores = draws[:, variances > 0.0] / np.sqrt(variances[variances > 0.0])
    assert all(stats.kstest(column, "norm").pvalue > 1e-6 for column in scores.T)


@pytest.mark.any_version
@pytest.mark.parametrize("estimator", ["shared", "local_reparameterization"])
def test_local_reparameterization_is_brute_force_weight_noise(estimator):
    """In law, jointly for all outputs of a batch."""
    layer, x = wrapped(estimator=estimator)
    kernel = layer.layer.kernel.numpy().astype("float64")
    count = 4000
    draws = noise_draws(layer, x, count).astype("float64")
    brute = np.einsum(
        "bi,nbio->nbo", x, np.random.default_rng(5).normal(0, 0.5, (count, 2, *kernel.shape))
    )
    # A sum over examples: its variance is that of independent examples, and not of one kernel.
    p = stats.ks_2samp(draws.sum((1, 2)), brute.sum((1, 2))).pvalue
    # A product of squares: those of one kernel are large together.
    q = stats.ks_2samp(np.log(draws**2).sum((1, 2)), np.log(brute**2).sum((1, 2))).pvalue
    if estimator == "local_reparameterization":
        assert min(p, q) > 1e-4
    else:
        assert min(p, q) < 1e-6


@pytest.mark.any_version
@pytest.mark.parametrize("relative_to", ["max", "channel_max", "weight"])
@pytest.mark.parametrize("case", ["dense_time", "conv1d", "groups"])
def test_flipout_shows_each_example_one_kernel(case, relative_to):
    """That of `"shared"`, with the signs of rows and columns flipped for each example."""
    layer, x = wrapped(case, "flipout", relative_to=relative_to)
    outputs = (layer(x, training=True) - layer(x)).numpy().reshape(len(x), -1)
    noise = shared_noise(layer)
    j = jacobian(layer, x)
    groups = getattr(layer.layer, "groups", 1)
    channels, filters = noise.shape[-2] * groups, noise.shape[-1]
    group = np.arange(filters) // (filters // groups)
    found = []
    for example, output in zip(j, outputs, strict=True):
        for bits in range(2 ** (channels + filters - 1)):  # All signs flipped are none flipped.
            signs = 1.0 - 2.0 * (bits >> np.arange(channels + filters) & 1)
            before, after = signs[:channels].reshape(groups, -1), signs[channels:]
            flipped = noise * before[group].T * after
            if np.allclose(example @ flipped.ravel(), output, rtol=1e-4, atol=1e-5):
                found.append(bits)
    assert len(found) >= len(x)
    assert len(set(found)) > 1


@pytest.mark.any_version
@pytest.mark.parametrize("estimator", ["flipout", "local_reparameterization"])
def test_flipout_shares_its_sizes_and_local_reparameterization_nothing(estimator):
    layer = GaussianWeightNoise(layers.Dense(500, use_bias=False), estimator=estimator, seed=1)
    x = tf.ones((2, 1))
    layer(x)
    a, b = np.abs(layer(x, training=True) - layer(x))
    if estimator == "flipout":
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    else:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5.0 / np.sqrt(500)


# Draws.


@pytest.mark.parametrize("law", [laws.NORMAL, laws.SIGN], ids=str)
@pytest.mark.parametrize("units", [3, 700])  # The second is compiled.
def test_draws_of_unknown_shape_are_those_of_known(law, units):
    @tf.function(input_signature=[tf.TensorSpec((None, 1))])
    def unknown(x):
        return drawing.draw_shape(law, make_key(1, 2), 64, (tf.shape(x)[0], units, 2))

    for size in (5, 100, 0):
        (known,) = drawing.draw(law, make_key(1, 2), [64], [(size, units, 2)])
        actual = unknown(tf.zeros((size, 1)))
        np.testing.assert_allclose(actual, known, rtol=1e-5, atol=1e-6)
        same = drawing.draw_shape(law, make_key(1, 2), 64, (size, units, 2))
        np.testing.assert_array_equal(same, known)


@pytest.mark.any_version
def test_signs_are_fair_and_independent():
    n = 2**21

    def signs(seed, step, start=0, count=n):
        return drawing.draw_signs(make_key(seed, step), start, (count,)).numpy()

    first = signs(1, 2)
    assert set(first) == {-1.0, 1.0}
    bound = 5.0 / np.sqrt(n)  # Five standard errors of a mean of signs.
    assert abs(first.mean()) < bound
    assert np.all(np.abs(first.reshape(-1, 32).mean(0)) < bound * np.sqrt(32))
    for lag in (1, 2, 31, 32, 33, 1024):
        assert abs((first[lag:] * first[:-lag]).mean()) < 1.01 * bound
    for other in (signs(1, 3), signs(2, 2), signs(1, 2, start=n)):
        assert abs((first * other).mean()) < bound
    np.testing.assert_array_equal(signs(1, 2, count=1000), first[:1000])
    np.testing.assert_array_equal(signs(1, 2, start=64, count=32), first[64 * 32 : 65 * 32])
    assert signs(1, 2, count=0).shape == (0,)


@pytest.mark.any_version
def test_signs_are_independent_of_each_other_and_of_the_kernel_noise():
    layer = GaussianWeightNoise(layers.Dense(16, use_bias=False), estimator="flipout", seed=1)
    examples = 256
    x = tf.tile(
        tf.eye(16)[None], (examples, 1, 1)
    )  # Position i shows row i of an example's kernel.
    layer(x)
    kernels = (layer(x, training=True) - layer(x)).numpy()
    noise = shared_noise(layer)
    np.testing.assert_allclose(np.abs(kernels), np.tile(np.abs(noise), (examples, 1, 1)), atol=1e-5)
    flips = np.sign(kernels * noise)
    before, after = flips[:, :, :1], flips[:, :1, :] * flips[:, :1, :1]
    np.testing.assert_array_equal(flips, before * after)
    # Known up to one sign for each example: compared with the first.
    signs = np.concatenate([before[:, 1:, 0] * before[:, :1, 0], after[:, 0, 1:]], 1)
    assert np.all(np.abs(signs.mean(0)) < 5.0 / np.sqrt(examples))
    products = signs.T @ signs / examples - np.eye(30)
    assert np.all(np.abs(products) < 5.5 / np.sqrt(examples))
    # Had they the kernel's random numbers, then example i those of the kernel's element i: the two
    # highest bits of that differ where |n| > 0.6745.
    large = np.abs(noise.ravel()) > 0.6745 * 0.1
    assert abs(np.mean(signs[:, 0] * (1.0 - 2.0 * large))) < 5.0 / np.sqrt(examples)


@pytest.mark.parametrize("estimator", ESTIMATORS[1:])
def test_each_call_draws_anew_and_a_seed_repeats(estimator):
    layer, x = wrapped(estimator=estimator)
    again, _ = wrapped(estimator=estimator)
    again.set_weights(layer.get_weights())
    a, b = layer(x, training=True), layer(x, training=True)
    assert np.all(a != b)
    np.testing.assert_array_equal(again(x, training=True), a)
    other, _ = wrapped(estimator=estimator, seed=2)
    other.set_weights(layer.get_weights())
    assert np.all(other(x, training=True) != a)


@pytest.mark.parametrize(("case", "estimator"), LAYERS[::4])
def test_the_same_eagerly_in_graphs_and_under_xla_at_any_batch_size(case, estimator):
    layer, x = wrapped(case, estimator, relative_to="filter_norm")
    expected = [layer(x, training=True) for _ in range(2)]
    for size, compiled in ((None, False), (None, True), (2, True)):
        call = tf.function(
            lambda x: layer(x, training=True),
            input_signature=[tf.TensorSpec((size, *x.shape[1:]))],
            jit_compile=compiled,
        )
        layer.seed_generator.state.assign([1, 0])
        for each in expected:
            np.testing.assert_allclose(call(x), each, rtol=1e-4, atol=1e-5)


# Gradients.


@pytest.mark.parametrize(("case", "estimator", "relative_to"), APPLICABLE)
def test_gradients_of_the_variables_are_those_of_the_clean_layer(case, estimator, relative_to):
    """Of a loss that is linear in the outputs: no gradient goes through the noise or its scale."""
    layer, x = wrapped(case, estimator, relative_to=relative_to)
    weights = normal(*layer(x).shape)
    found = []
    for training in (False, True):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(weights * layer(x, training=training))
        found.append(tape.gradient(loss, layer.trainable_variables))
    for clean, noisy in zip(*found, strict=True):
        np.testing.assert_allclose(noisy, clean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("case", "estimator", "relative_to"), APPLICABLE)
def test_gradients_of_the_inputs_reach_through_the_noise(case, estimator, relative_to):
    """The noise is homogeneous in x: x times its derivative with respect to x is the noise."""
    layer, x = wrapped(case, estimator, relative_to=relative_to)
    weights = normal(*layer(x).shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        noise = tf.reduce_sum(weights * (layer(x, training=True) - layer(x)))
    derivative = tf.reduce_sum(x * tape.gradient(noise, x))
    np.testing.assert_allclose(derivative, noise, rtol=1e-3, atol=1e-4)


@pytest.mark.any_version
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_mean_gradient_of_the_inputs_is_that_of_weight_noise(estimator):
    """E |x (W + dW)|^2 = |x W|^2 + units stddev^2 |x|^2, for each example."""
    layer, x = wrapped(estimator=estimator, use_bias=False)
    kernel, count = layer.layer.kernel.numpy(), 4000

    @tf.function
    def gradients():
        def gradient(_):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer(x, training=True) ** 2)
            return tape.gradient(loss, x)

        return tf.map_fn(gradient, tf.range(count), fn_output_signature="float32")

    draws = gradients().numpy()
    expected = 2.0 * x @ kernel @ kernel.T + 2.0 * 3 * 0.5**2 * x
    errors = (draws.mean(0) - expected) / (draws.std(0) / np.sqrt(count))
    assert np.all(np.abs(errors) < 5.0)


@pytest.mark.any_version
@pytest.mark.parametrize("relative_to", ["std", "channel_max", "weight"])
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_are_finite_where_there_is_no_variance(relative_to, compiled):
    layer, x = wrapped("dense", "local_reparameterization", relative_to=relative_to)
    zero_row = x * [[0.0], [1.0]]
    layer.layer.kernel.assign(layer.layer.kernel * [0.0, 1.0, 1.0])  # And a dead output.

    @tf.function(jit_compile=compiled)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, training=True)
        return outputs, tape.gradient(outputs, [x, *layer.trainable_variables])

    outputs, gradients = step(zero_row)
    np.testing.assert_array_equal(outputs[0], layer.layer.bias)
    assert all(np.all(np.isfinite(g)) for g in gradients)
    np.testing.assert_allclose(
        gradients[0][0], tf.reduce_sum(layer.layer.kernel, 1), rtol=1e-5, atol=1e-6
    )


# As Keras calls layers.


@pytest.mark.parametrize(("case", "estimator"), LAYERS)
def test_inference_is_the_plain_layer(case, estimator):
    layer, x = wrapped(case, estimator, activation="relu")
    for training in (False, None):
        np.testing.assert_array_equal(layer(x, training=training), layer.layer(x))
    assert layer.seed_generator.state.numpy().tolist() == [1, 0]
    layer.stddev = 0.0
    np.testing.assert_array_equal(layer(x, training=True), layer.layer(x))


@pytest.mark.parametrize(("case", "estimator"), LAYERS)
@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_without_noise_to_speak_of_it_is_the_plain_layer(case, estimator, policy):
    """Its formula is the layer's: bias, activation, strides, padding, casts, dtype."""
    layer, x = wrapped(case, estimator, 1e-30, activation="elu", dtype=policy)
    outputs = layer(x, training=True)
    assert outputs.dtype == layer.layer.compute_dtype
    plain = tf.cast(layer.layer(x), "float32")
    np.testing.assert_allclose(tf.cast(outputs, "float32"), plain, rtol=1e-2, atol=1e-2)
    if policy == "float64":
        np.testing.assert_allclose(outputs, layer.layer(x), rtol=1e-5, atol=1e-6)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True))
    assert all(
        g.dtype == layer.variable_dtype for g in tape.gradient(loss, layer.trainable_variables)
    )


@pytest.mark.any_version
@pytest.mark.parametrize("relative_to", [None, "channel_max", "weight"])
@pytest.mark.parametrize("estimator", ESTIMATORS[1:])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_low_precision_has_the_same_noise_to_rounding(estimator, policy, relative_to):
    """Where neither squares of the inputs nor their product with n ~ N(0, 1) fit into float16."""
    outputs = []
    x = 3000.0 * normal(3, 200)  # A norm of 42,000.
    for dtype in ("float32", policy):
        layer = GaussianWeightNoise(
            layers.Dense(5, dtype=dtype), 0.05, relative_to=relative_to, estimator=estimator, seed=1
        )
        layer(x)
        layer.layer.kernel.assign(outputs[0][1] if outputs else layer.layer.kernel)
        noise = layer(x, training=True) - layer(x)
        outputs.append((tf.cast(noise, "float32"), layer.layer.kernel.numpy()))
    # The outputs are below 2^15, where bfloat16 rounds by up to 64; so does their difference.
    atol = {"mixed_float16": 32.0, "mixed_bfloat16": 256.0, "float64": 0.1}[policy]
    np.testing.assert_allclose(outputs[1][0], outputs[0][0], rtol=1e-2, atol=atol)


def test_integer_and_keyword_inputs():
    for estimator in ESTIMATORS[1:]:
        layer = GaussianWeightNoise(layers.Dense(2), estimator=estimator, seed=1)
        ids = tf.constant([[1, 2], [3, 4]])
        plain = layer(ids)
        outputs = layer(inputs=ids, training=True)
        assert outputs.dtype == plain.dtype
        assert np.all(outputs != plain)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_losses_and_masks_are_the_layers(estimator):
    layer, x = wrapped(
        estimator=estimator, stddev=1e-30, activity_regularizer="l2", kernel_regularizer="l1"
    )
    layer.layer(x)
    plain = [float(loss) for loss in layer.layer.losses]
    layer(x, training=True)
    np.testing.assert_allclose([float(loss) for loss in layer.losses], plain, rtol=1e-5)
    np.testing.assert_allclose([float(loss) for loss in layer.layer.losses], plain, rtol=1e-5)
    if estimator != "local_reparameterization":
        ids = tf.constant([[1, 2, 0], [3, 0, 0]])
        masked = layers.Embedding(5, 4, mask_zero=True)(ids)
        outputs = GaussianWeightNoise(layers.Dense(2), estimator=estimator)(masked, training=True)
        np.testing.assert_array_equal(outputs._keras_mask, ids != 0)


def test_activations_with_state_keep_it():
    norm = layers.BatchNormalization()
    layer = GaussianWeightNoise(layers.Dense(3, activation=norm), estimator="flipout", seed=1)
    x = normal(20, 4) + 3.0
    layer(x)
    layer(x, training=True)
    assert np.any(norm.moving_mean.numpy() != 0.0)


def test_inside_of_other_noise():
    """Which replaces what the kernel reads as: it is there, and its gradient arrives."""
    layer, x = wrapped(estimator="local_reparameterization", stddev=1e-30)
    model = keras.Sequential([keras.Input((4,)), layer])
    with tf.GradientTape() as tape:
        outputs = noisy_call(model, 0.5, x, seed=3, step=4, training=True)
    expected = noisy_call(model, 0.5, x, seed=3, step=4, training=False)
    assert np.all(expected != model(x))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    assert all(np.any(g) for g in tape.gradient(outputs, layer.trainable_variables))


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("case", "estimator"), [("conv1d", "flipout"), ("dense", ESTIMATORS[2])])
def test_fit_save_load_clone(case, estimator, jit_compile, tmp_path):
    make, shape = CASES[case]
    model = keras.Sequential(
        [keras.Input(shape), GaussianWeightNoise(make(), estimator=estimator, relative_to="std")]
    )
    x = normal(10, *shape)
    y = tf.zeros_like(model(x))
    model.compile("sgd", "mse", jit_compile=jit_compile)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    cloned = keras.models.clone_model(model)
    for other in (loaded, cloned):
        assert other.layers[0].estimator == estimator
        assert len(other.weights) == len(model.weights) == 2
        assert np.any(other(x, training=True) != other(x))
    np.testing.assert_array_equal(loaded(x), model(x))


def test_training_under_a_strategy():
    with fits.strategy().scope():
        layer = GaussianWeightNoise(layers.Dense(2), estimator="flipout")
        model = keras.Sequential([keras.Input((4,)), layer])
        model.compile("sgd", "mse", jit_compile=False)
    model.fit(normal(8, 4), tf.zeros((8, 2)), verbose=0)

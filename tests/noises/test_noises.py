"""Each noise against its formula, and what all of them have in common."""

import copy
import pickle
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_weightnoise import noises as N
from keras_weightnoise._random import laws
from keras_weightnoise._weights.draws import draw
from keras_weightnoise._weights.perturbation import perturb, perturb_assigned
from keras_weightnoise._weights.resolution import warn_below_resolution
from keras_weightnoise._weights.selection import Target
from keras_weightnoise.schedules import CosineRamp, LinearRamp

MILLION = (1000, 1000)
RAMP = LinearRamp(0.0, 0.1, start_step=5, ramp_steps=10)

# At least one of each, with what can change how it is computed.
EVERY = [
    N.Gaussian(0.1),
    N.Gaussian(0.1, relative_to="filter_norm", exact=True),
    N.TruncatedGaussian(0.1, relative_to="std"),
    N.Uniform(0.1, relative_to="weight"),
    N.Rademacher(0.1, relative_to="range"),
    N.Learned(0.1),
    N.LogNormal(0.2),
    N.DropConnect(0.3),
    N.DropConnect(0.3, rescale=False),
    N.Quantization(4),
    N.Quantization(8, 0.5, symmetric=False, per_channel=True),
    N.PseudoQuantization(4),
    N.StuckAt(0.1),
    N.StuckAt(0.1, "min"),
    N.BitFlip(0.05, bits=6),
    N.PCM(3600.0),
    N.ReRAM(tile=16),
    N.Polynomial([0.1, 0.1]),
    N.Gaussian(0.1, "max", tile=(16, 9)),
    N.PCM(3600.0, compensation="global", one_chip=True),
    N.Gaussian(0.1, generator="philox"),
    N.StuckAt(0.1, generator="philox") + N.TruncatedGaussian(0.1, "max", generator="philox"),
    N.Compose([N.Quantization(4), N.Gaussian(0.05, "max"), N.StuckAt(0.1, "max")]),
]
NEW_IN_EACH_STEP = [
    noise
    for noise in EVERY
    if {draw.new_for for member in noise.members for draw in member.draws} == {"step"}
]
each_noise = pytest.mark.parametrize("noise", EVERY, ids=repr)


@pytest.fixture(autouse=True)
def _fresh():
    """In place of the one of all tests: these leave nothing behind, and there are many."""


def target(shape, start=0):
    """A target like a Dense kernel or, of rank 1, a bias."""
    variable = types.SimpleNamespace(shape=shape)  # In a graph, no variable can be made.
    axes = tuple(range(len(shape) - (len(shape) > 1)))
    return Target(variable, None, start, axes, rho=tf.constant(0.5, shape=shape))


def noisy(noise, w, step=0, seed=1, start=0):
    w = tf.convert_to_tensor(w)
    return perturb(
        noise,
        [target(w.shape, start)],
        [w],
        seed=seed,
        step=step,
        magnitudes=noise.magnitudes_at(step),
    )[0]


def normal(shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(0.1, 1, shape).astype(dtype)


# Laws ----------------------------------------------------------------------------------------------

ONE = np.ones(MILLION, "float64")
UNIT = {  # Noise, the weight, what of w' has a known law, and the law.
    "Gaussian": (N.Gaussian(0.1), ONE, lambda x: (x - 1) / 0.1, stats.norm),
    "Gaussian, relative": (
        N.Gaussian(0.2, "weight"),
        -3 * ONE,
        lambda x: (x + 3) / 0.6,
        stats.norm,
    ),
    "TruncatedGaussian": (
        N.TruncatedGaussian(0.1),
        ONE,
        lambda x: (x - 1) / 0.1,
        stats.truncnorm(-2, 2),
    ),
    "Uniform": (N.Uniform(0.1), ONE, lambda x: (x - 1) / 0.1, stats.uniform(-1, 2)),
    "Learned": (N.Learned(0.5), ONE, lambda x: (x - 1) / 0.5 / np.log1p(np.exp(0.5)), stats.norm),
    "LogNormal": (N.LogNormal(0.3), -2 * ONE, lambda x: np.log(x / -2) / 0.3, stats.norm),
    "PseudoQuantization": (
        N.PseudoQuantization(3),
        np.pad(ONE, ((1, 0), (0, 0)), constant_values=15.0),
        lambda x: x[1:] - 1,  # Of a step of (15 - 1) / 7.
        stats.uniform(-1, 2),
    ),
    "PseudoQuantization, scaled": (
        N.PseudoQuantization(3, scale=0.5),
        np.pad(ONE, ((1, 0), (0, 0)), constant_values=15.0),
        lambda x: x[1:] - 1,
        stats.uniform(-0.5, 1),
    ),
}


@pytest.mark.slow
@pytest.mark.any_version
@pytest.mark.parametrize(("noise", "w", "unit", "law"), UNIT.values(), ids=UNIT)
def test_law(noise, w, unit, law):
    x = unit(noisy(noise, w).numpy()).ravel()
    assert stats.kstest(x, law.cdf).pvalue > 0.01
    assert abs(np.mean(x)) < 5 * law.std() / 1000
    assert np.var(x) == pytest.approx(law.var(), rel=0.01)
    low, high = law.support()
    assert low - 1e-6 <= x.min()  # Magnitudes are float32.
    assert x.max() <= high + 1e-6


def counts_as(hits, probability):
    return stats.binomtest(int(np.sum(hits)), hits.size, probability).pvalue > 0.01


def test_truncated_gaussian_has_the_stated_stddev():
    x = noisy(N.TruncatedGaussian(1.0), np.zeros(MILLION)).numpy()
    assert np.std(x) == pytest.approx(0.8796, abs=0.002)


def test_rademacher():
    x = noisy(N.Rademacher(0.25), np.ones(MILLION, "float32")).numpy()
    assert set(np.unique(x)) == {0.75, 1.25}
    assert counts_as(x > 1, 0.5)


@pytest.mark.parametrize("rate", [0.001, 0.03, 0.5, 0.9])
def test_drop_connect(rate):
    w = normal(MILLION)
    kept = noisy(N.DropConnect(rate), w).numpy()
    assert counts_as(kept == 0, rate)
    np.testing.assert_allclose(kept[kept != 0], w[kept != 0] / np.float32(1 - rate), rtol=1e-6)
    unscaled = noisy(N.DropConnect(rate, rescale=False), w).numpy()
    np.testing.assert_array_equal(unscaled, np.where(kept == 0, 0, w))


@pytest.mark.parametrize("rescale", [True, False])
def test_drop_connect_can_drop_all(rescale):
    assert not np.any(noisy(N.DropConnect(1.0, rescale), normal((50, 50))))


@pytest.mark.parametrize("rate", [0.002, 0.4])
@pytest.mark.parametrize(
    ("value", "stuck"), [("zero", lambda w: 0), ("min", np.min), ("max", np.max)]
)
def test_stuck_at(rate, value, stuck):
    w = normal(MILLION)
    x = noisy(N.StuckAt(rate, value), w).numpy()
    moved = x != w
    assert counts_as(moved, rate)
    assert set(x[moved]) == {np.float32(stuck(w))}


# Quantization --------------------------------------------------------------------------------------

REFERENCES = {
    "symmetric, 2 bits": (N.Quantization(2), [-1, -0.6, -0.4, 0, 0.9], [-1, -1, 0, 0, 1]),
    "symmetric, 3 bits": (N.Quantization(3), [-3, -1.4, 0.2, 1.6, 2.4], [-3, -1, 0, 2, 2]),
    "ties to even": (N.Quantization(3), [3, 0.5, 1.5, 2.5, -0.5, -1.5], [3, 0, 2, 2, 0, -2]),
    "affine": (N.Quantization(2, symmetric=False), [-1, -0.3, 0.7, 2], [-1, 0, 1, 2]),
    "affine, all positive": (N.Quantization(2, symmetric=False), [4, 4.4, 5.6, 7], [4, 4, 6, 7]),
    # Both ends tie: 0.5 goes to 0, and 3.5 to 4, which would be a fifth code.
    "affine, clipped": (N.Quantization(2, symmetric=False), [0.5, 1.6, 3.5], [0, 2, 3]),
    "affine, constant": (N.Quantization(2, symmetric=False), [0.3, 0.3], [0.3, 0.3]),
    "zeros": (N.Quantization(2), [0, 0], [0, 0]),
    "one step": (N.Quantization(3), [[3, 12], [1.4, 5]], [[4, 12], [0, 4]]),
    "a step per channel": (
        N.Quantization(3, per_channel=True),
        [[3, 12], [1.4, 5]],
        [[3, 12], [1, 4]],
    ),
    "affine, per channel": (
        N.Quantization(2, symmetric=False, per_channel=True),
        [[0, 0], [1.4, 7.4], [3, 12]],
        [[0, 0], [1, 8], [3, 12]],
    ),
}


@pytest.mark.parametrize(("noise", "w", "expected"), REFERENCES.values(), ids=REFERENCES)
def test_quantization_reference(noise, w, expected):
    np.testing.assert_allclose(noisy(noise, np.float32(w)), expected, rtol=1e-6)


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("symmetric", [True, False])
def test_quantization_is_rounding_to_a_grid(bits, symmetric):
    w = normal((300, 300))
    x = noisy(N.Quantization(bits, symmetric=symmetric), w).numpy()
    wide = w.astype("float64")
    step = (
        np.max(np.abs(wide)) / (2 ** (bits - 1) - 1) if symmetric else np.ptp(wide) / (2**bits - 1)
    )
    # In codes, of which float32 has seven digits.
    tolerance = 2**bits * 3e-7
    assert np.max(np.abs(x - wide)) / step <= 0.5 + tolerance
    codes = x / step
    np.testing.assert_allclose(codes, np.round(codes), rtol=0, atol=tolerance)
    assert len(np.unique(np.round(codes))) <= 2**bits - symmetric


@pytest.mark.parametrize("probability", [0.01, 0.5, 0.95])
def test_quant_noise_rounds_a_fraction(probability):
    w = normal(MILLION)
    whole = noisy(N.Quantization(4), w).numpy()
    x = noisy(N.Quantization(4, probability), w).numpy()
    assert counts_as(x == whole, probability)
    np.testing.assert_array_equal(x[x != whole], w[x != whole])


def test_quantization_of_all_weights_draws_nothing():
    assert N.Quantization(4).draws == ()
    assert N.Quantization(4, 0.5).draws == N.Quantization(4, RAMP).draws == (N.Draw(laws.UNIFORM),)


# Bit flips -----------------------------------------------------------------------------------------


def flipped_bits(w, x, bits):
    """The bit pattern by which two weights' codes differ."""
    step = np.max(np.abs(w)) / (2 ** (bits - 1) - 1)
    before, after = np.round(w / step).astype(int), np.round(x / step).astype(int)
    assert np.min(after) >= -(2 ** (bits - 1))
    assert np.max(after) < 2 ** (bits - 1)
    return (before ^ after) & (2**bits - 1)


@pytest.mark.parametrize(("bits", "rate"), [(8, 0.02), (4, 0.3), (4, 0.7), (2, 0.5), (16, 0.001)])
def test_every_bit_flips_with_its_rate(bits, rate):
    w = normal(MILLION)
    x = noisy(N.BitFlip(rate, bits), w).numpy()
    patterns = flipped_bits(w.astype("float64"), x.astype("float64"), bits)
    for bit in range(bits):
        # The sixteenth part of a per cent: sixteen tests at once.
        hits = int(np.sum(patterns >> bit & 1))
        assert stats.binomtest(hits, w.size, rate).pvalue > 0.0005
    # All but the hit ones are exact.
    np.testing.assert_array_equal(x[patterns == 0], w[patterns == 0])


@pytest.mark.parametrize(("bits", "rate"), [(4, 0.3), (4, 0.6), (3, 0.05)])
def test_bits_flip_independently(bits, rate):
    w = normal(MILLION)
    x = noisy(N.BitFlip(rate, bits), w).numpy()
    patterns = flipped_bits(w.astype("float64"), x.astype("float64"), bits)
    ones = np.array([bin(i).count("1") for i in range(2**bits)])
    expected = w.size * rate**ones * (1 - rate) ** (bits - ones)
    assert stats.chisquare(np.bincount(patterns.ravel(), minlength=2**bits), expected).pvalue > 0.01


def test_bits_of_twos_complement():
    # Codes 3, 1, 0, -2, -3; all bits flipped: -q - 1.
    x = noisy(N.BitFlip(1.0, bits=3), np.float32([3, 1, 0, -2, -3]))
    np.testing.assert_allclose(x, [-4, -2, -1, 1, 2], rtol=1e-6)


def test_bit_errors_of_a_quantized_network():
    w = normal((300, 300))
    x = noisy(N.Quantization(6) + N.BitFlip(0.05, 6), w).numpy()
    codes = x / (np.max(np.abs(w)) / 31)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)
    assert codes.min() == pytest.approx(-32)


# Independence --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"seed": 2}, {"step": 1}, {"start": 10**6}], ids=str)
@pytest.mark.parametrize("noise", NEW_IN_EACH_STEP, ids=repr)
def test_draws_are_independent(noise, other):
    # Columns of two weights each, so that what varies besides is the noise.
    w = np.tile(normal((2, 500)), (250, 1))
    moves = [(noisy(noise, w, **where).numpy() - w).reshape(250, 2, 500) for where in ({}, other)]
    x, y = (m - m.mean(0) for m in moves)
    assert np.any(x)
    assert abs(np.sum(x * y)) < 5 * np.sqrt(np.sum(x**2 * y**2))


@each_noise
def test_a_pure_function(noise):
    w = normal((30, 40))
    np.testing.assert_array_equal(noisy(noise, w, 7, 3), noisy(copy.deepcopy(noise), w, 7, 3))


# Composition ---------------------------------------------------------------------------------------


def test_members_have_draws_of_their_own():
    x = noisy(N.Gaussian(1.0) + N.Gaussian(1.0), np.zeros(MILLION)).numpy()
    # The same draw twice would have the variance 4.
    assert np.var(x) == pytest.approx(2, rel=0.01)
    x = noisy(N.StuckAt(0.5, "zero") + N.DropConnect(0.5, rescale=False), np.ones(MILLION)).numpy()
    assert counts_as(x == 1, 0.25)


def test_members_are_applied_in_order():
    w = normal((50, 50))
    quantization, gaussian = N.Quantization(3), N.Gaussian(0.1, "max")
    # The first draw is the same, alone or composed.
    by_hand = noisy(gaussian, noisy(quantization, w))
    np.testing.assert_array_equal(noisy(quantization + gaussian, w), by_hand)
    by_hand = noisy(quantization, noisy(gaussian, w))
    np.testing.assert_array_equal(noisy(gaussian + quantization, w), by_hand)


def test_compositions_are_flat():
    a, b, c = N.Gaussian(0.1), N.StuckAt(0.1), N.LogNormal(0.1)
    flat = N.Compose([a, b, c])
    assert flat.members == (a, b, c)
    assert a + b + c == a + (b + c) == N.Compose([N.Compose([a, b]), c]) == flat
    assert N.Compose([0.1, b]) == a + b
    assert a + b != b + a


@pytest.mark.parametrize("number", [0.1, np.float32(0.1), 1, RAMP], ids=str)
def test_a_number_is_a_gaussian_wherever_noises_are_composed(number):
    noise, gaussian = N.StuckAt(0.1), N.Gaussian(number)
    assert noise + number == N.Compose([noise, number]) == N.Compose([noise, gaussian])
    assert number + noise == N.Compose([number, noise]) == N.Compose([gaussian, noise])


@pytest.mark.parametrize("other", ["0.1", None, True, [0.1]], ids=str)
def test_noise_plus_what_is_no_noise_is_refused(other):
    for add in (lambda: N.Gaussian(0.1) + other, lambda: other + N.Gaussian(0.1)):
        with pytest.raises(TypeError):
            add()


def test_magnitude_at_a_step():
    assert [m.numpy() for m in N.LogNormal(0.5).magnitudes_at(3)] == [0.5]
    both = N.StuckAt(0.25) + N.Gaussian(RAMP)
    assert both.magnitudes == (0.25, RAMP)
    assert [m.dtype for m in both.magnitudes_at(15)] == [tf.float32] * 2
    np.testing.assert_allclose(both.magnitudes_at(tf.constant(15)), [0.25, 0.1])


# Gradients, dtypes, graphs -------------------------------------------------------------------------


@pytest.mark.slow
@each_noise
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_gradient_is_straight_through(noise, mode):
    w, upstream = tf.constant(normal((6, 7))), normal((6, 7), seed=1)

    def gradient(w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_sum(noisy(noise, w, step=8) * upstream)
        return tape.gradient(loss, w)

    if mode != "eager":
        gradient = tf.function(gradient, jit_compile=mode == "xla")
    np.testing.assert_array_equal(gradient(w), upstream)


def test_gradient_of_a_schedule_and_of_low_precision():
    w = tf.constant(normal((6, 7), dtype="float16"))
    for step in (0, 9):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_sum(noisy(N.Gaussian(RAMP) + N.DropConnect(RAMP), w, step) * 2)
        np.testing.assert_array_equal(tape.gradient(loss, w), np.full(w.shape, 2, "float16"))


@pytest.mark.slow
@each_noise
def test_same_values_with_and_without_xla(noise):
    w, step = tf.constant(normal((60, 70))), tf.constant(5)

    def values(w, step):
        return noisy(noise, w, step)

    eager = noisy(noise, w, 5)
    np.testing.assert_allclose(tf.function(values)(w, step), eager, rtol=1e-5, atol=2e-6)
    if any(member.generator == "philox" for member in noise.members):
        return  # TensorFlow's normals differ there.
    compiled = tf.function(values, jit_compile=True)(w, step)
    np.testing.assert_allclose(compiled, eager, rtol=1e-5, atol=2e-6)


@pytest.mark.slow
@each_noise
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_precision(noise, dtype):
    w = tf.cast(normal((60, 70)), dtype)
    x = noisy(noise, w)
    assert x.dtype == dtype
    if dtype != "float64":
        # Computed in float32, rounded once.
        np.testing.assert_array_equal(x, tf.cast(noisy(noise, tf.cast(w, "float32")), dtype))


@pytest.mark.parametrize("noise", [N.Gaussian(0.1), N.LogNormal(0.1)])
def test_double_precision(noise):
    # float32 cannot tell these weights from 1, nor the noisy ones from each other.
    w = 1 + 1e-12 * np.arange(1000)
    x, ones = noisy(noise, w).numpy(), noisy(noise, np.ones(1000)).numpy()
    factor = ones if isinstance(noise, N.LogNormal) else 1
    np.testing.assert_allclose(x - ones, (w - 1) * factor, rtol=0, atol=2e-15)


def at_zero(noise):
    changed = copy.deepcopy(noise)
    for member in changed.members:
        object.__setattr__(member, member.magnitude_name, 0.0)
    return changed


@pytest.mark.parametrize(
    "noise", [n for n in EVERY if all(m.clean_at_zero for m in n.members)], ids=repr
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_magnitude_zero_is_no_noise(noise, dtype):
    w = normal((60, 70))
    w[0, :4] = [-0.0, 0.0, np.inf, np.nan]
    w = tf.cast(w, dtype)
    assert noisy(at_zero(noise), w).numpy().tobytes() == w.numpy().tobytes()


def ops(graph):
    functions = graph.as_graph_def().library.function
    top = [op.type for op in graph.get_operations()]
    return top, [node.op for function in functions for node in function.node_def]


@pytest.mark.parametrize("noise", [N.Gaussian(RAMP), N.Gaussian(RAMP) + N.DropConnect(RAMP)])
def test_schedule_at_zero_draws_nothing(noise):
    w = tf.constant(normal((60, 70)))
    in_graph = tf.function(lambda w, step: noisy(noise, w, step))
    for step in (0, 5):
        assert in_graph(w, tf.constant(step)).numpy().tobytes() == w.numpy().tobytes()
    assert np.all(in_graph(w, tf.constant(6)) != w)
    graph = in_graph.get_concrete_function(w, tf.constant(0)).graph
    shifts = [op.outputs[0] for op in graph.get_operations() if "Shift" in op.type]
    assert all(each.shape.rank == 0 for each in shifts), "drawn outside of the branch"
    assert "PartitionedCall" not in ops(graph)[0]


@pytest.mark.parametrize(("noise", "draws"), [(N.Gaussian(0.0), False), (N.Gaussian(0.1), True)])
def test_constant_magnitudes_need_no_branch(noise, draws):
    graph = tf.function(lambda w: noisy(noise, w)).get_concrete_function(tf.zeros((3, 4))).graph
    top, nested = ops(graph)
    every = top + nested
    assert any("Shift" in op for op in every) == draws
    assert not {"If", "StatelessIf"} & set(every)


def test_many_variables_at_once():
    shapes = [(3, 4), (), (5,), (2, 3, 4)]
    targets = [target(shape, start) for shape, start in zip(shapes, (0, 64, 128, 192), strict=True)]
    values = [
        tf.constant(normal(shape), ("float32", "float64")[len(shape) % 2]) for shape in shapes
    ]
    noise = N.Gaussian(0.1, "max") + N.Quantization(3, 0.5)
    together = perturb(noise, targets, values, seed=1, step=2, magnitudes=noise.magnitudes_at(2))
    for t, w, x in zip(targets, values, together, strict=True):
        assert (x.shape, x.dtype) == (w.shape, w.dtype)
        np.testing.assert_array_equal(x, noisy(noise, w, 2, 1, t.start))


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(5, 7), (100, 300), (1001, 800)], ids=["plain", "compiled", "large"]
)
@pytest.mark.parametrize(
    "noise",
    [
        N.Gaussian(0.3),
        N.TruncatedGaussian(0.3, "weight"),
        N.Uniform(0.3, "channel_max"),
        N.Rademacher(0.3, "std"),
        N.LogNormal(0.3),
        N.StuckAt(0.1) + N.Gaussian(0.3) + N.Quantization(3),
    ],
    ids=str,
)
def test_kept_numbers_perturb_as_fresh_ones_do_to_the_bit(noise, shape):
    targets, w = [target(shape)], tf.constant(normal(shape))

    @tf.function
    def perturbed(keep, **settings):
        kept = [draw(noise, targets, **settings)] if keep else None
        magnitudes = [noise.magnitudes_at(0)]
        return perturb_assigned(
            [(noise, targets)], [w], **settings, magnitudes=magnitudes, numbers=kept
        )

    # Tensors, as in training: of constants, Grappler draws in advance, and plainly.
    settings = {"seed": tf.constant(1), "step": tf.constant(2)}
    np.testing.assert_array_equal(perturbed(True, **settings), perturbed(False, **settings))


@pytest.mark.slow
def test_exact_gaussian_noise_is_that_of_the_other_to_rounding():
    w = normal(MILLION)
    exact, other = (noisy(N.Gaussian(0.1, exact=exact), w) for exact in (True, False))
    np.testing.assert_allclose(exact, other, rtol=0, atol=2e-6)
    assert np.any(exact != other)


def test_half_of_the_noise_is_below_what_its_resolution_is_judged_by():
    references = {
        laws.NORMAL: stats.norm(),
        laws.EXACT_NORMAL: stats.norm(),
        laws.TRUNCATED_NORMAL: stats.truncnorm(-2, 2),
        laws.UNIFORM: stats.uniform(-1, 2),
    }
    for law, reference in references.items():
        number = law.half_power
        below = reference.expect(np.square, lb=-number, ub=number)
        np.testing.assert_allclose(below, reference.var() / 2, rtol=1e-6)
        np.testing.assert_allclose(law.stddev, reference.std(), rtol=1e-6)


@pytest.mark.parametrize(
    ("noise", "dtype", "lost"),
    [
        (N.Gaussian(1e-4), "bfloat16", True),
        (N.Gaussian(0.01), "bfloat16", False),
        (N.Gaussian(1e-5), "float16", True),
        (N.Gaussian(1e-9), "float32", True),
        (N.Gaussian(1e-5), "float32", False),
        (N.Gaussian(1e-9, "weight"), "float32", True),
        (N.Gaussian(0.0), "float32", False),
        (N.LogNormal(1e-4), "bfloat16", True),
        (N.DropConnect(1e-3), "bfloat16", False),
        (N.StuckAt(0.1) + N.Gaussian(1e-5), "bfloat16", True),
        (N.Quantization(4), "bfloat16", False),
        (N.Quantization(16), "bfloat16", True),
    ],
    ids=str,
)
def test_noise_below_the_resolution(noise, dtype, lost):
    w = normal((100, 100))
    variable = keras.Variable(w, dtype=dtype, name="kernel")
    targets = [Target(variable, None, 0, (0,))]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_below_resolution(noise, targets, noise.magnitudes_at(0))
    messages = [str(w.message) for w in caught if "lost to rounding" in str(w.message)]
    assert bool(messages) == lost
    if lost:
        assert f"kernel ({dtype})" in messages[0]
        assert f"Received: noise={noise.members[-1]}" in messages[0]


# Values, files, arguments --------------------------------------------------------------------------

SCHEDULED = [
    N.Gaussian(RAMP, "std"),
    N.DropConnect(CosineRamp(0.0, 0.5, 1, 2)),
    N.Quantization(4, keras.optimizers.schedules.PolynomialDecay(0.1, 10, 1.0)),
    N.Gaussian(RAMP) + N.StuckAt(RAMP),
]


@keras.saving.register_keras_serializable(package="test_noises")
class Holder(keras.Layer):
    def __init__(self, noise, **kwargs):
        super().__init__(**kwargs)
        self.noise = N.get(noise)

    def call(self, x):
        return x

    def get_config(self):
        noise = keras.saving.serialize_keras_object(self.noise)
        return {**super().get_config(), "noise": noise}


@pytest.mark.parametrize("noise", EVERY + SCHEDULED, ids=repr)
def test_value_semantics(noise):
    serialized = keras.saving.serialize_keras_object(noise)
    for other in (
        keras.saving.deserialize_keras_object(serialized),
        N.get(serialized),
        type(noise).from_config(noise.get_config()),
        copy.deepcopy(noise),
    ):
        assert other == noise
        assert hash(other) == hash(noise)
        assert type(other) is type(noise)
    with pytest.raises(AttributeError):
        noise.stddev = 1.0
    assert noise != N.Gaussian(0.7)
    if noise in EVERY:
        assert pickle.loads(pickle.dumps(noise)) == noise
        assert eval(repr(noise), vars(N)) == noise


@pytest.mark.parametrize("noise", EVERY + SCHEDULED, ids=repr)
def test_inside_a_keras_file(noise, tmp_path):
    model = keras.Sequential([keras.Input((3,)), Holder(noise, name="holder")])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").get_layer("holder").noise
    assert loaded == noise
    w = normal((10, 10))
    np.testing.assert_array_equal(noisy(loaded, w, 12), noisy(noise, w, 12))


def test_equal_numbers_make_equal_noises():
    same = [N.Gaussian(x) for x in (1, 1.0, np.float32(1), np.int64(1))]
    assert len({repr(noise) for noise in same}) == len(set(same)) == 1
    assert repr(N.BitFlip(0.5, np.int64(4))) == "BitFlip(rate=0.5, bits=4)"


@pytest.mark.parametrize(
    ("argument", "noise"),
    [
        (0.1, N.Gaussian(0.1)),
        (0, N.Gaussian(0.0)),
        (np.float32(0.5), N.Gaussian(0.5)),
        (RAMP, N.Gaussian(RAMP)),
        (N.StuckAt(0.1), N.StuckAt(0.1)),
    ],
)
def test_what_stands_for_a_noise(argument, noise):
    assert N.get(argument) == noise


BAD_TYPES = ["0.1", None, True, [0.1], 1j, np.array([0.1])]
UNBOUNDED = [(N.Gaussian, "stddev"), (N.TruncatedGaussian, "stddev"), (N.Uniform, "limit")]
UNBOUNDED += [(N.Rademacher, "scale"), (N.LogNormal, "sigma")]
BOUNDED = [(N.DropConnect, "rate"), (N.StuckAt, "rate"), (N.BitFlip, "rate")]
CODES = [N.Quantization, N.PseudoQuantization, N.BitFlip]
NUMBERS = [-0.1, -1, float("nan"), float("inf"), -float("inf")]

BAD = [
    *((make, {name: x}, name) for make, name in UNBOUNDED + BOUNDED for x in BAD_TYPES + NUMBERS),
    *((make, {name: 1.01}, name) for make, name in BOUNDED),
    *((make, {"bits": x}, "bits") for make in CODES for x in [*BAD_TYPES, 1, 0, -8, 17, 8.0, 2.5]),
    *((N.Quantization, {"bits": 8, "probability": x}, "probability") for x in [-0.1, 1.1, "1"]),
    *((N.PseudoQuantization, {"bits": 8, "scale": x}, "scale") for x in [-0.1, "1", None]),
    *((N.Quantization, {"bits": 8, "symmetric": x}, "symmetric") for x in [1, None, "yes"]),
    *((N.Quantization, {"bits": 8, "per_channel": x}, "per_channel") for x in [1, None, "yes"]),
    *((N.DropConnect, {"rescale": x}, "rescale") for x in [1, None, "yes"]),
    (N.Gaussian, {"exact": 1}, "exact"),
    *((N.StuckAt, {"value": x}, "value") for x in [0, None, "mean", ["min"]]),
    *(
        (make, {"relative_to": x}, "relative_to")
        for make in (N.Gaussian, N.TruncatedGaussian, N.Uniform, N.Rademacher)
        for x in ["stddev", 1, True, ["std"], np.array(["std"])]
    ),
    *((N.Compose, {"noises": x}, "noises") for x in [[], (), None, N.Gaussian(0.1)]),
    *((N.Compose, {"noises": [x]}, "noise") for x in ["loud", None, [0.1], -1]),
    *((N.get, {"noise": x}, "noise") for x in [*BAD_TYPES, -1, float("nan"), {}, {"a": 0.1}]),
]


@pytest.mark.parametrize(("make", "arguments", "name"), BAD, ids=str)
def test_bad_arguments(make, arguments, name):
    with pytest.raises((ValueError, TypeError)) as info:
        make(**arguments)
    message = str(info.value)
    assert message.startswith(f"Invalid `{name}`. Expected ")
    assert f" Received: {name}=" in message


@pytest.mark.parametrize("seed", range(20))
def test_random_arguments(seed):
    rng = np.random.default_rng(seed)
    scale = rng.choice(["std", "rms", "max", "range", "channel_max", "filter_norm", "weight", None])
    bits = int(rng.integers(2, 17))
    shape = tuple(rng.integers(1, 6, rng.integers(0, 5)))
    w = np.float32(rng.choice([0.0, 1e-6, 1.0, 1e6]) * rng.normal(rng.normal(), 1, shape))
    for noise in (
        N.Gaussian(rng.exponential(), scale),
        N.TruncatedGaussian(rng.exponential(), scale),
        N.Uniform(rng.exponential(), scale),
        N.Rademacher(rng.exponential(), scale),
        N.LogNormal(rng.uniform(0, 3)),
        N.DropConnect(rng.uniform(), bool(rng.integers(2))),
        N.Quantization(bits, rng.uniform(), *(bool(b) for b in rng.integers(0, 2, 2))),
        N.PseudoQuantization(bits, rng.exponential()),
        N.StuckAt(rng.uniform(), str(rng.choice(["zero", "min", "max"]))),
        N.BitFlip(rng.uniform(), bits),
    ):
        x = perturb(
            noise,
            [Target(keras.Variable(w), None, 0, tuple(range(w.ndim))[: max(w.ndim - 1, 1)])],
            [tf.constant(w)],
            seed=seed,
            step=seed,
            magnitudes=noise.magnitudes_at(0),
        )[0]
        assert x.shape == w.shape
        assert np.all(np.isfinite(x))
        assert N.get(keras.saving.serialize_keras_object(noise)) == noise


@pytest.mark.any_version
@pytest.mark.slow
def test_replicas_share_no_numbers_however_many_noises_are_composed():
    many = N.Compose([N.Gaussian(0.1)] * 257)
    draws = [draw(many, [target((3,))], seed=1, step=0, replica=r) for r in range(2)]
    values = np.array(tf.nest.flatten(draws))
    assert len(np.unique(values)) == values.size == 2 * 257 * 3

"""Flipped bits against NumPy's view of the bits, one by one."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_weightnoise import noises as N
from keras_weightnoise import perturb_weights, robustness_sweep
from keras_weightnoise.noises import _bits

pytestmark = pytest.mark.any_version

FORMATS = {"float32": (23, 8), "bfloat16": (7, 8), "float16": (10, 5)}  # Mantissa, exponent.


def bits_of(values, form):
    """The patterns of values in a format."""
    stored = tf.cast(values, form).numpy()
    return stored.view("uint32" if form == "float32" else "uint16").astype("int64")


def parts(form):
    mantissa, exponent = FORMATS[form]
    end = mantissa + exponent
    return {
        "all": range(end + 1),
        "sign": [end],
        "exponent": range(mantissa, end),
        "mantissa": range(mantissa),
    }


def flipped(noise, w, seed=0):
    bits = words(len(noise.draws), w.shape, seed)
    draws = [each.law.transform(b) for each, b in zip(noise.draws, bits, strict=True)]
    (size,) = noise.magnitudes_at(0)
    return noise.perturb(tf.constant(w), draws, size, (0,)).numpy()


def weights(form, shape=(500, 400)):
    # Numbers of the format, so that patterns tell all; away from 0, where a flip makes no subnormal.
    w = np.random.default_rng(1).uniform(0.5, 2, shape) * np.random.default_rng(2).choice(
        [-1, 1], shape
    )
    return tf.cast(tf.cast(w, form), tf.float32).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("which", ["all", "sign", "exponent", "mantissa"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rate", [0.001, 0.3])
def test_every_chosen_bit_flips_with_its_rate(form, which, rate):
    w = weights(form)
    x = flipped(N.BitFlip(rate, format=form, which=which), w)
    # NaNs lose their payload when they are widened.
    known = ~np.isnan(x)
    patterns = bits_of(w, form) ^ bits_of(x, form)
    chosen = parts(form)[which]
    assert np.all(x[patterns == 0] == w[patterns == 0])
    for bit in parts(form)["all"]:
        hits = patterns[known] >> bit & 1
        if bit not in chosen:
            assert not hits.any()
        elif np.all(known) or bit in parts(form)["sign"]:
            # Thirty-two tests at once. (A NaN has all bits of the exponent, and says little of others.)
            share = int(np.sum(hits)), hits.size
            assert stats.binomtest(*share, rate).pvalue > 0.0003


POSITIONS = [range(32), range(23, 31), [31], [0, 3], range(5)]


def words(count, shape, seed=0):
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.integers(-(2**31), 2**31, shape), tf.int32) for _ in range(count)]


def flips(rate, positions, shape, seed=0):
    found = _bits.by_rate(tf.constant(rate), *words(2, shape, seed), tuple(positions))
    return found.numpy().view("uint32").astype("int64")


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
def test_bits_flipped_at_a_rate_are_among_those_at_a_higher_one(positions):
    chosen, before = sum(1 << bit for bit in positions), 0
    for rate in (0.0, 1e-6, 0.001, 0.03, 0.031, 0.5, 0.9, 1 - 1e-6, 1.0):
        found = flips(rate, positions, 30_000)
        assert not np.any(before & ~found)
        assert not np.any(found & ~chosen)
        before = found
    assert np.all(found == chosen)


def test_cells_of_a_chip_at_a_rate_are_among_those_at_a_higher_one():
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(30, use_bias=False)])
    clean, before = bits_of(model.weights[0], "float16"), 0
    for rate in (0.01, 0.02, 0.3):
        noise = N.BitFlip(rate, format="float16", which="mantissa", persistent=True)
        found = bits_of(perturb_weights(model, noise, seed=3).weights[0], "float16") ^ clean
        assert not np.any(before & ~found)
        assert np.any(before != found)
        before = found


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("positions", POSITIONS[:2], ids=str)
def test_counts_of_flips_are_binomial(positions, rate):
    size, bits = 100_000, len(positions)
    found = flips(rate, positions, size, seed=1)
    counts = np.bincount(sum(found >> bit & 1 for bit in positions), minlength=bits + 1)
    expected = size * stats.binom.pmf(np.arange(bits + 1), bits, rate)
    usual = expected > 5
    rare = size - expected[usual].sum(), size - counts[usual].sum()
    table = [[*expected[usual], rare[0]], [*counts[usual], rare[1]]]
    assert stats.chisquare(table[1], table[0]).pvalue > 0.003


def test_rates_below_what_bits_tell_by_digits_of_their_own():
    found = flips(4e-6, range(32), 500_000)
    hits = int(sum((found >> bit & 1).sum() for bit in range(32)))
    assert stats.binomtest(hits, 32 * found.size, 4e-6).pvalue > 0.01


@pytest.mark.parametrize("span", [32, 16, 8])
def test_any_three_bits_are_independent(span):
    # Words are linear over GF(2) in the 64 bits of the state: numbers are independent, and each is uniform,
    # where no sum of their digits is 0. Digits as sets of bits of the state, from the states with one bit.
    ones = (2 ** np.arange(32)).astype("uint32")
    zeros = np.zeros_like(ones)
    state = [tf.constant(np.concatenate(pair)) for pair in ((ones, zeros), (zeros, ones))]
    numbers = [[] for _ in range(span)]
    while len(numbers[0]) < 16:
        for low in range(0, 32, span):
            for bit, digits in enumerate(numbers):
                of_states = state[0].numpy() >> (low + bit) & 1
                digits.append(int("".join(map(str, of_states)), 2))
        state = _bits._next(*state)
    rng = np.random.default_rng(0)
    for _ in range(300):
        chosen = rng.choice(span, 3, replace=False)
        assert rank([digit for bit in chosen for digit in numbers[bit]]) == 48


def rank(rows):
    """Over GF(2)."""
    basis = {}
    for row in rows:
        while row and row.bit_length() in basis:
            row ^= basis[row.bit_length()]
        if row:
            basis[row.bit_length()] = row
    return len(basis)


@pytest.mark.parametrize("form", FORMATS)
def test_all_bits_of_chosen_numbers(form):
    w = weights(form, (20, 30))
    x = flipped(N.BitFlip(1.0, format=form, which=[3, 0]), w)
    np.testing.assert_array_equal(bits_of(x, form), bits_of(w, form) ^ 0b1001)
    x = flipped(N.BitFlip(1.0, format=form, which="sign"), w)
    np.testing.assert_array_equal(x, -w)


@pytest.mark.parametrize(
    "settings", [{"bits": 5}, {"format": "float16"}, {"format": "float32"}], ids=str
)
@pytest.mark.parametrize("count", [0, 1, 7, 1000, 10**6])
def test_an_exact_count_of_flips(settings, count):
    form = settings.get("format")
    w = weights(form or "float32", (30, 20))
    noise = N.BitFlip(count=count, which=[0, 1, 2], **settings)
    x = flipped(noise, w)
    if form is None:
        step = np.max(np.abs(w)) / 15
        before, after = (np.round(v.astype("float64") / step).astype(int) for v in (w, x))
        patterns = (before ^ after) & 31
    else:
        patterns = bits_of(w, form) ^ bits_of(x, form)
    found = sum(bin(pattern).count("1") for pattern in patterns.ravel())
    assert found == min(count, 3 * w.size)


@pytest.mark.slow
def test_counts_are_the_magnitudes_of_a_sweep():
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, use_bias=False)])
    net.compile(loss="mse")
    x = np.ones((8, 4), "float32")
    data = (x, net.predict(x, verbose=0))
    noise = N.BitFlip(count=1)
    curve = robustness_sweep(net, data, noise=noise, magnitudes=(0, 1, 50), draws=2, verbose=0)
    losses = {row.magnitude: row.metrics["loss"] for row in curve.rows}
    assert losses[0] == 0.0 < losses[1] < losses[50]
    np.testing.assert_array_equal(
        perturb_weights(net, N.BitFlip(count=0), seed=1).weights[0], net.weights[0]
    )


@pytest.mark.slow
def test_what_is_not_finite_is_reported_or_clipped():
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(50, use_bias=False)])
    net.compile(loss="mse")
    x = np.ones((8, 4), "float32")
    data = (x, net.predict(x, verbose=0))
    wild = N.BitFlip(0.5, format="float16", which="exponent")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        curve = robustness_sweep(net, data, noise=wild, magnitudes=(0.5,), draws=3, verbose=0)
    assert not np.all(np.isfinite([row.metrics["loss"] for row in curve.rows]))
    for form in FORMATS:
        w = weights(form)
        assert not np.all(np.abs(flipped(N.BitFlip(0.3, format=form), w)) <= 2)
        clipped = flipped(N.BitFlip(0.3, format=form, clip=True), w)
        assert np.all(np.abs(clipped) <= np.max(np.abs(w)))


BAD = [
    ({"format": "int8"}, "format"),
    ({"format": "float16", "bits": 4}, "bits"),
    ({"which": "exponent"}, "which"),
    ({"which": "low", "format": "float16"}, "which"),
    ({"which": []}, "which"),
    ({"which": [8]}, "which"),
    ({"which": [32], "format": "float32"}, "which"),
    ({"which": [1.5]}, "which"),
    ({"count": -1}, "count"),
    ({"count": 1.5}, "count"),
    ({"count": "3"}, "count"),
    ({"count": 3, "rate": 0.1}, "count"),
    ({"count": 3, "tile": 4}, "count"),
    ({"clip": 1}, "clip"),
]


@pytest.mark.parametrize(("arguments", "name"), BAD, ids=str)
def test_bad_arguments(arguments, name):
    with pytest.raises(
        (ValueError, TypeError), match=rf"Invalid `{name}`. Expected .*Received: {name}="
    ):
        N.BitFlip(**arguments)


def test_files_of_version_0_1_load():
    # As it saved them: where a class was defined does not matter, its registered name does.
    saved = {
        "module": "keras_weightnoise.noises.composition",
        "class_name": "Compose",
        "config": {
            "noises": (
                {
                    "module": "keras_weightnoise.noises.faults",
                    "class_name": "BitFlip",
                    "config": {"rate": 0.01, "bits": 6},
                    "registered_name": "keras_weightnoise>BitFlip",
                },
                {
                    "module": "keras_weightnoise.noises.additive",
                    "class_name": "Gaussian",
                    "config": {"stddev": 0.1, "relative_to": "max", "exact": False},
                    "registered_name": "keras_weightnoise>Gaussian",
                },
            )
        },
        "registered_name": "keras_weightnoise>Compose",
    }
    assert N.get(saved) == N.BitFlip(0.01, 6) + N.Gaussian(0.1, "max")


@pytest.mark.parametrize(
    ("noise", "hint"),
    [
        ("gaussian", r"such as `noises\.Gaussian\(\.\.\.\)`"),
        ("stuck_at", r"such as `noises\.StuckAt\(\.\.\.\)`"),
        (N.Gaussian, r"made: `noises\.Gaussian\(\.\.\.\)`"),
        (int, "one of `keras_weightnoise.noises`"),
    ],
    ids=str,
)
def test_what_was_meant_is_said(noise, hint):
    with pytest.raises(TypeError, match=rf"Invalid `noise`. Expected .*{hint}.* Received: noise="):
        N.get(noise)

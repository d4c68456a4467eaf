"""The random numbers: their laws, their independence, and that they are the same wherever drawn."""

import functools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from keras_weightnoise._random import adding, drawing, generator, kernels, laws, seeds

MILLION = (1000, 1000)
LAWS = {
    laws.NORMAL: stats.norm(),
    laws.TRUNCATED_NORMAL: stats.truncnorm(-2, 2),
    laws.UNIFORM: stats.uniform(-1, 2),
}


@pytest.fixture(autouse=True)
def _fresh():
    """In place of the one of all tests: these leave nothing behind, and there are many."""


@functools.lru_cache(16)
def draw(law, seed=0, step=0, start=0, shape=MILLION, stream=0):
    key = generator.make_key(seed, step)
    return drawing.draw(law, key, [start], [shape], stream)[0].numpy()


@pytest.mark.slow
@pytest.mark.any_version
@pytest.mark.parametrize("seed", [0, 12345])
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_law(law, seed):
    x = draw(law, seed).astype("float64").ravel()
    reference = LAWS[law]
    assert stats.kstest(x, reference.cdf).pvalue > 0.01
    for moment in (1, 2, 3, 4):
        # Five standard errors of the moment's estimate.
        error = np.sqrt((reference.moment(2 * moment) - reference.moment(moment) ** 2) / x.size)
        assert abs(np.mean(x**moment) - reference.moment(moment)) < 5 * error
    low, high = reference.support()
    assert low <= x.min()
    assert x.max() <= high


@pytest.mark.parametrize("seed", [0, 12345])
def test_sign(seed):
    x = draw(laws.SIGN, seed)
    assert set(np.unique(x)) == {-1.0, 1.0}
    assert stats.binomtest(int((x > 0).sum()), x.size).pvalue > 0.01


@pytest.mark.parametrize("sigmas", [3.0, 4.0, 4.5])
def test_tails_of_the_normal(sigmas):
    x = np.abs(np.concatenate([draw(laws.NORMAL, seed) for seed in range(4)]))
    assert stats.binomtest(int((x > sigmas).sum()), x.size, 2 * stats.norm.sf(sigmas)).pvalue > 0.01


@pytest.mark.parametrize(
    ("law", "mass"), [(laws.NORMAL, 1.0), (laws.TRUNCATED_NORMAL, special.erf(2**0.5))]
)
def test_inverse_of_the_distribution_function(law, mass):
    u = draw(laws.UNIFORM).astype("float64")
    central = np.abs(u) < 0.999
    exact = special.ndtri((u[central] * mass + 1) / 2)
    np.testing.assert_allclose(draw(law)[central], exact, atol=2e-5)


def test_exact_normal():
    bits = np.concatenate(
        [
            np.random.default_rng(0).integers(-(2**31), 2**31, 10**5),
            np.arange(-(2**31), -(2**31) + 1000),
            np.arange(2**31 - 1000, 2**31),
            np.arange(-1000, 1000),
        ]
    )
    upper = (bits.astype("float64") + 2**31 + 0.5) / 2**32
    expected = np.where(upper < 0.5, special.ndtri(upper), -special.ndtri(1.0 - upper))
    exact = laws.EXACT_NORMAL.transform(tf.constant(bits, tf.int32))
    np.testing.assert_allclose(exact, expected, rtol=1e-7)
    np.testing.assert_allclose(laws.NORMAL.transform(tf.constant(bits, tf.int32)), exact, atol=1e-5)
    x = draw(laws.EXACT_NORMAL, shape=(300, 400))
    np.testing.assert_allclose(x, draw(laws.NORMAL, shape=(300, 400)), rtol=0, atol=1e-5)
    assert np.any(x != draw(laws.NORMAL, shape=(300, 400)))


def related(x, y):
    """The correlations of two samples, of their sizes, and of their squares, in standard errors."""
    pairs = ((x, y), (np.abs(x), np.abs(y)), (x**2, y**2))
    return max(abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) * np.sqrt(x.size) for a, b in pairs)


OTHERS = {
    "seed": {"seed": 8},
    "seed, high bit": {"seed": 7 + 2**31},
    "step": {"step": 4},
    "step, high bit": {"step": 3 + 2**31},
    "swapped": {"seed": 3, "step": 7},
    "variable of the same shape": {"start": 1_000_000},
    "variable far away": {"start": 64 * 10**9},
    "stream": {"stream": 1},
    "another stream": {"stream": 2},
}


@pytest.mark.parametrize("law", [*LAWS, laws.SIGN], ids=str)
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_draws_are_independent(law, other):
    where = {"seed": 7, "step": 3, "shape": (300, 1000)}
    x, y = draw(law, **where), draw(law, **{**where, **other})
    if law == laws.SIGN:
        assert abs(np.mean(x * y)) < 5 / np.sqrt(x.size)
    else:
        assert related(x.astype("float64"), y.astype("float64")) < 5


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 1024, 1000])
def test_elements_are_independent(lag):
    x = draw(laws.NORMAL).astype("float64").ravel()
    assert related(x[:-lag], x[lag:]) < 5


SHAPES = [(3, 5), (), (7,), (2000, 3), (1,), (5, 1, 4), (100, 300), (3, 5)]


@pytest.mark.parametrize("law", [*LAWS, laws.SIGN, laws.BITS], ids=str)
@pytest.mark.parametrize("chosen", [[0], [1, 2], [0, 7], [2, 4, 6], [6, 3]])
def test_a_variable_has_its_numbers_whatever_else_is_drawn(law, chosen):
    starts, key = drawing.offsets(SHAPES), generator.make_key(5, 6)
    everything = drawing.draw(law, key, starts, SHAPES)
    some = drawing.draw(law, key, [starts[i] for i in chosen], [SHAPES[i] for i in chosen])
    for i, x in zip(chosen, some, strict=True):
        assert x.shape == SHAPES[i]
        # Equal to rounding: many at once are drawn by XLA.
        np.testing.assert_allclose(x, everything[i], rtol=0, atol=2e-6)


LARGE = (adding._LARGE // 1001 + 1, 1001)  # Not a multiple of any row.


def test_short_runs_are_drawn_in_one_call():
    """With what each has alone: so a large model's first step has a call, and not one for each."""
    shapes = [(10,), (100_000,), (3, 7), (100_000,), (700,), (1,)]
    starts, key = drawing.offsets(shapes), generator.make_key(5, 6)
    places = [0, 2, 4, 5]

    @tf.function(autograph=False)
    def draw():
        return drawing.draw(
            laws.NORMAL, key, [starts[i] for i in places], [shapes[i] for i in places], stream=3
        )

    calls = [op for op in draw.get_concrete_function().graph.get_operations() if "Call" in op.type]
    assert len(calls) == 1
    for i, n in zip(places, draw(), strict=True):
        (alone,) = drawing.draw(laws.NORMAL, key, [starts[i]], [shapes[i]], stream=3)
        np.testing.assert_array_equal(n, alone)


@pytest.mark.slow
@pytest.mark.parametrize("law", [*LAWS, laws.SIGN], ids=str)
@pytest.mark.parametrize(
    "shapes",
    [
        [(3, 5), (7,), (70,), (70,), (0,), (0,), (64,), (2, 2), (7,), (64,)],
        [(100, 300), (0,), (7,), (300, 2), (128,), (300,)],
        [LARGE],
        [(7,), LARGE, (9,), (0,), LARGE, (300, 2)],
        [LARGE, (300, 500)],
    ],
    ids=str,
)
@pytest.mark.parametrize("xla", [True, False])
def test_added_numbers_are_those_drawn_to_the_bit(law, shapes, xla, monkeypatch):
    monkeypatch.setattr(kernels, "xla_works", lambda: xla)
    starts, key, scale = drawing.offsets(shapes), generator.make_key(5, 6), tf.constant(0.3)
    rng = np.random.default_rng(0)
    w = [tf.constant(rng.normal(size=shape), tf.float32) for shape in shapes]
    draws = drawing.draw(law, key, starts, shapes)
    added = adding.add(law, key, starts, w, [scale] * len(w))
    for i in range(len(w)):
        np.testing.assert_array_equal(added[i], w[i] + scale * draws[i], strict=True)
    for most in (10**9, 1000):  # All are double, or the small ones, drawn beside large ones or not.
        wide = [tf.float64 if tf.size(each) < most else tf.float32 for each in w]
        added = adding.add(law, key, starts, list(map(tf.cast, w, wide)), [scale] * len(w))
        for i in range(len(w)):
            expected = tf.cast(w[i], wide[i]) + tf.cast(scale * draws[i], wide[i])
            np.testing.assert_array_equal(added[i], expected, strict=True)


@pytest.mark.parametrize("law", [*LAWS, laws.SIGN], ids=str)
def test_added_numbers_under_xla(law):
    def added(w, scale):
        return adding.add(law, generator.make_key(5, 6), [64], [w], [scale])[0]

    arguments = tf.zeros(LARGE), tf.constant(0.3)
    result = tf.function(added, jit_compile=True)(*arguments)
    np.testing.assert_allclose(result, added(*arguments), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_added_numbers_are_the_same_in_each_replica():
    starts, scale = drawing.offsets([LARGE]), tf.constant(0.3)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    @tf.function
    def added(seed):
        key = generator.make_key(seed, 6)
        return strategy.run(
            lambda: adding.add(laws.NORMAL, key, starts, [tf.zeros(LARGE)], [scale])
        )

    (alone,) = adding.add(laws.NORMAL, generator.make_key(5, 6), starts, [tf.zeros(LARGE)], [scale])
    (each,) = added(tf.constant(5))
    for x in strategy.experimental_local_results(each):
        np.testing.assert_array_equal(x, alone)


@pytest.mark.parametrize("shapes", [[(300, 1000)], [(7,), LARGE, (9,)]], ids=str)
def test_counters_are_carried_into_their_upper_word(shapes):
    begin = (
        2 * 2**32 - 64
    )  # The counter of a pair passes 2^32 within the first variable with so many.
    starts = [begin + start for start in drawing.offsets(shapes)]
    key, scale = generator.make_key(5, 6), tf.constant(0.3)
    zeros = [tf.zeros(shape) for shape in shapes]
    added = adding.add(laws.UNIFORM, key, starts, zeros, [scale] * len(zeros))
    drawn = drawing.draw(laws.UNIFORM, key, starts, shapes)
    for start, shape, sum_, n in zip(starts, shapes, added, drawn, strict=True):
        count = int(np.prod(shape))
        counters = (start // 2 + np.arange(-(-count // 2))).astype("uint64")
        words = tf.bitcast(generator.threefry(key, tf.constant(counters)), tf.int32)
        expected = tf.reshape(tf.reshape(laws.UNIFORM.transform(words), [-1])[:count], shape)
        np.testing.assert_array_equal(n, expected)
        np.testing.assert_array_equal(sum_, scale * expected)


def test_no_two_variables_share_numbers():
    starts = drawing.offsets(SHAPES)
    draws = drawing.draw(laws.UNIFORM, generator.make_key(5, 6), starts, SHAPES)
    values = np.concatenate([x.numpy().ravel() for x in draws])
    # Of n values on 2^24 or more, about n^2 / 2^25 coincide.
    assert len(values) - len(np.unique(values)) < 2 * len(values) ** 2 / 2**25 + 5


@pytest.mark.slow
@pytest.mark.parametrize("law", [*LAWS, laws.SIGN], ids=str)
@pytest.mark.parametrize("shapes", [[(0, 3)], [(5,), (0,), (70,)], [(0,), (300, 40)]], ids=str)
def test_a_variable_without_elements(law, shapes):
    starts, key = drawing.offsets(shapes), generator.make_key(5, 6)
    draws = drawing.draw(law, key, starts, shapes)
    assert [tuple(x.shape) for x in draws] == shapes
    # The others have what they have without it.
    others = [i for i, x in enumerate(shapes) if 0 not in x]
    alone = drawing.draw(law, key, [starts[i] for i in others], [shapes[i] for i in others])
    for i, x in zip(others, alone, strict=True):
        np.testing.assert_allclose(x, draws[i], rtol=0, atol=2e-6)
    batch = tf.constant(0)
    assert tf.function(lambda n: drawing.draw_shape(law, key, 0, [n, 3]))(batch).shape == (0, 3)


def test_offsets():
    starts = drawing.offsets(SHAPES)
    sizes = [int(np.prod(shape)) for shape in SHAPES]
    assert all(a + n <= b for a, n, b in zip(starts, sizes, starts[1:], strict=False))
    assert all(start % 64 == 0 for start in starts)


# What the authors' own code gives (Random123, kat_vectors): counter, key, output.
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
@pytest.mark.parametrize("compiled", [False, True])
def test_the_generator_is_threefry(counter, key, output, compiled):
    def pair(words):
        return tf.constant(words[0] + words[1] * 2**32, tf.uint64)

    threefry = generator.threefry
    if compiled:
        threefry = tf.function(threefry, jit_compile=True)
    assert int(threefry(pair(key), pair(counter))) == int(pair(output))


def test_the_bits_are_those_of_tensorflow():
    """TensorFlow has the generator in XLA alone, and its first words before all second ones."""
    key, n = generator.make_key(12, 34), 2048

    @tf.function(jit_compile=True)
    def theirs():
        return tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[2, n],
            key=tf.reshape(key, [1]),
            counter=tf.constant([0], tf.uint64),
            alg=tf.random.Algorithm.THREEFRY.value,
            dtype=tf.int32,
        )

    steps = generator.make_steps(n // 512, 512)
    ours = generator.make_words(key, generator.make_counter(0), steps)
    np.testing.assert_array_equal(tf.reshape(ours, [n, 2]), tf.transpose(theirs()))


@pytest.mark.slow
@pytest.mark.parametrize("law", [*LAWS, laws.SIGN], ids=str)
@pytest.mark.parametrize("stream", [0, 3])
def test_same_numbers_under_xla(law, stream):
    def numbers(seed, step):
        return drawing.draw(law, generator.make_key(seed, step), [128], [(300, 70)], stream)[0]

    arguments = tf.constant(9), tf.constant(10**10)
    eager = numbers(*arguments)
    # The polynomials' rounding grows with the value.
    tolerance = {"rtol": 0, "atol": 2e-6} if "normal" in law.name else {"rtol": 0}
    np.testing.assert_allclose(tf.function(numbers)(*arguments), eager, **tolerance)
    np.testing.assert_allclose(
        tf.function(numbers, jit_compile=True)(*arguments), eager, **tolerance
    )


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64, tf.uint64])
def test_key_is_seed_and_step_modulo(dtype):
    assert int(generator.make_key(tf.constant(3, dtype), tf.constant(4, dtype))) == 3 * 2**32 + 4
    high = generator.make_key(tf.constant(3 + 2**32, tf.int64), tf.constant(4 + 2**32, tf.int64))
    assert int(high) == 3 * 2**32 + 4


@pytest.mark.parametrize("probability", [1e-4, 0.01, 0.3, 0.5, 0.999])
def test_occurs_with_its_probability(probability):
    hits = int(np.sum(laws.occurs(draw(laws.UNIFORM, 1), probability)))
    assert stats.binomtest(hits, 10**6, probability).pvalue > 0.01


@pytest.mark.parametrize("u", [-1.0, 1.0, 2.0**-32, -(2.0**-32)])
def test_certain_and_impossible_events(u):
    # The extremes of the law; it is never 0.
    assert bool(laws.occurs(tf.constant(u), 1.0))
    assert not bool(laws.occurs(tf.constant(u), 0.0))
    assert not np.any(draw(laws.UNIFORM) == 0)


@pytest.mark.any_version
@pytest.mark.slow
def test_choice():
    choose = tf.function(
        lambda steps: tf.map_fn(lambda step: drawing.choose(generator.make_key(3, step), 7), steps)
    )
    chosen = choose(tf.range(20_000, dtype=tf.int64)).numpy()
    assert stats.chisquare(np.bincount(chosen, minlength=7)).pvalue > 0.01
    assert stats.chi2_contingency(np.histogram2d(chosen[:-1], chosen[1:], 7)[0]).pvalue > 0.01


@pytest.mark.any_version
@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 0, 1, 2**32 - 1])
def test_seeds(seed):
    assert seeds.check_seed(seed) == seed
    assert 0 <= seeds.resolve_seed(seed) < 2**32


@pytest.mark.parametrize(
    ("seed", "error"),
    [(-1, ValueError), (2**32, ValueError), (1.0, TypeError), ("1", TypeError), (True, TypeError)],
)
def test_bad_seeds(seed, error):
    with pytest.raises(error, match=f"Invalid `seed`.*Received: seed={seed}"):
        seeds.check_seed(seed)


def test_seed_is_drawn_from_the_global_one():
    keras.utils.set_random_seed(3)
    first = seeds.resolve_seed(None)
    assert seeds.resolve_seed(None) != first
    keras.utils.set_random_seed(3)
    assert seeds.resolve_seed(None) == first
    state = random.getstate()
    seeds.resolve_seed(7)
    assert random.getstate() == state

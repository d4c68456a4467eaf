"""Faults in the integer codes of quantized models, against NumPy's view of the bits, one by one."""

import keras
import numpy as np
import pytest
from scipy import stats

import keras_weightnoise as kw
from keras_weightnoise import noises
from keras_weightnoise._weights import selection

L = keras.layers
HAS_INT4 = hasattr(keras.quantizers, "unpack_int4") and hasattr(keras.quantizers, "pack_int4")
MODES = ["int8", "int4"] if HAS_INT4 else ["int8"]
# For what does not depend on how codes are held.
in_one_mode = pytest.mark.parametrize("model", MODES[-1:], indirect=True)
X, Y = np.random.default_rng(0).normal(size=(8, 40)), np.ones((8, 1))


@pytest.fixture(scope="module", params=MODES)
def model(request):
    """A quantized model. No test leaves it changed."""
    layers = [L.Dense(61, name="hidden"), L.Dense(1, use_bias=False, name="head")]
    model = keras.Sequential([keras.Input((40,)), *layers], name="net")
    for layer in layers:
        layer.quantize(request.param)
    model.compile("sgd", "mse", run_eagerly=True)
    before = [v.numpy() for v in model.variables]
    yield model
    for a, b in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def codes(model):
    """The codes of each layer, as Keras computes with them."""
    return [np.array(layer.kernel, "int64") for layer in model.layers]


def bits_of(model):
    return 4 if model.layers[0].quantization_mode == "int4" else 8


def patterns(values, model):
    return values & (2 ** bits_of(model) - 1)


def perturbed(model, noise, seed=1):
    with kw.perturbed_weights(model, noise, seed=seed, variables="kernels"):
        return codes(model)


def differences(before, after, model):
    """Which bits of each layer's codes differ."""
    return [patterns(a ^ b, model) for a, b in zip(before, after, strict=True)]


def flipped(model, noise):
    return differences(codes(model), perturbed(model, noise), model)


MADE = {
    "odd": (lambda: L.Dense(7), (5,)),
    "one": (lambda: L.Dense(1), (4,)),
    "table": (lambda: L.Embedding(11, 9), ()),
    "heads": (lambda: L.EinsumDense("abc,cde->abde", (None, 3, 5)), (6, 4)),
    "of heads": (lambda: L.EinsumDense("abcd,cde->abe", (None, 7)), (6, 3, 5)),
    "both ways": (lambda: L.ReversibleEmbedding(11, 9, tie_weights=False), ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", MADE)
def test_what_is_read_is_what_the_layer_computes_with(kind, mode):
    make, shape = MADE[kind]
    if kind == "both ways" and not hasattr(L, "ReversibleEmbedding"):
        pytest.skip("Keras before 3.12 has no such layer")
    layer = make()
    layer.build((None, *shape))
    layer.quantize(mode)
    (target, *rest) = [t for t in selection.select(layer, frozen=True, codes=True) if t.code]
    name = "embeddings" if isinstance(layer, L.Embedding) else "kernel"
    stored = target.variable.numpy()
    read = target.code.read(stored).numpy()
    np.testing.assert_array_equal(np.ravel(read), np.ravel(getattr(layer, name)))
    np.testing.assert_array_equal(target.code.write(read, stored), stored)
    # What is written is read again, and what is no code stays as it is.
    inverted = target.code.write(-1 - read, stored).numpy()
    np.testing.assert_array_equal(target.code.read(inverted), -1 - read)
    count = np.unpackbits((inverted ^ stored).view("uint8")).sum()
    assert count == read.size * int(mode[3:])
    # A row of what a channel extends over, for tiles.
    assert target.axes == (
        (1,) if name == "embeddings" else tuple(range(read.ndim))[: len(target.axes)]
    )
    assert [t.code.bits for t in rest] == ([int(mode[3:])] if kind == "both ways" else [])
    if rest:
        table = rest[0].code.read(rest[0].variable.numpy())
        assert table.shape == (9, 11)


@pytest.mark.slow
def test_all_chosen_bits(model):
    for which, mask in (("sign", 2 ** (bits_of(model) - 1)), ([0, 2], 5)):
        for found in flipped(model, noises.BitFlip(1.0, which=which)):
            assert np.all(found == mask)


@pytest.mark.slow
@pytest.mark.parametrize("generator", ["threefry", "philox"])
def test_each_bit_flips_with_its_rate_and_independently(model, generator):
    hidden, _ = flipped(model, noises.BitFlip(0.3, generator=generator))
    hits = np.stack([hidden >> bit & 1 for bit in range(bits_of(model))])
    for each in hits:
        assert stats.binomtest(int(each.sum()), each.size, 0.3).pvalue > 1e-4
    # The two codes of a byte, also with the next byte's.
    for shift in (1, 2, 3):
        pairs = np.corrcoef(hits[..., shift:].ravel(), hits[..., :-shift].ravel())[0, 1]
        assert abs(pairs) < 4 / np.sqrt(hits.size)


@pytest.mark.slow
def test_an_exact_count_of_flips(model):
    before, noise = codes(model), noises.BitFlip(count=1, which=[0, 1, 3])
    with kw.perturbed_weights(model, noise, variables="kernels", seed=1) as draws:
        for count in (0, 1, 7, 10**6):
            draws.inject(0, [(float(count),)])
            for found in differences(before, codes(model), model):
                flips = sum(map(int.bit_count, map(int, found.ravel())))
                assert flips == min(count, 3 * found.size)


@pytest.mark.parametrize("value", ["zero", "min", "max"])
def test_stuck_codes(model, value):
    noisy = perturbed(model, noises.StuckAt(0.3, value))
    for before, after in zip(codes(model), noisy, strict=True):
        stuck = {"zero": 0, "min": before.min(), "max": before.max()}[value]
        np.testing.assert_array_equal(after[after != before], stuck)
        known = before != stuck
        share = int(np.sum(after[known] == stuck)), int(np.sum(known))
        assert stats.binomtest(*share, 0.3).pvalue > 1e-4


@pytest.mark.slow
def test_clipped_codes(model):
    largest = {True: np.abs(codes(model)[0]).max(), False: 2 ** (bits_of(model) - 1)}
    for clip, most in largest.items():
        assert np.abs(perturbed(model, noises.BitFlip(0.5, clip=clip))[0]).max() == most


def test_tiles_are_those_of_the_matrix(model):
    (before, _), tile = codes(model), 20
    noisy, _ = perturbed(model, noises.StuckAt(1.0, "max", tile=tile))
    largest = [before[i : i + tile].max() for i in range(0, 40, tile)]
    np.testing.assert_array_equal(noisy, np.repeat(largest, tile)[:, None] + 0 * before)


@pytest.mark.slow
@in_one_mode
def test_faults_that_stay(model):
    noise = noises.StuckAt(0.1, "max", persistent=True)
    chip = codes(kw.perturb_weights(model, noise, seed=3))[0]
    copy = kw.perturb_weights(model, noises.BitFlip(0.0))
    kw.perturb_weights(copy, noise, seed=3, inplace=True)
    np.testing.assert_array_equal(codes(copy)[0], chip)
    with kw.perturbed_weights(model, noise, seed=3) as draws:
        np.testing.assert_array_equal(codes(model)[0], chip)
        draws.redraw()
        other = codes(model)[0]
    assert np.any(other != chip)
    worse = perturbed(model, noises.StuckAt(0.3, "max", persistent=True), seed=3)[0]
    clean = codes(model)[0]
    assert np.all((worse != clean)[chip != clean])
    assert 0 < np.sum(chip != clean) < np.sum(worse != clean)


@pytest.mark.slow
@in_one_mode
def test_analyses_reach_one_layer_after_another(model):
    noise, settings = noises.StuckAt(0.5), {"draws": 1, "verbose": 0}
    clean = model.evaluate(X, Y, verbose=0)
    found = kw.layer_sensitivity(model, (X, Y), noise, **settings)
    losses = {row.name: row.metrics["loss"] for row in found.rows}
    sweep = kw.robustness_sweep(model, (X, Y), noise=noise, magnitudes=(0, 0.5), **settings)
    none, losses[None] = (row.metrics["loss"] for row in sweep.rows)
    assert none == sweep.clean["loss"] == clean
    for layer in ("hidden", None):
        with kw.perturbed_weights(model, noise, variables=layer, seed=0):
            assert model.evaluate(X, Y, verbose=0) == losses[layer] != clean


@pytest.mark.slow
@in_one_mode
def test_other_noise_leaves_codes_alone_and_says_so(model):
    for noise in (0.1, noises.BitFlip(0.5) + 0.1, [("hidden", 0.1), (None, noises.BitFlip())]):
        with pytest.warns(UserWarning, match="(Gaussian|Compose) is no noise of integer codes, as"):
            noisy = kw.perturb_weights(model, noise, seed=1)
        np.testing.assert_array_equal(codes(noisy)[0], codes(model)[0])
        assert np.any(noisy.layers[0].bias != model.layers[0].bias)
    with pytest.raises(
        ValueError, match=r"alone perturb codes. Received: noise=Gaussian\(stddev=0.1"
    ):
        kw.perturb_weights(model, 0.1, variables="kernels")


@in_one_mode
def test_rules_may_have_codes_and_floats(model):
    mixed = {"kernels": noises.StuckAt(1.0), None: 0.1}
    with kw.perturbed_weights(model, mixed, seed=1):
        assert not codes(model)[0].any()
        assert np.all(model.layers[0].bias.numpy() != 0)


def test_bits_that_codes_do_not_have(model):
    for which, more in (("exponent", {"format": "float32"}), ([9], {"format": "float16"})):
        noise = noises.BitFlip(which=which, **more)
        with pytest.raises(ValueError, match=r"Invalid `which`. Expected bits of the .-bit codes"):
            kw.perturb_weights(model, noise)
        kw.perturb_weights(model, noise, exclude="kernel")


@in_one_mode
def test_what_substitutes_reads_refuses(model):
    noise = noises.BitFlip(0.1)
    functions = {
        "noisy_call": lambda **s: kw.noisy_call(model, noise, X, seed=1, step=1, **s),
        "WeightNoiseEnsemble": lambda **s: kw.WeightNoiseEnsemble(model, noise, members=2, **s),
    }
    for name, function in functions.items():
        with pytest.raises(ValueError, match=f"`{name}` cannot reach .* holds .*kernel"):
            function()
        function(exclude="kernel")


@pytest.mark.slow
@in_one_mode
def test_training_leaves_codes_alone_and_says_so(model):
    callback = kw.WeightNoiseCallback(noises.BitFlip(0.1))
    with pytest.warns(UserWarning, match="are not perturbed: they are quantized to integers"):
        kw.perturb_weights(model, noises.BitFlip(0.0)).fit(X, Y, callbacks=[callback], verbose=0)

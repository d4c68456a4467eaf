"""Scales of tiles against a loop over NumPy blocks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import noises as N
from keras_weightnoise import perturb_weights
from keras_weightnoise._weights import selection
from keras_weightnoise._weights.perturbation import perturb

pytestmark = pytest.mark.any_version

NOISES = [
    lambda tile: N.Gaussian(0.1, "max", tile=tile),
    lambda tile: N.Gaussian(0.1, "channel_max", tile=tile),
    lambda tile: N.TruncatedGaussian(0.1, "std", tile=tile),
    lambda tile: N.Uniform(0.1, "rms", tile=tile),
    lambda tile: N.Rademacher(0.1, "range", tile=tile),
    lambda tile: N.Quantization(4, tile=tile),
    lambda tile: N.Quantization(4, 0.5, symmetric=False, per_channel=True, tile=tile),
    lambda tile: N.PseudoQuantization(4, tile=tile),
    lambda tile: N.StuckAt(0.3, "max", tile=tile),
    lambda tile: N.BitFlip(0.1, 5, tile=tile),
    lambda tile: N.PCM(3600.0, compensation="global", tile=tile),
    lambda tile: N.ReRAM("milo2021", tile=tile),
    lambda tile: N.Polynomial([0.1, 0.2], tile=tile),
]


def pieces(size, most):
    """Where tiles begin and end: as few as there can be, the larger ones first."""
    count = -(-size // most)
    sizes = [len(part) for part in np.array_split(np.arange(size), count)]
    ends = np.cumsum(sizes)
    return list(zip(ends - sizes, ends, strict=True))


def by_blocks(noise, w, draws, rows, columns):
    """The noise without tiles, of each block of a matrix."""
    (magnitude,) = noise.magnitudes_at(0)
    result = np.zeros_like(w)
    for top, bottom in pieces(w.shape[0], rows):
        for left, right in pieces(w.shape[1], columns or w.shape[1]):
            block = np.s_[top:bottom, left:right]
            own = [tf.constant(n[block]) for n in draws]
            result[block] = noise.perturb(tf.constant(w[block]), own, magnitude, (0,))
    return result


@pytest.mark.parametrize("tile", [7, (7, 4), (100, 5), 1], ids=str)
@pytest.mark.parametrize("make", NOISES, ids=lambda make: str(make(None)))
def test_tiles_are_blocks(make, tile):
    noise, whole = make(tile), make(None)
    assert noise.tile == tile
    rows, columns = tile if isinstance(tile, tuple) else (tile, None)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(22, 9)).astype("float32")
    bits = [tf.constant(rng.integers(-(2**31), 2**31, w.shape), tf.int32) for _ in noise.draws]
    draws = [d.law.transform(b).numpy() for d, b in zip(noise.draws, bits, strict=True)]
    (magnitude,) = noise.magnitudes_at(0)
    result = noise.perturb(tf.constant(w), [tf.constant(n) for n in draws], magnitude, (0,))
    expected = by_blocks(whole, w, draws, rows, columns)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    if tile == 7:
        of_all = whole.perturb(tf.constant(w), [tf.constant(n) for n in draws], magnitude, (0,))
        assert np.any(np.abs(result - of_all) > 1e-6)


def test_what_is_relative_to_each_weight_is_the_same_in_tiles():
    w, n = tf.random.normal((22, 9), seed=0), tf.random.normal((22, 9), seed=1)
    results = [
        N.Gaussian(0.1, "weight", tile=tile).perturb(w, [n], tf.constant(0.1), (0,))
        for tile in (None, (7, 4))
    ]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("size", "most", "sizes"),
    [(784, 512, [392, 392]), (512, 512, [512]), (1025, 512, [342, 342, 341]), (5, 2, [2, 2, 1])],
)
def test_splits_are_as_even_as_those_of_aihwkit(size, most, sizes):
    w = np.random.default_rng(0).normal(size=(size, 1)).astype("float32")
    noise = N.Rademacher(1.0, "max", tile=most)
    moves = np.abs(noise.perturb(tf.constant(w), [tf.ones_like(w)], tf.constant(1.0), (0,)) - w)
    ends = np.cumsum(sizes)
    expected = [np.full(n, np.max(np.abs(w[e - n : e]))) for n, e in zip(sizes, ends, strict=True)]
    np.testing.assert_allclose(moves[:, 0], np.concatenate(expected), rtol=1e-5)


# A layer, the shape of its input, and its kernel as a matrix: rows, then columns.
MATRICES = {
    "Dense": (keras.layers.Dense(6), (5,), lambda k: k),
    "Conv2D": (keras.layers.Conv2D(6, 3), (5, 5, 2), lambda k: k.reshape(18, 6)),
    "depthwise": (
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        (5, 5, 3),
        lambda k: k.reshape(9, 6),
    ),
    "transposed": (
        keras.layers.Conv2DTranspose(6, 3),
        (5, 5, 2),
        lambda k: k.transpose(0, 1, 3, 2).reshape(18, 6),
    ),
    "embedding": (keras.layers.Embedding(11, 6), (), lambda k: k.T),
    "EinsumDense": (
        keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        (4, 5),
        lambda k: k.reshape(5, 6),
    ),
    "EinsumDense, output first": (
        keras.layers.EinsumDense("ab,cb->ac", 6),
        (5,),
        lambda k: k.T,
    ),
}


@pytest.mark.parametrize(("layer", "shape", "matrix"), MATRICES.values(), ids=MATRICES)
def test_kernels_as_matrices(layer, shape, matrix):
    layer.build((None, *shape))
    kernel = layer.variables[0]
    (target,) = selection.select(layer, "kernels")
    w = kernel.numpy()
    noise = N.Gaussian(0.1, "max", tile=4)
    arguments = {"seed": 1, "step": 2, "magnitudes": [0.1]}
    ones = N.Gaussian(0.1)
    (n,) = perturb(ones, [target], [tf.zeros_like(w)], **arguments)
    (noisy,) = perturb(noise, [target], [tf.constant(w)], **arguments)
    expected = matrix(w).copy()
    for top, bottom in pieces(expected.shape[0], 4):
        scale = np.max(np.abs(expected[top:bottom]))
        expected[top:bottom] += scale * matrix(n.numpy())[top:bottom]
    np.testing.assert_allclose(matrix(noisy.numpy()), expected, rtol=1e-4, atol=1e-6)


def test_biases_and_scalars_have_tiles_too():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, bias_initializer="ones")])
    noisy = perturb_weights(model, N.Quantization(4, tile=(2, 2)), seed=1)
    assert [w.shape for w in noisy.weights] == [(3, 4), (4,)]
    (magnitude,) = N.Gaussian(0.1).magnitudes_at(0)
    w = tf.constant(2.0)
    moved = N.Gaussian(0.1, "max", tile=5).perturb(w, [tf.constant(1.0)], magnitude, ())
    np.testing.assert_allclose(moved, 2.2, rtol=1e-6)


@pytest.mark.parametrize(
    ("tile", "error"),
    [
        *((x, ValueError) for x in (0, -1, (), (1, 2, 3), (4, 0))),
        *((x, TypeError) for x in (1.5, "512", True, (4, None))),
    ],
    ids=str,
)
def test_bad_tiles(tile, error):
    with pytest.raises(error, match=r"Invalid `tile`\. Expected .*Received: tile="):
        N.Quantization(4, tile=tile)


def test_tiles_without_a_scale_are_refused():
    with pytest.raises(ValueError, match=r"Invalid `tile`.*Received: tile=4, relative_to=None"):
        N.Gaussian(0.1, tile=4)

"""Draws for many weights at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import noises
from keras_weightnoise._random import adding, drawing, portions
from keras_weightnoise._weights.perturbation import perturb
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.values import same_bits

SHAPES = [(30, 40), (7,), (50, 60), (2,), (100, 10)]
NOISES = [
    noises.Gaussian(0.1),
    noises.Uniform(0.1, relative_to="max"),
    noises.Learned(),
    noises.PCM(3600.0),
    noises.DropConnect(0.5) + 0.1,
    noises.Gaussian(0.1, generator="philox"),
]


def graph_of(noise):
    """A graph that perturbs variables, and what it makes of them."""
    rng = np.random.default_rng(0)
    values = [tf.constant(rng.normal(size=shape), tf.float32) for shape in SHAPES]
    targets = [
        Target(keras.Variable(w), None, start, (0,), rho=tf.fill(w.shape, 0.5))
        for w, start in zip(values, drawing.offsets(SHAPES), strict=True)
    ]

    @tf.function(jit_compile=False, autograph=False)
    def perturbed():
        with tf.name_scope("noise"):
            magnitudes = noise.magnitudes_at(0)
            seed, step = tf.constant(1), tf.constant(2)
            return perturb(noise, targets, values, seed=seed, step=step, magnitudes=magnitudes)

    return perturbed.get_concrete_function()


@pytest.mark.any_version
@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_portions(noise, monkeypatch):
    """Large models are perturbed in portions: with the same numbers, and one after the other."""
    whole = graph_of(noise)
    monkeypatch.setattr(portions, "_PORTION", 3000)
    monkeypatch.setattr(portions, "_PORTIONS", 3)
    assert portions.portions(SHAPES) == [range(2), range(2, 3), range(3, 5)]
    parts = graph_of(noise)
    for a, b in zip(whole(), parts(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)  # Many at once are drawn by XLA.

    def barriers(function):
        waiting = [op for op in function.graph.get_operations() if op.control_inputs]
        awaited = {id(op) for each in waiting for op in each.control_inputs}
        return [op for op in waiting if op.type == "NoOp" and id(op) in awaited]

    assert len(barriers(whole)) == 0
    assert [len(op.control_inputs) for op in barriers(parts)] == [2, 1]


@pytest.mark.parametrize("noise", [noises.Gaussian, noises.Uniform], ids=lambda n: n.__name__)
@pytest.mark.parametrize("relative_to", [None, "rms"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_a_magnitude_that_only_the_graph_knows(noise, relative_to, dtype, large, monkeypatch):
    """At 0 the weights come back, bit for bit; else there is noise; gradients are those of the weights."""
    if large:
        monkeypatch.setattr(adding, "_LARGE", 2**13)
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape) for shape in [(128, 64), (7,), (3, 5)]]
    for w in values:
        w.flat[:3] = -0.0, 0.0, np.inf
    weights = [tf.Variable(tf.cast(w, dtype)) for w in values]
    starts = drawing.offsets([w.shape for w in weights])
    targets = [
        Target(keras.Variable(w, dtype=dtype), None, start, (0,))
        for w, start in zip(values, starts, strict=True)
    ]
    magnitude = tf.Variable(0.0)
    noise = noise(magnitude, relative_to=relative_to)

    @tf.function(autograph=False)
    def perturbed():
        with tf.GradientTape() as tape:
            magnitudes = noise.magnitudes_at(0)
            seed, step = tf.constant(1), tf.constant(2)
            clean = [tf.convert_to_tensor(w) for w in weights]
            noisy = perturb(noise, targets, clean, seed=seed, step=step, magnitudes=magnitudes)
            loss = tf.add_n([tf.reduce_sum(3 * tf.cast(w, tf.float64)) for w in noisy])
        return noisy, tape.gradient(loss, [*weights, magnitude])

    noisy, _ = perturbed()
    for before, after in zip(weights, noisy, strict=True):
        assert same_bits(before.value(), after)
    magnitude.assign(0.5)
    noisy, (*gradients, of_magnitude) = perturbed()
    for before, after, gradient in zip(weights, noisy, gradients, strict=True):
        assert not np.array_equal(before[:3], after[:3])
        assert np.all(gradient == 3)
    assert of_magnitude is None


@pytest.mark.parametrize("how", ["eager", "graph"])
@pytest.mark.parametrize("rows", [64, 4096], ids=["small", "large"])
def test_the_gradient_of_an_embedding_stays_sparse(rows, how, monkeypatch):
    monkeypatch.setattr(adding, "_LARGE", 2**13)
    table = tf.Variable(tf.zeros([rows, 8]))
    target = Target(keras.Variable(tf.zeros([rows, 8])), None, 0, (0,))

    def gradient():
        with tf.GradientTape() as tape:
            settings = {"seed": tf.constant(1), "step": tf.constant(2), "magnitudes": [0.1]}
            (noisy,) = perturb(noises.Gaussian(0.1), [target], [table.value()], **settings)
            loss = tf.reduce_sum(tf.gather(noisy, [3, 5]))
        found = tape.gradient(loss, table)
        assert isinstance(found, tf.IndexedSlices)
        return found

    found = gradient() if how == "eager" else tf.function(gradient, autograph=False)()
    np.testing.assert_array_equal(found.indices, [3, 5])

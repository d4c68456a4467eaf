"""`GaussianWeightNoise` around every kind of Keras layer with kernels.

Keras's own test of a layer is not public, but it ships in the wheel: what Keras asks of its layers.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src import testing

from keras_weightnoise import (
    GaussianWeightNoise,
    ParametricNoise,
    VariationalWeightNoise,
    noises,
)
from keras_weightnoise._weights import perturbation, selection

pytestmark = pytest.mark.slow

layers = keras.layers


def small_model(dtype=None):
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, dtype=dtype),
            layers.BatchNormalization(dtype=dtype),
            layers.Dropout(0.5, dtype=dtype),
            layers.Dense(2, dtype=dtype, activity_regularizer="l2"),
        ]
    )


def functional(dtype=None):
    x = keras.Input((4,))
    y = layers.Dense(3, activation="relu", dtype=dtype)(x)
    y = layers.Add(dtype=dtype)([y, layers.Dense(3, dtype=dtype)(x)])
    return keras.Model(x, y)


def with_lora(dtype=None):
    return layers.Dense(4, lora_rank=2, dtype=dtype)


def time_distributed(dtype=None):
    return layers.TimeDistributed(layers.Dense(2, dtype=dtype), dtype=dtype)


def bidirectional(dtype=None):
    return layers.Bidirectional(layers.GRU(2, dtype=dtype), dtype=dtype)


def stacked_rnn(dtype=None):
    cells = [layers.GRUCell(2, dropout=0.5, dtype=dtype), layers.LSTMCell(2, dtype=dtype)]
    return layers.RNN(cells, dtype=dtype)


# Layer, its arguments, input shape, input dtype.
LAYERS = [
    (layers.Dense, {"units": 3, "activity_regularizer": "l2"}, (2, 4), None),
    (layers.EinsumDense, {"equation": "abc,cd->abd", "output_shape": (2, 3)}, (2, 2, 4), None),
    # Kernels of rank 1.
    (layers.EinsumDense, {"equation": "ab,b->a", "output_shape": ()}, (2, 32), None),
    (layers.EinsumDense, {"equation": "ab,b->ab", "output_shape": 4}, (2, 4), None),
    (layers.Embedding, {"input_dim": 5, "output_dim": 3}, (2, 3), "int32"),
    (layers.Conv1D, {"filters": 2, "kernel_size": 2}, (2, 5, 3), None),
    (layers.Conv2D, {"filters": 2, "kernel_size": 2}, (2, 4, 4, 3), None),
    (layers.Conv3D, {"filters": 2, "kernel_size": 2}, (2, 3, 3, 3, 2), None),
    # These two run in a `tf.function` of Keras's.
    (layers.Conv2D, {"filters": 4, "kernel_size": 2, "groups": 2}, (2, 4, 4, 2), None),
    (
        layers.Conv3D,
        {"filters": 2, "kernel_size": 2, "data_format": "channels_first"},
        (2, 2, 3, 3, 3),
        None,
    ),
    (layers.Conv1DTranspose, {"filters": 2, "kernel_size": 2}, (2, 5, 3), None),
    (layers.Conv2DTranspose, {"filters": 2, "kernel_size": 2}, (2, 4, 4, 3), None),
    (layers.Conv3DTranspose, {"filters": 2, "kernel_size": 2}, (2, 3, 3, 3, 2), None),
    (layers.DepthwiseConv1D, {"kernel_size": 2}, (2, 5, 3), None),
    (layers.DepthwiseConv2D, {"kernel_size": 2}, (2, 4, 4, 3), None),
    (layers.SeparableConv1D, {"filters": 2, "kernel_size": 2}, (2, 5, 3), None),
    (layers.SeparableConv2D, {"filters": 2, "kernel_size": 2}, (2, 4, 4, 3), None),
    (layers.SimpleRNN, {"units": 3, "dropout": 0.5}, (2, 3, 2), None),
    (layers.GRU, {"units": 3, "return_sequences": True}, (2, 3, 2), None),
    (layers.LSTM, {"units": 3, "return_state": True}, (2, 3, 2), None),
    (layers.ConvLSTM1D, {"filters": 2, "kernel_size": 2}, (2, 3, 4, 2), None),
    (layers.ConvLSTM2D, {"filters": 2, "kernel_size": 2}, (2, 3, 4, 4, 2), None),
    (
        layers.MultiHeadAttention,
        {"num_heads": 2, "key_dim": 2},
        {"query_shape": (2, 4, 3), "value_shape": (2, 3, 3)},
        None,
    ),
    (
        layers.GroupQueryAttention,
        {"num_query_heads": 2, "num_key_value_heads": 2, "head_dim": 2},
        {"query_shape": (2, 4, 3), "value_shape": (2, 3, 3)},
        None,
    ),
    (bidirectional, {}, (2, 3, 2), None),
    (stacked_rnn, {}, (2, 3, 2), None),
    (time_distributed, {}, (2, 3, 4), None),
    (small_model, {}, (2, 4), None),
    (functional, {}, (2, 4), None),
    (with_lora, {}, (2, 4), None),
]


every_layer = pytest.mark.parametrize(
    ("layer", "init", "shape", "dtype"), LAYERS, ids=[case[0].__name__ for case in LAYERS]
)


def call(layer, shape, dtype, **kwargs):
    """Calls the layer on some data of this shape, or of these shapes."""
    rng = np.random.default_rng(1)

    def data(shape):
        if dtype == "int32":
            return tf.constant(rng.integers(0, 5, shape), dtype)
        return tf.constant(rng.normal(size=shape), "float32")

    if isinstance(shape, dict):
        return layer(
            **{name.removesuffix("_shape"): data(value) for name, value in shape.items()}, **kwargs
        )
    return layer(data(shape), **kwargs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")  # By Keras's test itself.
@every_layer
def test_passes_the_test_of_keras(layer, init, shape, dtype):
    plain = layer(**init)
    outputs = call(plain, shape, dtype)
    several = isinstance(shape, dict)
    testing.TestCase().run_layer_test(
        lambda dtype=None: GaussianWeightNoise(layer(**init, dtype=dtype), 0.1, seed=1),
        {},
        input_shape=shape,
        input_dtype=dict.fromkeys(shape, "float32") if several else dtype,
        expected_output_shape=keras.tree.map_structure(lambda x: tuple(x.shape), outputs),
        expected_output_dtype=keras.tree.map_structure(lambda x: x.dtype.name, outputs),
        expected_num_trainable_weights=len(plain.trainable_weights),
        expected_num_non_trainable_weights=len(plain.non_trainable_weights),
        expected_num_non_trainable_variables=len(plain.non_trainable_variables) + 1,
        expected_num_losses=len(plain.losses),
        supports_masking=plain.supports_masking,
        run_training_check=not several,  # It cannot, for these, without the wrapper either.
    )


# Recurrent, attention, embedding, other wrappers, whole models: the rest differs in the noise alone.
VARIATIONAL = [layers.Embedding, layers.GRU, layers.MultiHeadAttention]
VARIATIONAL += [time_distributed, bidirectional, small_model]


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")  # By Keras's test itself.
@pytest.mark.parametrize(
    ("wrapper", "layer", "init", "shape", "dtype"),
    [
        (wrapper, *case)
        for wrapper, kinds in (
            (functools.partial(VariationalWeightNoise, examples=10), VARIATIONAL),
            (ParametricNoise, [small_model]),
        )
        for case in LAYERS
        if case[0] in kinds
    ],
)
def test_noise_of_learned_size_passes_it_too(wrapper, layer, init, shape, dtype):
    plain = layer(**init)
    outputs = call(plain, shape, dtype)
    several = isinstance(shape, dict)
    learned = len(selection.select(plain, "kernels"))
    divergence = wrapper is not ParametricNoise
    testing.TestCase().run_layer_test(
        lambda dtype=None: wrapper(layer(**init, dtype=dtype), seed=1),
        {},
        input_shape=shape,
        input_dtype=dict.fromkeys(shape, "float32") if several else dtype,
        expected_output_shape=keras.tree.map_structure(lambda x: tuple(x.shape), outputs),
        expected_output_dtype=keras.tree.map_structure(lambda x: x.dtype.name, outputs),
        expected_num_trainable_weights=len(plain.trainable_weights) + learned,
        expected_num_non_trainable_weights=len(plain.non_trainable_weights),
        expected_num_non_trainable_variables=len(plain.non_trainable_variables) + 1,
        expected_num_losses=len(plain.losses) + divergence,
        supports_masking=plain.supports_masking,
        run_training_check=not several,
    )


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
@every_layer
def test_is_the_plain_layer_at_noisy_kernels(layer, init, shape, dtype, compiled):
    plain, twin = layer(**init), layer(**init)
    clean = call(plain, shape, dtype)
    call(twin, shape, dtype)
    wrapped = GaussianWeightNoise(plain, 0.1, seed=7)
    before = [v.numpy() for v in plain.variables]
    targets = selection.select(plain, "kernels")
    noisy = perturbation.perturb(
        noises.Gaussian(0.1),
        targets,
        [t.variable.value for t in targets],
        seed=7,
        step=0,
        magnitudes=[0.1],
    )
    values = {id(t.variable): value for t, value in zip(targets, noisy, strict=True)}
    for v, other in zip(plain.variables, twin.variables, strict=True):
        other.assign(values.get(id(v), v))

    def run(layer):
        with tf.GradientTape() as tape:
            outputs = call(layer, shape, dtype, training=True)
            loss = tf.add_n([tf.reduce_sum(y**2) for y in tf.nest.flatten(outputs)])
            loss += sum(layer.losses)
        return outputs, loss, tape.gradient(loss, layer.trainable_variables)

    if compiled:
        run = tf.function(run)
    for actual, expected in zip(
        tf.nest.flatten(run(wrapped)), tf.nest.flatten(run(twin)), strict=True
    ):
        np.testing.assert_allclose(
            tf.convert_to_tensor(actual), tf.convert_to_tensor(expected), rtol=2e-4, atol=1e-5
        )

    # What the call leaves behind is what it leaves without the wrapper, and kernels are untouched.
    for v, other, old in zip(plain.variables, twin.variables, before, strict=True):
        if id(v) in values:
            np.testing.assert_array_equal(v, old)
        else:  # Equal to rounding, as the draw in a graph is to the one outside.
            np.testing.assert_allclose(v, other, rtol=1e-5)

    for v, old in zip(plain.variables, before, strict=True):
        v.assign(old)
    for actual, expected in zip(
        tf.nest.flatten(call(wrapped, shape, dtype)), tf.nest.flatten(clean), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)

"""Models with a graph, of many forms, and what tests of their copies share."""

import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise._weights import reachable

layers = keras.layers
RANDOM = np.random.default_rng(0)


def x_for(model):
    """A batch of inputs: small integers, which any input dtype holds."""

    def batch(tensor):
        shape = [2 if size is None else size for size in tensor.shape]
        return tf.cast(RANDOM.integers(0, 4, shape), tensor.dtype)

    sequential = isinstance(model, keras.Sequential)  # Whose `input` Keras 3.5 does not tell.
    return keras.tree.map_structure(batch, model.inputs[0] if sequential else model.input)


def outputs(model, x, **kwargs):
    return [np.asarray(y) for y in keras.tree.flatten(model(x, **kwargs))]


def assert_same_weights(a, b):
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    assert [v.name for v in a.weights] == [v.name for v in b.weights]
    assert [v.trainable for v in a.weights] == [v.trainable for v in b.weights]
    assert [v.dtype for v in a.weights] == [v.dtype for v in b.weights]


def flags(model):
    """Which of the layers with weights are trainable, by name; with a wrapper, both."""
    flags = {}
    for layer in reachable.sublayers(model):
        # A Sequential has a functional model inside.
        if layer.weights and not layer.name.startswith("functional"):
            flags.setdefault(layer.name, set()).add(layer.trainable)
    return flags


def scatter(model):
    """Gives a model weights that no initializer does."""
    for variable in model.weights:
        if variable.dtype.startswith(("float", "bfloat")):
            variable.assign(variable + 0.1 * RANDOM.uniform(0.1, 1.0, variable.shape))
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


# Models.


def sequential():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, "relu", name="hidden"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(2, name="head"),
        ],
        name="plain",
    )


def shared():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    dense = layers.Dense(3, name="shared")
    merged = layers.Concatenate()([dense(a), dense(b)])
    return keras.Model([a, b], layers.Dense(1, name="head")(keras.ops.add(merged, 1.0)))


def nested():
    innermost = keras.Sequential(
        [keras.Input((3,)), layers.Dense(3, name="deep")], name="innermost"
    )
    inputs = keras.Input((4,))
    inner = keras.Model(inputs, innermost(layers.Dense(3, name="middle")(inputs)), name="inner")
    a, b = keras.Input((4,)), keras.Input((4,))
    # Called twice.
    return keras.Model(
        [a, b], layers.Dense(2, name="top")(layers.Add()([inner(a), inner(b)])), name="outer"
    )


def dictionaries():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    trunk = layers.Dense(3, name="trunk")(inputs["a"]) * inputs["b"][:, :3]
    return keras.Model(
        inputs, {"x": layers.Dense(1, name="x")(trunk), "y": layers.Dense(2, name="y")(trunk)}
    )


def across_levels():
    dense = layers.Dense(4, name="everywhere")
    inner = keras.Sequential([keras.Input((4,)), dense], name="inner")
    inputs = keras.Input((4,))
    return keras.Model(inputs, inner(layers.ReLU()(dense(inputs))))


def recurrent():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(6, 3, mask_zero=True, name="embedding")(inputs)
    x, h, c = layers.LSTM(3, return_sequences=True, return_state=True, name="lstm")(x)
    x = layers.GRU(3, return_sequences=True, name="gru")(x, initial_state=h)
    x = layers.Bidirectional(layers.LSTM(2, return_sequences=True), name="both")(x)
    x = layers.TimeDistributed(layers.Dense(3), name="each")(x)
    return keras.Model(inputs, [layers.GlobalAveragePooling1D()(x), c])


def attention():
    query, value = keras.Input((3, 4)), keras.Input((5, 4))
    x, scores = layers.MultiHeadAttention(2, 2, name="attention")(
        query, value, return_attention_scores=True
    )
    x = layers.LayerNormalization(axis=[1, 2], name="normalization")(x)
    x = layers.EinsumDense("abc,cd->abd", (3, 4), name="einsum")(x)
    return keras.Model([query, value], [layers.PReLU()(x), scores])


def convolutional():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.SeparableConv2D(4, 3, name="separable"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2DTranspose(2, 2, name="transposed"),
            layers.GlobalAveragePooling2D(),
        ]
    )


def mixed():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = sequential()
    keras.config.set_dtype_policy("float32")
    return model


def mixed_functional():
    keras.config.set_dtype_policy("mixed_float16")
    model = nested()
    keras.config.set_dtype_policy("float32")
    return model


class Scale(layers.Layer):
    """A layer of one's own, not registered."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.gate = self.add_weight(shape=(self.units,), name="gate")

    def call(self, x):
        return keras.ops.matmul(x, self.kernel) * self.gate

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def custom():
    return keras.Sequential(
        [keras.Input((4,)), Scale(3, name="own"), layers.Lambda(lambda x: 2.0 * x)]
    )


def partly_frozen():
    model = nested()
    model.get_layer("inner").get_layer("middle").trainable = False
    return model


def thawed():
    model = nested()
    model.get_layer("inner").trainable = False
    model.get_layer("inner").get_layer("middle").trainable = True
    return model


def frozen_kernel():
    model = sequential()
    model.get_layer("head").kernel.trainable = False
    return model


def normalized():
    normalization = layers.Normalization()
    normalization.adapt(RANDOM.normal(3.0, 2.0, (50, 4)))
    return keras.Sequential([keras.Input((4,)), normalization, layers.Dense(2, name="dense")])


MODELS = {
    sequential: ["head", "hidden"],
    shared: ["head", "shared"],
    nested: ["deep", "middle", "top"],
    dictionaries: ["trunk", "x", "y"],
    across_levels: ["everywhere"],
    recurrent: ["both", "each", "embedding", "gru", "lstm"],
    attention: ["attention", "einsum"],
    convolutional: ["conv", "depthwise", "separable", "transposed"],
    mixed: ["head", "hidden"],
    mixed_functional: ["deep", "middle", "top"],
    custom: ["own"],
    partly_frozen: ["deep", "top"],
    thawed: ["middle", "top"],
    frozen_kernel: ["hidden"],
    normalized: ["dense"],
}

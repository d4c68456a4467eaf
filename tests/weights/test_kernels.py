"""Every Keras layer that has weights: which are kernels, and which axes tell their output channels apart."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import noises
from keras_weightnoise._weights import reachable, selection
from keras_weightnoise._weights.kernels import is_kernel
from keras_weightnoise._weights.perturbation import perturb

L = keras.layers
ROW, SEQUENCE, IMAGE = [(None, 4)], [(None, 5, 4)], [(None, 6, 6, 4)]


def with_lora(layer, *shape):
    layer.build(*shape)
    layer.enable_lora(2)
    return layer


def recurrent(name, gates, bias):
    return {
        f"{name}kernel": ((4, 3 * gates), (1,)),
        f"{name}recurrent_kernel": ((3, 3 * gates), (1,)),
        f"{name}bias": (bias, None),
    }


def attention(query_heads, gated=False):
    def projection(heads):
        return {"kernel": ((4, heads, 3), (1, 2)), "bias": ((heads, 3), None)}

    parts = {
        "query": projection(query_heads),
        "key": projection(2),
        "value": projection(2),
        **({"gate": projection(query_heads)} if gated else {}),
        "attention_output": {"kernel": ((query_heads, 3, 4), (2,)), "bias": ((4,), None)},
    }
    return {f"{part}/{name}": row for part, names in parts.items() for name, row in names.items()}


def convolution(kernel, kept, filters=3):
    return {"kernel": (kernel, kept), "bias": ((filters,), None)}


def separable(depthwise, pointwise):
    rank = len(depthwise)
    return {
        "depthwise_kernel": (depthwise, (rank - 2, rank - 1)),
        "pointwise_kernel": (pointwise, (rank - 1,)),
        "bias": ((3,), None),
    }


NORM = {"gamma": ((4,), None), "beta": ((4,), None)}
NORM_OF_TWO_AXES = {"gamma": ((5, 4), None), "beta": ((5, 4), None)}
DENSE = {"kernel": ((4, 3), (1,)), "bias": ((3,), None)}

# Layer (in a function, as older versions of Keras lack some), shapes to build it with (none: built already),
# and for each weight its shape and the axes that tell its output channels apart, or `None`: no kernel.
LAYERS = {
    "AdditiveAttention": (
        lambda: L.AdditiveAttention(),
        [[(None, 5, 4)] * 2],
        {"scale": ((4,), None)},
    ),
    "Attention": (
        lambda: L.Attention(use_scale=True, score_mode="concat"),
        [[(None, 5, 4)] * 2],
        {"scale": ((), None), "concat_score_weight": ((), None)},
    ),
    "BatchNormalization": (lambda: L.BatchNormalization(), ROW, NORM),
    "Bidirectional": (
        lambda: L.Bidirectional(L.GRU(3, name="gru")),
        SEQUENCE,
        {
            **recurrent("forward_gru/gru_cell/", 3, (2, 9)),
            **recurrent("backward_gru/gru_cell/", 3, (2, 9)),
        },
    ),
    "Conv1D": (lambda: L.Conv1D(3, 2), SEQUENCE, convolution((2, 4, 3), (2,))),
    "Conv2D": (lambda: L.Conv2D(3, 2), IMAGE, convolution((2, 2, 4, 3), (3,))),
    "Conv2D, groups": (
        lambda: L.Conv2D(4, 2, groups=2),
        IMAGE,
        convolution((2, 2, 2, 4), (3,), 4),
    ),
    "Conv2D, LoRA": (
        lambda: with_lora(L.Conv2D(3, 2), *IMAGE),
        None,
        {
            **convolution((2, 2, 4, 3), (3,)),
            "lora_kernel_a": ((2, 2, 4, 2), (3,)),
            "lora_kernel_b": ((2, 3), (1,)),
        },
    ),
    "Conv3D": (lambda: L.Conv3D(3, 2), [(None, 4, 4, 4, 2)], convolution((2, 2, 2, 2, 3), (4,))),
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(3, 2), SEQUENCE, convolution((2, 3, 4), (1,))),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(3, 2), IMAGE, convolution((2, 2, 3, 4), (2,))),
    "Conv3DTranspose": (
        lambda: L.Conv3DTranspose(3, 2),
        [(None, 4, 4, 4, 2)],
        convolution((2, 2, 2, 3, 2), (3,)),
    ),
    **{
        f"ConvLSTM{n}D": (
            lambda n=n: getattr(L, f"ConvLSTM{n}D")(3, 2),
            [(None, 5, *[6] * n, 4)],
            {
                "conv_lstm_cell/kernel": ((*[2] * n, 4, 12), (n + 1,)),
                "conv_lstm_cell/recurrent_kernel": ((*[2] * n, 3, 12), (n + 1,)),
                "conv_lstm_cell/bias": ((12,), None),
            },
        )
        for n in (1, 2, 3)
    },
    "Dense": (lambda: L.Dense(3), ROW, DENSE),
    "Dense, LoRA": (
        lambda: with_lora(L.Dense(3), *ROW),
        None,
        {**DENSE, "lora_kernel_a": ((4, 2), (1,)), "lora_kernel_b": ((2, 3), (1,))},
    ),
    "DepthwiseConv1D": (
        lambda: L.DepthwiseConv1D(2, depth_multiplier=3),
        SEQUENCE,
        convolution((2, 4, 3), (1, 2), 12),
    ),
    "DepthwiseConv2D": (
        lambda: L.DepthwiseConv2D(2, depth_multiplier=3),
        IMAGE,
        convolution((2, 2, 4, 3), (2, 3), 12),
    ),
    "EinsumDense, one output axis": (
        lambda: L.EinsumDense("ab,bc->ac", 3, bias_axes="c"),
        ROW,
        DENSE,
    ),
    "EinsumDense, several output axes": (
        lambda: L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"),
        SEQUENCE,
        {"kernel": ((4, 2, 3), (1, 2)), "bias": ((2, 3), None)},
    ),
    "EinsumDense, several input axes": (
        lambda: L.EinsumDense("abcd,cde->abe", (None, 3), bias_axes="e"),
        [(None, 5, 2, 4)],
        {"kernel": ((2, 4, 3), (2,)), "bias": ((3,), None)},
    ),
    "EinsumDense, output axis first": (
        lambda: L.EinsumDense("ab,cb->ac", 3),
        ROW,
        {"kernel": ((3, 4), (0,))},
    ),
    "EinsumDense, ellipsis": (
        lambda: L.EinsumDense("...x,xyz->...yz", (2, 3)),
        SEQUENCE,
        {"kernel": ((4, 2, 3), (1, 2))},
    ),
    "EinsumDense, no output axis": (
        lambda: L.EinsumDense("abc,bc->a", ()),
        SEQUENCE,
        {"kernel": ((5, 4), ())},
    ),
    "EinsumDense, kernel of rank 1": (
        lambda: L.EinsumDense("ab,b->a", ()),
        ROW,
        {"kernel": ((4,), ())},
    ),
    "EinsumDense, LoRA": (
        lambda: with_lora(L.EinsumDense("abcd,cde->abe", (None, 3)), (None, 5, 2, 4)),
        None,
        {
            "kernel": ((2, 4, 3), (2,)),
            "lora_kernel_a": ((2, 4, 2), (2,)),
            "lora_kernel_b": ((2, 3), (1,)),
        },
    ),
    "EinsumDense, LoRA, output axis first": (
        lambda: with_lora(L.EinsumDense("ab,cb->ac", 3), *ROW),
        None,
        {
            "kernel": ((3, 4), (0,)),
            "lora_kernel_a": ((3, 2), (0,)),
            "lora_kernel_b": ((2, 4), (0,)),
        },
    ),
    "Embedding": (lambda: L.Embedding(7, 3), SEQUENCE, {"embeddings": ((7, 3), (0,))}),
    "Embedding, LoRA": (
        lambda: with_lora(L.Embedding(7, 3), *SEQUENCE),
        None,
        {
            "embeddings": ((7, 3), (0,)),
            "lora_embeddings_a": ((7, 2), (0,)),
            "lora_embeddings_b": ((2, 3), (1,)),
        },
    ),
    "GRU": (lambda: L.GRU(3), SEQUENCE, recurrent("gru_cell/", 3, (2, 9))),
    "GRU, one bias": (
        lambda: L.GRU(3, reset_after=False),
        SEQUENCE,
        recurrent("gru_cell/", 3, (9,)),
    ),
    "GRUCell": (lambda: L.GRUCell(3), ROW, recurrent("", 3, (2, 9))),
    "GroupNormalization": (lambda: L.GroupNormalization(2), ROW, NORM),
    "GroupQueryAttention": (
        lambda: L.GroupQueryAttention(3, 4, 2),
        SEQUENCE * 2,
        attention(4),
    ),
    "LSTM": (lambda: L.LSTM(3), SEQUENCE, recurrent("lstm_cell/", 4, (12,))),
    "LSTMCell": (lambda: L.LSTMCell(3), ROW, recurrent("", 4, (12,))),
    "LayerNormalization": (lambda: L.LayerNormalization(), ROW, NORM),
    "LayerNormalization, of two axes": (
        lambda: L.LayerNormalization(axis=(1, 2)),
        SEQUENCE,
        NORM_OF_TWO_AXES,
    ),
    "MultiHeadAttention": (lambda: L.MultiHeadAttention(2, 3), SEQUENCE * 2, attention(2)),
    "PReLU": (lambda: L.PReLU(), SEQUENCE, {"alpha": ((5, 4), None)}),
    "RMSNormalization": (lambda: L.RMSNormalization(), ROW, {"scale": ((4,), None)}),
    "RMSNormalization, of two axes": (
        lambda: L.RMSNormalization(axis=(1, 2)),
        SEQUENCE,
        {"scale": ((5, 4), None)},
    ),
    "RNN": (
        lambda: L.RNN([L.SimpleRNNCell(3, name="first"), L.GRUCell(2, name="second")]),
        SEQUENCE,
        {
            **recurrent("stacked_rnn_cells/first/", 1, (3,)),
            "stacked_rnn_cells/second/kernel": ((3, 6), (1,)),
            "stacked_rnn_cells/second/recurrent_kernel": ((2, 6), (1,)),
            "stacked_rnn_cells/second/bias": ((2, 6), None),
        },
    ),
    "ReversibleEmbedding": (
        lambda: L.ReversibleEmbedding(7, 3, tie_weights=False),
        SEQUENCE,
        # Into the rows of one, and out through the columns of the other.
        {"embeddings": ((7, 3), (0,)), "reverse_embeddings": ((3, 7), (1,))},
    ),
    "STFTSpectrogram": (
        lambda: L.STFTSpectrogram(frame_length=4, frame_step=2, fft_length=4),
        [(None, 16)],
        {"real_kernel": ((4, 1, 3), (2,)), "imag_kernel": ((4, 1, 3), (2,))},
    ),
    "SeparableConv1D": (
        lambda: L.SeparableConv1D(3, 2, depth_multiplier=2),
        SEQUENCE,
        separable((2, 4, 2), (1, 8, 3)),
    ),
    "SeparableConv2D": (
        lambda: L.SeparableConv2D(3, 2, depth_multiplier=2),
        IMAGE,
        separable((2, 2, 4, 2), (1, 1, 8, 3)),
    ),
    "SimpleRNN": (lambda: L.SimpleRNN(3), SEQUENCE, recurrent("simple_rnn_cell/", 1, (3,))),
    "SimpleRNNCell": (lambda: L.SimpleRNNCell(3), ROW, recurrent("", 1, (3,))),
    "SpectralNormalization": (
        lambda: L.SpectralNormalization(L.Dense(3, name="dense")),
        ROW,
        {f"dense/{name}": row for name, row in DENSE.items()},
    ),
    "StackedRNNCells": (
        lambda: L.StackedRNNCells([L.LSTMCell(3, name="cell")]),
        ROW,
        recurrent("cell/", 4, (12,)),
    ),
    "TimeDistributed": (
        lambda: L.TimeDistributed(L.Dense(3, name="dense")),
        SEQUENCE,
        {f"dense/{name}": row for name, row in DENSE.items()},
    ),
}
if "use_gate" in inspect.signature(L.MultiHeadAttention).parameters:
    LAYERS |= {
        "MultiHeadAttention, gated": (
            lambda: L.MultiHeadAttention(2, 3, use_gate=True),
            SEQUENCE * 2,
            attention(2, gated=True),
        ),
        "GroupQueryAttention, gated": (
            lambda: L.GroupQueryAttention(3, 4, 2, use_gate=True),
            SEQUENCE * 2,
            attention(4, gated=True),
        ),
    }

# No weights of their own, or none that training learns.
WITHOUT = """
Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AlphaDropout
AugMix AutoContrast Average AveragePooling1D AveragePooling2D AveragePooling3D CategoryEncoding CenterCrop
Concatenate ContrastLimitedAdaptiveHistogramEqualization Cropping1D Cropping2D Cropping3D CutMix
Discretization Dot Dropout ELU Equalization Flatten GaussianDropout GaussianNoise GlobalAveragePooling1D
GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
HashedCrossing Hashing Identity InputLayer IntegerLookup LeakyReLU Masking MaxNumBoundingBoxes
MaxPooling1D MaxPooling2D MaxPooling3D Maximum MelSpectrogram Minimum MixUp Multiply Normalization Permute
RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert
RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear
RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape Resizing Softmax Solarization
SpatialDropout1D SpatialDropout2D SpatialDropout3D StringLookup Subtract TextVectorization
UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
""".split()  # noqa: SIM905

# The weights of what they are given: layers, a function, a SavedModel, another library's module.
GIVEN = "FlaxLayer JaxLayer Lambda Layer Pipeline TFSMLayer TorchModuleWrapper Wrapper".split()  # noqa: SIM905


def exported():
    """The names of each class in `keras.layers`."""
    names = {}
    for name, value in vars(L).items():
        if inspect.isclass(value) and issubclass(value, keras.Layer):
            names.setdefault(value, set()).add(name)
    return names


def there(name):
    return hasattr(L, name.partition(",")[0])


def test_no_layer_of_keras_is_left_out():
    known = {name.partition(",")[0] for name in LAYERS} | {*WITHOUT} | {*GIVEN}
    left_out = [sorted(names) for names in exported().values() if not names & known]
    assert not left_out, "are their weights kernels? Say so in LAYERS or in WITHOUT"


@pytest.mark.slow
def test_layers_without_weights_add_none_that_are_learned():
    for name in filter(there, WITHOUT):
        layer = getattr(L, name)
        bases = layer.__mro__[: layer.__mro__.index(keras.Layer)]
        adds = any("add_weight(" in inspect.getsource(base) for base in bases)
        # This one keeps statistics.
        assert adds == (name == "Normalization"), name


def build(make, shapes):
    layer = make()
    if shapes is not None:
        layer.build(*shapes)
    return layer


every_layer = pytest.mark.parametrize(
    ("make", "shapes", "expected"),
    [pytest.param(*row, id=name) for name, row in LAYERS.items() if there(name)],
)


@every_layer
def test_kernels(make, shapes, expected):
    layer = build(make, shapes)
    learned = selection.select(layer, frozen=True)
    kernels = {id(target.variable) for target in learned if is_kernel(target.variable)}
    if kernels:
        found = selection.select(layer, "kernels", frozen=True)
        assert {id(target.variable) for target in found} == kernels
    rows = {}
    names = reachable.relative_names(layer, [target.variable for target in learned])
    for target, name in zip(learned, names, strict=True):
        shape = tuple(target.variable.shape)
        kept = tuple(axis for axis in range(len(shape)) if axis not in target.axes)
        if id(target.variable) in kernels:
            rows[name] = (shape, kept)
        else:
            rows[name] = (shape, None)
            assert kept == ()
    assert rows == expected


# Of what Keras makes of a layer's kernels, none is a kernel but the kernels.
QUANTIZED = {
    "Dense": (lambda: L.Dense(3), ROW),
    "EinsumDense": (lambda: L.EinsumDense("abc,cde->abde", (None, 2, 3)), SEQUENCE),
    "Embedding": (lambda: L.Embedding(7, 4), SEQUENCE),
    "ReversibleEmbedding": (lambda: L.ReversibleEmbedding(7, 4, tie_weights=False), SEQUENCE),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("name", list(filter(there, QUANTIZED)))
def test_quantized_kernels(name, mode):
    layer = build(*QUANTIZED[name])
    try:
        layer.quantize(mode)
    except (ValueError, NotImplementedError):
        pytest.skip("Keras has it not")
    for variable in layer.variables:
        kernel = variable.name in ("kernel", "embeddings", "reverse_embeddings")
        if len(variable.shape) < 2 or kernel:
            assert is_kernel(variable) == kernel
    if mode == "float8":
        found = [target.variable.name for target in selection.select(layer)]
        assert "kernel" in found
        assert set(found) <= {"kernel", "bias"}


CUSTOM = {
    "kernel": [(3, 2), (3,)],
    "w": [(3, 2), (3, 2, 2)],
    "filters_2": [(3, 2)],
    "class_token": [(1, 1, 4)],
    "scaled": [(3, 2)],
}
CUSTOM_NOT = {
    "w": [(3,), ()],
    "bias": [(3,), (3, 2)],
    "query_bias": [(3, 2)],
    "relative_bias_table": [(3, 2)],
    "gamma": [(3, 2)],
    "gamma_1": [(3, 2)],
    "beta": [(3, 2)],
    "layer_scale": [(3, 2)],
    "kernel_scale": [(3, 2)],
    "alpha": [(3, 2)],
}


@pytest.mark.parametrize(
    ("name", "shape", "kernel"),
    [(name, shape, True) for name, shapes in CUSTOM.items() for shape in shapes]
    + [(name, shape, False) for name, shapes in CUSTOM_NOT.items() for shape in shapes],
)
def test_weights_of_layers_of_ones_own(name, shape, kernel):
    layer = keras.Layer()
    assert is_kernel(layer.add_weight(shape=shape, name=name)) == kernel


SCALES = {
    "std": lambda w, axes: np.std(w),
    "rms": lambda w, axes: np.sqrt(np.mean(w**2)),
    "max": lambda w, axes: np.max(np.abs(w)),
    "range": lambda w, axes: np.max(w) - np.min(w),
    "channel_max": lambda w, axes: np.max(np.abs(w), axes, keepdims=True),
    "filter_norm": lambda w, axes: np.sqrt(np.sum(w**2, axes, keepdims=True)),
    "weight": lambda w, axes: np.abs(w),
    None: lambda w, axes: 1.0,
}


# A kernel of each rank and kind of axes.
@pytest.mark.parametrize(
    "name",
    [
        "Dense",
        "Conv2D",
        "Conv2DTranspose",
        "DepthwiseConv2D",
        "EinsumDense, several output axes",
        "EinsumDense, kernel of rank 1",
        "Embedding, LoRA",
        "GRU",
        "PReLU",
    ],
)
def test_scales(name):
    make, shapes, expected = LAYERS[name]
    layer = build(make, shapes)
    targets = selection.select(layer)
    rng = np.random.default_rng(0)
    for target in targets:
        target.variable.assign(rng.normal(0.3, 1, target.variable.shape))
    clean = [target.variable.value for target in targets]
    names = reachable.relative_names(layer, [target.variable for target in targets])
    for relative_to, scale in SCALES.items():
        # Of one size everywhere, so that the noise shows its scale.
        noise = noises.Rademacher(0.5, relative_to)
        noisy = perturb(noise, targets, clean, seed=1, step=2, magnitudes=noise.magnitudes_at(0))
        for variable, w, after in zip(names, clean, noisy, strict=True):
            w = tf.cast(w, tf.float64).numpy()
            kept = expected[variable][1] or ()
            axes = tuple(axis for axis in range(w.ndim) if axis not in kept)
            size = np.broadcast_to(0.5 * scale(w, axes), w.shape)
            np.testing.assert_allclose(
                np.abs(after - w), size, rtol=1e-4, atol=1e-6, err_msg=relative_to
            )

"""Noise is one pass over the weights: nothing of their size is made but the noisy weights."""

import re

import keras
import pytest
import tensorflow as tf

from keras_weightnoise import noises
from keras_weightnoise._random import generator, kernels, laws
from keras_weightnoise._weights import perturbation, selection

N = 1000 * 1024
# Ops whose output is their input's memory.
VIEWS = {
    "Bitcast",
    "Identity",
    "IdentityN",
    "Placeholder",
    "PreventGradient",
    "Reshape",
    "StopGradient",
}


def large(hlo):
    """What the entry of a compiled module makes of the weights' size, or half as many, by what makes it."""
    made = []
    for line in hlo[hlo.index("\nENTRY") :].splitlines():
        found = re.match(r".*? = (\w+)\[([\d,]*)\]\S* ([\w-]+)\(", line)
        if found is None:
            continue
        _, shape, op = found.groups()
        size = 1
        for each in filter(None, shape.split(",")):
            size *= int(each)
        if size >= N // 2 and op not in ("parameter", "bitcast", "reshape"):
            made.append(op)
    return made


@pytest.mark.parametrize("law", [laws.NORMAL, laws.UNIFORM], ids=str)
@pytest.mark.parametrize("added", [True, False])
def test_a_compiled_draw_makes_nothing_but_its_result(law, added):
    key, counter, factor = generator.make_key(5, 6), generator.make_counter(64), tf.constant(0.3)
    rows = tf.constant(1000)
    if added:
        kernel, arguments = kernels._add_kernel(law, 512), (key, counter, rows, factor, tf.zeros(N))
    else:
        kernel, arguments = kernels._numbers_kernel(law, 512), (key, counter, rows, None)
    hlo = kernel.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
    (op,) = large(hlo)
    assert op in ("fusion", "call")  # XLA splits a fusion over threads as a call.


@pytest.mark.parametrize(
    "noise",
    [
        noises.Gaussian(0.1),
        noises.Uniform(0.1),
        noises.Gaussian(0.1, exact=True),
        *(noises.Gaussian(0.1, relative_to=scale) for scale in ("max", "range")),
    ],
    ids=str,
)
def test_noise_makes_nothing_but_the_noisy_weights(noise):
    layer = keras.layers.Dense(1000, use_bias=False)
    layer.build((None, N // 1000))

    @tf.function
    def perturbed(w, step):
        magnitudes = noise.magnitudes_at(0)
        targets = selection.select(layer)
        return perturbation.perturb(
            noise, targets, [w], seed=tf.constant(1), step=step, magnitudes=magnitudes
        )

    spec = tf.TensorSpec((N // 1000, 1000))
    graph = perturbed.get_concrete_function(spec, tf.TensorSpec((), tf.int64)).graph
    made = [
        op.type
        for op in graph.get_operations()
        if op.type not in VIEWS and any(o.shape.num_elements() == N for o in op.outputs)
    ]
    assert len(made) == 1, made

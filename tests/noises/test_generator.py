"""`generator="philox"`: `tf.random` itself draws, and one call draws the same again."""

import fits
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import WeightNoiseCallback, noises, noisy_call, perturb_weights

pytestmark = pytest.mark.any_version


def test_one_call_of_tf_random_draws_the_noise_of_a_variable():
    layers = [keras.Input((10,)), keras.layers.Dense(7), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    noise = noises.Gaussian(0.5, generator="philox")
    noisy = perturb_weights(model, noise, seed=12)
    # Before the second kernel: 70 weights, which take 128, and 7, which take 64.
    n = tf.random.stateless_normal((7, 3), seed=[12 * 2**32 + 0, 128 + 64], alg="philox")
    w = model.variables[2]
    np.testing.assert_array_equal(noisy.variables[2], w + 0.5 * n)


def uniform(shape, seed):
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg="philox")
    return (tf.cast(bits, tf.float32) + 0.5) / 2**31


LITERALS = {
    "normal": (noises.Gaussian(0.1), 0, lambda s: 0.1 * tf.random.stateless_normal(**s)),
    "truncated": (
        noises.TruncatedGaussian(0.1),
        0,
        lambda s: 0.1 * tf.random.stateless_truncated_normal(**s),
    ),
    "uniform": (noises.Uniform(0.1), 0, lambda s: 0.1 * uniform(s["shape"], s["seed"])),
    "sign": (noises.Rademacher(0.1), 0, lambda s: 0.1 * tf.sign(uniform(s["shape"], s["seed"]))),
    "second": (
        noises.Gaussian(0.0) + noises.Uniform(0.1),
        2**40,
        lambda s: 0.1 * uniform(s["shape"], s["seed"]),
    ),
}


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize(("noise", "stream", "literal"), LITERALS.values(), ids=LITERALS)
def test_every_law_in_a_call(noise, stream, literal, eager):
    layer = keras.layers.Dense(4, use_bias=False, kernel_initializer="zeros")
    layer.build((None, 5))
    philox = noises.Compose(
        [type(n).from_config({**n.get_config(), "generator": "philox"}) for n in noise.members]
    )

    def call(seed, step):
        return noisy_call(layer, philox, tf.eye(5), seed=seed, step=step)

    kernel = (call if eager else tf.function(call))(tf.constant(2**32 - 1), tf.constant(9))
    # As int64: modulo 2^64.
    arguments = {"shape": (5, 4), "seed": [-(2**32) + 9, stream], "alg": "philox"}
    np.testing.assert_allclose(kernel, literal(arguments), rtol=0, atol=1e-7)


def test_the_callback_sees_the_numbers_of_the_step():
    seen = []

    class Watched(keras.layers.Dense):
        def call(self, inputs):
            tf.py_function(lambda k: seen.append(k.numpy()), [self.kernel], [])
            return super().call(inputs)

    model = keras.Sequential([keras.Input((5,)), Watched(4, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    clean = model.weights[0].numpy()
    noise = noises.Gaussian(0.1, generator="philox")
    x, y = np.ones((3, 5), "float32"), np.ones((3, 4), "float32")
    callback = WeightNoiseCallback(noise, seed=3)
    model.fit(x, y, batch_size=1, shuffle=False, verbose=0, callbacks=[callback])
    for step in range(3):
        n = tf.random.stateless_normal((5, 4), [3 * 2**32 + step, 0], alg="philox")
        np.testing.assert_allclose(seen[step], clean + 0.1 * n, rtol=0, atol=1e-7)


def test_the_same_on_replicas():
    layer = keras.layers.Dense(4, use_bias=False)
    layer.build((None, 5))
    noise = noises.Gaussian(0.1, generator="philox")
    strategy = fits.strategy()
    call = tf.function(
        lambda: strategy.run(lambda: noisy_call(layer, noise, tf.eye(5), seed=1, step=2))
    )
    a, b = strategy.experimental_local_results(call())
    np.testing.assert_array_equal(a, b)
    assert np.any(a != layer.kernel)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: noises.Gaussian(generator="mersenne"),
            "Invalid `generator`.*'threefry', 'philox'",
        ),
        (lambda: noises.Gaussian(generator=None), "Invalid `generator`"),
        (
            lambda: noises.Gaussian(exact=True, generator="philox"),
            "Invalid `generator`.*'threefry'.*'exact_normal'.*Received: generator='philox'",
        ),
    ],
)
def test_what_is_no_generator_for_it(make, message):
    with pytest.raises(ValueError, match=message):
        make()

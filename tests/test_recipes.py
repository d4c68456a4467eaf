"""Published methods by name: what they are made of, and that they run."""

import keras
import numpy as np
import pytest
from fits import X, Y

from keras_weightnoise import WeightNoiseCallback, noises, perturb_weights, recipes, schedules
from keras_weightnoise.adversaries import ASAM, AWP, SAM
from keras_weightnoise.constraints import ClipToStddev


def filters(magnitude):
    return noises.Gaussian(magnitude, relative_to="filter_norm")


def ramp(start, end):
    return schedules.CosineRamp(start, end, 0, 100)


def model():
    keras.utils.set_random_seed(1)
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(1)])
    net.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    return net


MIXED = {"clean_gradient": 0.5}
PARTS = {"draws_per_step": 8, "split_batch": True}
# A call, and the callback it stands for.
CALLBACKS = {
    "rwp": (recipes.rwp, {}, filters(0.01), {}),
    "rwp, rising": (recipes.rwp, {"steps": 100}, filters(ramp(0.0, 0.01)), {}),
    "m_rwp": (recipes.m_rwp, {}, filters(0.015), MIXED),
    "m_rwp, less noise": (recipes.m_rwp, {"alpha": 0.25}, filters(0.015), {"clean_gradient": 0.75}),
    "lpf_sgd": (recipes.lpf_sgd, {}, filters(0.0005), PARTS),
    "lpf_sgd, rising": (
        recipes.lpf_sgd, {"gamma": 0.001, "rise": 1.0, "steps": 100}, filters(ramp(0.001, 0.002)), PARTS,
    ),
    "lpf_sgd, whole batches": (
        recipes.lpf_sgd, {"split_batch": False}, filters(0.0005), {"draws_per_step": 8},
    ),
    "smoothout": (recipes.smoothout, {"limit": 0.01}, noises.Uniform(0.01), {}),
    "smoothout, adaptive": (
        recipes.smoothout, {"limit": 0.1, "relative_to": "weight"},
        noises.Uniform(0.1, relative_to="weight"), {},
    ),
    "layerwise": (recipes.layerwise, {"stddev": 0.1}, noises.Gaussian(0.1), {"one_at_a_time": True}),
    "hardware_aware": (
        lambda **settings: recipes.hardware_aware(model(), **settings), {"exclude": "dense_1"},
        noises.Gaussian(0.038, relative_to="max"), {"variables": "kernels", "exclude": "dense_1"},
    ),
    "sam": (recipes.sam, {"rho": 0.1, "seed": 1}, SAM(0.1), {"seed": 1}),
    "asam": (recipes.asam, {}, ASAM(0.5), {}),
    "awp": (recipes.awp, {}, AWP(0.01), {"variables": "kernels"}),
    "awp, everywhere": (recipes.awp, {"variables": None}, AWP(0.01), {}),
}  # fmt: skip


@pytest.mark.any_version
@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks(name):
    recipe, arguments, noise, settings = CALLBACKS[name]
    expected = WeightNoiseCallback(noise, **settings)
    assert repr(recipe(**arguments)) == repr(expected)


def test_noisytune_perturbs_by_half_the_deviation_at_most():
    net = model()
    for before, after in zip(
        net.get_weights(), recipes.noisytune(net, 0.3, seed=1).get_weights(), strict=True
    ):
        moved = np.abs(after - before)
        assert moved.max() <= 0.15 * before.std() + 1e-6
        assert moved.max() >= 0.05 * before.std()  # Zero biases have none.


def test_noisegrad_averages_what_a_function_returns():
    net = model()
    before = net.get_weights()
    found = recipes.noisegrad(net, lambda m: {"out": m(X), "w": m.weights[0]}, draws=3, seed=1)
    noise = noises.Gaussian(0.2, relative_to="weight")
    assert all(np.array_equal(a, b) for a, b in zip(net.get_weights(), before, strict=True))
    # Draw 0 is that of `perturb_weights`.
    one = recipes.noisegrad(net, lambda m: m.weights[0], draws=1, seed=1)
    np.testing.assert_array_equal(one, perturb_weights(net, noise, seed=1).weights[0].numpy())
    assert found["out"].shape == (12, 1)
    assert not np.allclose(found["w"], one)


def test_hardware_aware_clips_and_trains():
    net = model()
    callback = recipes.hardware_aware(net, k=1.0)
    kernels = [layer.kernel for layer in net.layers]
    assert all(isinstance(kernel.constraint, ClipToStddev) for kernel in kernels)
    net.fit(X, Y, verbose=0, callbacks=[callback])


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: recipes.rwp(-0.1), "gamma"),
        (lambda: recipes.rwp(steps=-1), "steps"),
        (lambda: recipes.m_rwp(alpha=0.0), "alpha"),
        (lambda: recipes.m_rwp(alpha=1.5), "alpha"),
        (lambda: recipes.lpf_sgd(rise=-1.0), "rise"),
        (lambda: recipes.lpf_sgd(draws=0), "draws"),
        (lambda: recipes.lpf_sgd(steps=-1), "steps"),
        (lambda: recipes.sam(-0.1), "rho"),
        (lambda: recipes.noisytune(model(), -0.1), "intensity"),
        (lambda: recipes.noisegrad(model(), lambda m: m(X), draws=0), "draws"),
    ],
)
def test_bad_arguments(call, argument):
    """The message names the recipe's own argument, not that of what it is made of."""
    with pytest.raises(
        ValueError, match=rf"Invalid `{argument}`. Expected .*Received: {argument}="
    ):
        call()

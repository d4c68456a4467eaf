"""Temperature scaling, against a grid and in closed form."""

import numpy as np
import pytest

from keras_weightnoise import calibration_report, fit_temperature, scale_temperature

pytestmark = pytest.mark.any_version

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(2000, 4))
P = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
Y = np.array([RNG.choice(4, p=p) for p in P])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_what_was_sharpened_is_found(temperature):
    sharp = scale_temperature(P, 1.0 / temperature)
    found = fit_temperature(Y, sharp)
    assert found == pytest.approx(temperature, rel=0.05)
    grid = np.geomspace(0.05, 20, 400)
    losses = [calibration_report(Y, scale_temperature(sharp, t)).nll for t in grid]
    assert found == pytest.approx(grid[np.argmin(losses)], rel=0.02)


def test_binary():
    one = P[:, 0]
    expected = fit_temperature(Y == 0, np.stack([1 - one, one], 1))
    assert fit_temperature(Y == 0, one[:, None]) == expected
    q = scale_temperature(one, 2.0)
    odds = np.sqrt(one / (1 - one))
    np.testing.assert_allclose(q[:, 1], odds / (1 + odds))


def test_scaling():
    assert np.all(scale_temperature(P, 2.0).argmax(1) == P.argmax(1))
    np.testing.assert_allclose(scale_temperature(P, 1.0), P)
    np.testing.assert_allclose(scale_temperature(P, 1e9), 0.25, rtol=1e-6)


@pytest.mark.parametrize(("right", "end"), [(True, 0.01), (False, 100.0)])
def test_ends(right, end):
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    labels = p.argmax(1) if right else p.argmin(1)
    with pytest.warns(UserWarning, match=f"at an end.*Received: .*accuracy {float(right):g}"):
        assert fit_temperature(labels, p) == pytest.approx(end)


@pytest.mark.parametrize(
    ("temperature", "error"),
    [
        *((t, ValueError) for t in (0, -1.0, np.inf, np.nan)),
        *((t, TypeError) for t in ("a", None, True)),
    ],
)
def test_wrong_temperatures(temperature, error):
    with pytest.raises(error, match="Invalid `temperature`"):
        scale_temperature(P, temperature)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="Invalid `probabilities`"):
        fit_temperature(Y, Z)
    with pytest.raises(ValueError, match="Invalid `y_true`"):
        fit_temperature(Y + 1, P)
    with pytest.raises(TypeError, match="Expected the labels first, then the probabilities"):
        fit_temperature(P, Y)

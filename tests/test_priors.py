"""Priors: their divergences against definitions, Monte Carlo and quadrature, and their arguments."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, stats

from keras_weightnoise import priors

pytestmark = pytest.mark.any_version

MEAN = np.array([[-0.3, 0.0, 0.2], [1.0, -0.01, 0.5]])
STDDEV = np.array([[0.1, 0.5, 1e-3], [0.3, 2.0, 0.05]])
MIXTURE = priors.ScaleMixture(1.0, 0.05, 0.25)

CENTER = MEAN.mean()
OPTIMUM = math.sqrt(np.mean(STDDEV**2 + (MEAN - CENTER) ** 2))


def log_mixture(w):
    return np.logaddexp(
        math.log(0.25) + stats.norm.logpdf(w, 0.0, 1.0),
        math.log(0.75) + stats.norm.logpdf(w, 0.0, 0.05),
    )


# Prior, values of its parameters, log p(w).
CASES = [
    (priors.Gaussian(0.5, 0.1), [], lambda w: stats.norm.logpdf(w, 0.1, 0.5)),
    (priors.get(2), [], lambda w: stats.norm.logpdf(w, 0.0, 2.0)),
    (priors.OptimalGaussian(), [], lambda w: stats.norm.logpdf(w, CENTER, OPTIMUM)),
    (
        priors.LearnedGaussian(0.7),
        [math.log(math.expm1(0.4))],
        lambda w: stats.norm.logpdf(w, 0.0, 0.4),
    ),
    (MIXTURE, [], log_mixture),
]


def divergence(prior, parameters=(), mean=MEAN, stddev=STDDEV, dtype="float64"):
    rng = np.random.default_rng(0)
    return prior.kl_divergence(
        tf.constant(mean, dtype),
        tf.constant(stddev, dtype),
        [tf.constant(each, dtype) for each in parameters],
        lambda: tf.constant(rng.normal(size=np.shape(mean)), dtype),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prior", "parameters", "log_prior"), CASES, ids=[type(case[0]).__name__ for case in CASES]
)
def test_divergences(prior, parameters, log_prior):
    """The integral of q log(q / p), and its Monte Carlo estimate."""

    def integrand(n, mean, stddev):
        w = mean + stddev * n
        log_ratio = stats.norm.logpdf(n) - math.log(stddev) - log_prior(w)
        return stats.norm.pdf(n) * log_ratio

    expected = sum(
        integrate.quad(integrand, -9, 9, args=pair, points=[-pair[0] / pair[1]], limit=200)[0]
        if abs(pair[0] / pair[1]) < 9
        else integrate.quad(integrand, -9, 9, args=pair)[0]
        for pair in zip(MEAN.ravel(), STDDEV.ravel(), strict=True)
    )
    if prior is MIXTURE:  # An estimate.
        prior = priors.ScaleMixture(1.0, 0.05, 0.25, draws=4000)
        np.testing.assert_allclose(divergence(prior), expected, rtol=0.02)
    else:
        np.testing.assert_allclose(divergence(prior, parameters), expected, rtol=1e-6)
        np.testing.assert_allclose(
            divergence(prior, parameters, dtype="float32"), expected, rtol=1e-4
        )
    n = np.random.default_rng(1).normal(size=(100_000, *MEAN.shape))
    log_ratios = stats.norm.logpdf(n) - np.log(STDDEV) - log_prior(MEAN + STDDEV * n)
    totals = log_ratios.sum((1, 2))
    assert abs(totals.mean() - expected) < 5.0 * totals.std() / math.sqrt(len(n))


@pytest.mark.parametrize("stddev", [0.05, 1.0, 3.0])
def test_the_gaussian_is_that_of_others(stddev):
    """As TensorFlow Probability (`kl_normal_normal`) and keras-proba (`normal_kl_divergence`) write it."""
    difference = np.log(STDDEV) - np.log(stddev)
    tfp = 0.5 * (MEAN / stddev) ** 2 + 0.5 * np.expm1(2.0 * difference) - difference
    keras_proba = np.log(stddev) - np.log(STDDEV) + (STDDEV**2 + MEAN**2) / (2.0 * stddev**2) - 0.5
    for each in (tfp, keras_proba):
        np.testing.assert_allclose(divergence(priors.Gaussian(stddev)), np.sum(each), rtol=1e-12)
        learned = divergence(priors.LearnedGaussian(), [priors.softplus_inverse(stddev)])
        np.testing.assert_allclose(learned, np.sum(each), rtol=1e-12)


def test_a_gaussian_that_is_the_prior_has_no_divergence():
    mean, stddev = np.full((2, 3), 0.1), np.full((2, 3), 0.5)
    assert abs(divergence(priors.Gaussian(0.5, 0.1), (), mean, stddev)) < 1e-12
    assert abs(divergence(priors.OptimalGaussian(), (), mean, stddev)) < 1e-12


def test_the_optimal_gaussian_is_the_best():
    best = divergence(priors.OptimalGaussian())
    for stddev in OPTIMUM * np.array([0.9, 1.0, 1.1]):
        for mean in CENTER + np.array([-0.05, 0.0, 0.05]):
            other = divergence(priors.Gaussian(stddev, mean))
            same = stddev == OPTIMUM and mean == CENTER
            assert abs(other - best) < 1e-9 if same else other > best + 1e-3


@pytest.mark.parametrize("y", [1e-12, 1e-3, 1.0, 50.0])
def test_softplus_inverse(y):
    for x in (priors.softplus_inverse(y), priors.softplus_inverse(tf.constant(y, "float64"))):
        np.testing.assert_allclose(tf.math.softplus(tf.cast(x, "float64")), y, rtol=1e-6)


@pytest.mark.parametrize("prior", [case[0] for case in CASES], ids=repr)
def test_round_trip(prior):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(prior))
    assert again == prior
    assert type(again) is type(prior)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: priors.get("normal"), TypeError, r"Invalid `prior`.*Received: prior='normal'"),
        (lambda: priors.get(None), TypeError, r"Invalid `prior`"),
        (lambda: priors.get(True), TypeError, r"Invalid `prior`"),
        (lambda: priors.get(0.0), ValueError, r"Invalid `prior`.*> 0.*Received: prior=0.0"),
        (lambda: priors.get(math.inf), ValueError, r"Invalid `prior`"),
        (lambda: priors.Gaussian(-1.0), ValueError, r"Invalid `stddev`.*Received: stddev=-1.0"),
        (lambda: priors.Gaussian("1"), TypeError, r"Invalid `stddev`"),
        (lambda: priors.Gaussian(1.0, "0"), TypeError, r"Invalid `mean`.*Received: mean='0'"),
        (lambda: priors.Gaussian(1.0, math.nan), ValueError, r"Invalid `mean`"),
        (lambda: priors.LearnedGaussian(0), ValueError, r"Invalid `initial_stddev`"),
        (lambda: priors.ScaleMixture(0.0), ValueError, r"Invalid `stddev`"),
        (lambda: priors.ScaleMixture(1.0, 1.0), ValueError, r"Invalid `small_stddev`.*below"),
        (lambda: priors.ScaleMixture(probability=1.0), ValueError, r"Invalid `probability`"),
        (lambda: priors.ScaleMixture(draws=0), ValueError, r"Invalid `draws`"),
        (lambda: priors.ScaleMixture(draws=1.0), TypeError, r"Invalid `draws`"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()

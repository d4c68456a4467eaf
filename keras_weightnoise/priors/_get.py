"""From an argument to a prior."""

from typing import Any

from keras_weightnoise._checks import check_positive, is_number
from keras_weightnoise.priors.gaussian import Gaussian
from keras_weightnoise.priors.prior import Prior


def get(prior: Any) -> Prior:
    """Returns the prior that is meant.

    Args:
        prior: A prior, or a number: the standard deviation of a `Gaussian` about 0.

    Returns:
        The prior itself, or `Gaussian(prior)`.

    Raises:
        ValueError: If it is a number, but not positive and finite.
        TypeError: If it is anything else.
    """
    if isinstance(prior, Prior):
        return prior
    if not is_number(prior):
        raise TypeError(
            "Invalid `prior`. Expected a number, or one of `keras_weightnoise.priors`. "
            f"Received: prior={prior!r} (of type {type(prior).__name__})"
        )
    check_positive("prior", prior)
    return Gaussian(prior)

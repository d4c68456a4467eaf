"""Variables that say how large noise is. They are parameters of noise, and no weights to perturb."""

from keras_weightnoise._weights.reachable import Variable

_MARK = "is_parameter_of_weight_noise"


def mark(variable: Variable) -> None:
    """Marks a variable as a parameter of noise, for as long as it exists. Layers mark theirs when built."""
    setattr(variable, _MARK, True)


def is_noise_parameter(variable: Variable) -> bool:
    """Whether a variable is marked as a parameter of noise."""
    return bool(getattr(variable, _MARK, False))

"""Seeds: what is one, and what stands for none. Private."""

import numbers
import random


def resolve_seed(seed: int | None) -> int:
    """Returns `seed`, or one drawn from what `keras.utils.set_random_seed` seeds if it is `None`."""
    # Python's generator is where Keras's own layers and initializers take their default seeds from.
    return random.randint(1, 2**31 - 1) if seed is None else seed


def check_seed(seed: int | None) -> int | None:
    """Returns `seed` if it is `None` or an int in [0, 2^32), and raises otherwise."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(
            "Invalid `seed`. Expected an integer or `None`. "
            f"Received: seed={seed} (of type {type(seed).__name__})"
        )
    if not 0 <= seed < 2**32:
        raise ValueError(
            f"Invalid `seed`. Expected an integer in [0, 2**32). Received: seed={seed}"
        )
    return int(seed)

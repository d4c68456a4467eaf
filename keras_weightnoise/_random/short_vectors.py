"""Short vectors, such as biases: a large model has hundreds, and each op on each of them counts."""

import itertools
from collections.abc import Sequence
from typing import Any

_SHORT = 2**12  # Elements: fewer are stacked sooner than each is copied or added to by itself.


def alike(kinds: Sequence[tuple[Any, Sequence[int]]]) -> tuple[list[list[int]], list[int]]:
    """The numbers of short vectors that are stacked sooner than each is dealt with, and those of all others.

    Args:
        kinds: Of each variable, the dtype and the shape. (To flatten what has more dimensions takes as many
            ops as to add to it.)

    Returns:
        Groups of numbers, each of two vectors or more of one dtype and size; and what is in none.
    """
    groups: dict[Any, list[int]] = {}
    for i, (dtype, shape) in enumerate(kinds):
        if len(shape) == 1 and 0 < shape[0] <= _SHORT:
            groups.setdefault((dtype, shape[0]), []).append(i)
    stacked = [group for group in groups.values() if len(group) > 1]
    done = set(itertools.chain(*stacked))
    return stacked, [i for i in range(len(kinds)) if i not in done]

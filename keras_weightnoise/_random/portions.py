"""Portions of a large model, whose noise is made one after the other."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

_PORTION = 2**25  # Elements: fewer are not worth a kernel more to compile.
_PORTIONS = 8  # The most there are but for rounding, as each may need kernels of its own.


def portions(shapes: Sequence[Sequence[int]]) -> list[range]:
    """Cuts variables into portions: numbers for all at once would be as large as the weights."""
    sizes = [prod(shape) for shape in shapes]
    most = max(_PORTION, sum(sizes) // _PORTIONS)
    starts, length = [0], 0
    for i, size in enumerate(sizes):
        if i and length + size > most:
            starts.append(i)
            length = 0
        length += size
    return [range(*ends) for ends in pairwise([*starts, len(sizes)])]

"""Noise whose scales are those of a whole variable or, as hardware holds it, of each tile."""

import dataclasses
from collections.abc import Sequence
from math import prod

import tensorflow as tf

from keras_weightnoise._checks import check_integer
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises.noise import Noise

Tile = int | Sequence[int]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tiled(Noise):
    """Base class of noise that reads a scale from a variable: a subclass says how it perturbs tiles."""

    tile: Tile | None = dataclasses.field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        tile = self.tile
        if tile is None:
            return
        sizes = tuple(tile) if isinstance(tile, list | tuple) else (tile,)
        if not 1 <= len(sizes) <= 2:
            raise ValueError(
                f"Invalid `tile`. Expected rows, or (rows, columns). Received: tile={tile!r}"
            )
        for size in sizes:
            check_integer("tile", size, 1)
        whole = tuple(int(size) for size in sizes)
        object.__setattr__(self, "tile", whole[0] if len(whole) == 1 else whole)

    def perturb(
        self, w: Tensor, draws: Sequence[Tensor], magnitude: Tensor, axes: tuple[int, ...]
    ) -> Tensor:
        if self.tile is None:
            return self.perturb_tiles(w, draws, magnitude, axes, None)
        rows, columns = self.tile if isinstance(self.tile, tuple) else (self.tile, None)
        # The matrix that hardware holds: what an output channel extends over, by output channels.
        order = [*axes, *(axis for axis in range(w.shape.rank) if axis not in axes)]
        shape = [w.shape[axis] for axis in order]
        height = prod(shape[: len(axes)])
        width = prod(shape[len(axes) :])
        matrices = [tf.reshape(tf.transpose(each, order), [height, width]) for each in (w, *draws)]
        strips, top = [], 0
        for count, size in _alike(height, rows):
            blocks, left = [], 0
            for others, length in _alike(width, columns):
                begin, extent = [top, left], [count * size, others * length]
                tiles = [count, size, others, length]
                cut = [tf.reshape(tf.slice(m, begin, extent), tiles) for m in matrices]
                block = self.perturb_tiles(cut[0], cut[1:], magnitude, (1,), (1, 3))
                blocks.append(tf.reshape(block, extent))
                left += extent[1]
            strips.append(_joined(blocks, 1))
            top += extent[0]
        back = sorted(range(len(order)), key=order.__getitem__)
        return tf.transpose(tf.reshape(_joined(strips, 0), shape), back)

    def perturb_tiles(
        self,
        w: Tensor,
        draws: Sequence[Tensor],
        magnitude: Tensor,
        axes: tuple[int, ...],
        over: tuple[int, ...] | None,
    ) -> Tensor:
        """What `perturb` is of many tiles at once.

        Args:
            w: See `perturb`.
            draws: See `perturb`.
            magnitude: See `perturb`.
            axes: See `perturb`.
            over: The axes of `w` that one tile extends over. `None`: all, as there is one.
        """
        raise NotImplementedError


def _alike(size: int, most: int | None) -> list[tuple[int, int]]:
    """As few pieces of at most this size as there can be, as even as aihwkit's: 784 are 392 and 392.

    Returns:
        Pairs of how many and how large: at most two, the larger pieces first.
    """
    pieces = 1 if most is None else max(1, -(-size // most))
    least, more = divmod(size, pieces)
    alike = [(more, least + 1), (pieces - more, least)]
    return [(count, length) for count, length in alike if count]


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis)

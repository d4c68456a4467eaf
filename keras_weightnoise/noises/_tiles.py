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
    """Base class of noise that reads a scale from a variable: a subclass says how it perturbs a tile."""

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
            return self.perturb_tile(w, draws, magnitude, axes)
        rows, columns = self.tile if isinstance(self.tile, tuple) else (self.tile, None)
        # The matrix that hardware holds: what an output channel extends over, by output channels.
        order = [*axes, *(axis for axis in range(w.shape.rank) if axis not in axes)]
        shape = [w.shape[axis] for axis in order]
        height = prod(shape[: len(axes)])
        width = prod(shape[len(axes) :])
        heights, widths = _split(height, rows), _split(width, columns)
        strips = zip(
            *(
                tf.split(tf.reshape(tf.transpose(each, order), [height, width]), heights, 0)
                for each in (w, *draws)
            ),
            strict=True,
        )
        perturbed = [
            self.perturb_strip(strip, drawn, magnitude, widths) for strip, *drawn in strips
        ]
        back = sorted(range(len(order)), key=order.__getitem__)
        return tf.transpose(tf.reshape(tf.concat(perturbed, 0), shape), back)

    def perturb_strip(
        self, w: Tensor, draws: Sequence[Tensor], magnitude: Tensor, widths: Sequence[int]
    ) -> Tensor:
        """What `perturb` is of tiles beside each other, of these widths, which are one matrix."""
        tiles = zip(*(tf.split(each, widths, 1) for each in (w, *draws)), strict=True)
        return tf.concat(
            [self.perturb_tile(tile, drawn, magnitude, (0,)) for tile, *drawn in tiles], 1
        )

    def perturb_tile(
        self, w: Tensor, draws: Sequence[Tensor], magnitude: Tensor, axes: tuple[int, ...]
    ) -> Tensor:
        """What `perturb` is of one tile, a matrix; without tiles, of the variable."""
        raise NotImplementedError


def _split(size: int, most: int | None) -> list[int]:
    """As few pieces of at most this size as there can be, as even as aihwkit's: 784 are 392 and 392."""
    pieces = 1 if most is None else max(1, -(-size // most))
    least, more = divmod(size, pieces)
    return [least + (i < more) for i in range(pieces)]

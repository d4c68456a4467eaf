"""Noise of resistive memory."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, get_args

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_choice
from keras_weightnoise._random import kernels, laws
from keras_weightnoise._random.laws import Law, horner
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises._persistent import Persistent
from keras_weightnoise.noises._scales import largest
from keras_weightnoise.noises._tiles import Tiled
from keras_weightnoise.noises.noise import Draw, Magnitude

Preset = Literal["wan2022", "milo2021"]


class _Device(NamedTuple):
    """A device: its range, and its error as a polynomial, the highest power first; in microsiemens."""

    g_min: float
    g_max: float
    error: tuple[float, ...]


_DEVICES = {
    "wan2022": _Device(0.0, 39.26, (1.536e-4, -1.167e-2, 2.374e-1, 1.053)),
    "milo2021": _Device(50.0, 225.0, (-0.009107, 4.782321)),
}


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReRAM(Persistent, Tiled):
    """Resistive memory after programming: `w' = (g+ - g-) * max|w| / (g_max - g_min)`.

    A weight is held by a pair of cells, one for either sign. The conductance of the one is to be
    `g_min + |w| / max|w| * (g_max - g_min)`, that of the other, idle one g_min. Both are programmed with an
    error, `g <- max(0, g + scale * s(g) * n)`, n ~ N(0, 1). The presets, in uS:

    - `"wan2022"`: `s = 1.536e-4 g^3 - 1.167e-2 g^2 + 0.2374 g + 1.053`, g from 0 to 39.26: the chip of Wan et
      al., a second after programming (Extended Data Fig. 3);
    - `"milo2021"`: `s = 4.782321 - 0.009107 g`, g from 50 to 225: the cells of Milo et al. (Fig. 4).

    The fits are those of CrossSim (its `RRAMWan` and `RRAMMilo`), where g is not kept from falling below 0.
    Use it to train a network for such hardware, or to examine one. It is noise of weights alone: see `PCM`.
    Gradient: straight through, `dL/dw = dL/dw'`.

    Args:
        preset: `"wan2022"` or `"milo2021"`. Defaults to `"wan2022"`.
        scale: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at the
            optimizer step: a factor on s. At 0, weights stay as they are. Defaults to `1.0`.
        persistent: Whether the errors are those of a chip: see `StuckAt`. Defaults to `False`.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: each has its own
            largest weight. See `Gaussian`. Defaults to `None`: the variable is one.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `preset` is not one of these, or `scale` is negative or not finite.
        TypeError: If `scale` is neither a number nor a schedule, or `persistent` no bool.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.ReRAM("milo2021")
    ReRAM(preset='milo2021', scale=1.0)

    References:
        - [Wan et al., 2022](https://doi.org/10.1038/s41586-022-04992-8)
        - [Milo et al., 2021](https://doi.org/10.1109/IRPS46558.2021.9405119)
        - [CrossSim](https://github.com/sandialabs/cross-sim) (the fits)
    """

    preset: Preset = "wan2022"
    scale: Magnitude = 1.0
    magnitude_name = "scale"
    law: ClassVar[Law] = laws.NORMAL

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("preset", self.preset, get_args(Preset))

    @property
    def draws(self) -> tuple[Draw, ...]:
        return super().draws * 2  # One for each cell.

    def perturb_tiles(
        self,
        w: Tensor,
        draws: Sequence[Tensor],
        magnitude: Tensor,
        axes: tuple[int, ...],
        over: tuple[int, ...] | None,
    ) -> Tensor:
        kernel = kernels.compiled(_KERNELS[self.preset], w.shape.num_elements())
        return kernel(w, largest(w, over), magnitude, *draws)


def _pairs(
    w: Tensor, largest: Tensor, scale: Tensor, plus: Tensor, minus: Tensor, *, device: _Device
) -> Tensor:
    """What pairs of cells hold, with a normal number for each cell."""
    per_weight = tf.math.divide_no_nan(tf.constant(device.g_max - device.g_min, w.dtype), largest)
    cells = []
    for target, n in ((tf.nn.relu(w), plus), (tf.nn.relu(-w), minus)):
        g = device.g_min + target * per_weight
        cells.append(tf.maximum(g + scale * horner(device.error, g) * n, 0.0))
    return (cells[0] - cells[1]) * tf.math.divide_no_nan(tf.ones((), w.dtype), per_weight)


_KERNELS = {name: functools.partial(_pairs, device=device) for name, device in _DEVICES.items()}

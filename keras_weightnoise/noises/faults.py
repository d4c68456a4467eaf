"""Faults of the memory that holds the weights."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_choice
from keras_weightnoise._random import laws
from keras_weightnoise._random.laws import Law
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises._persistent import Persistent
from keras_weightnoise.noises._scales import greatest_value, least_value
from keras_weightnoise.noises._tiles import Tiled
from keras_weightnoise.noises.noise import Magnitude

StuckValue = Literal["zero", "min", "max"]


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StuckAt(Persistent, Tiled):
    """Weights that are stuck: `w' = value` with probability `rate`, else `w' = w`.

    Use it for broken cells: the value is 0, or the least or the greatest weight of the variable.
    `StuckAt(r, "min") + StuckAt(r, "max")` has both. Which weights are stuck changes with each
    draw or, with `persistent=True`, with the chip. Gradient: straight through, `dL/dw = dL/dw'`, for
    the stuck weights too.

    In `perturb_weights`, sweeps and their kin, so are the integer codes of a model that Keras has quantized
    (`model.quantize("int8")` or `"int4"`): at code 0, which is weight 0 but where int4 has zero points, or at
    the least or the greatest code of the variable.

    Args:
        rate: Float in [0, 1], or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at
            the optimizer step. Defaults to `0.01`.
        value: `"zero"`, `"min"` or `"max"`. Defaults to `"zero"`.
        persistent: Whether the cells are those of a chip. In training they then depend on the seed and
            the variable alone, in every step; in sweeps, ensembles and `redraw`, draw d is chip d, and
            draw 0 the chip of training with that seed. The cells at one rate are among those at each
            higher rate. Defaults to `False`: new cells in each draw.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: each has a least
            and a greatest weight of its own. See `Gaussian`. Defaults to `None`: the variable is one.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `rate` is not in [0, 1], or `value` is not one of these.
        TypeError: If `rate` is neither a number nor a schedule, or `persistent` no bool.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.StuckAt(0.001, "max")
    StuckAt(rate=0.001, value='max')

    A network that is trained around the known defects of one chip, and run on it:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import WeightNoiseCallback, perturb_weights
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> defects = noises.StuckAt(0.1, persistent=True)
    >>> x, y = np.ones((8, 4)), np.ones((8, 1))
    >>> _ = model.fit(x, y, verbose=0, callbacks=[WeightNoiseCallback(defects, seed=7)])
    >>> on_the_chip = perturb_weights(model, defects, seed=7)
    """

    rate: Magnitude = 0.01
    value: StuckValue = "zero"
    magnitude_name = "rate"
    most = 1.0
    perturbs_codes = True
    law: ClassVar[Law] = laws.UNIFORM

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("value", self.value, get_args(StuckValue))

    def perturb_tiles(
        self,
        w: Tensor,
        draws: Sequence[Tensor],
        magnitude: Tensor,
        axes: tuple[int, ...],
        over: tuple[int, ...] | None,
    ) -> Tensor:
        (n,) = draws
        match self.value:
            case "zero":
                stuck = tf.zeros((), w.dtype)
            case "min":
                stuck = least_value(w, over)
            case "max":
                stuck = greatest_value(w, over)
        return tf.where(laws.occurs(n, magnitude), stuck, w)

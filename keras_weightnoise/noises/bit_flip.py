"""Flipped bits of the memory that holds the weights."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_bits, check_choice, check_flag, check_integer
from keras_weightnoise._random import kernels, laws
from keras_weightnoise._random.laws import Law
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises import _bits
from keras_weightnoise.noises._persistent import Persistent
from keras_weightnoise.noises._scales import largest
from keras_weightnoise.noises._tiles import Tiled
from keras_weightnoise.noises.noise import Draw, Magnitude, Noise
from keras_weightnoise.noises.quantization import symmetric_step

Format = Literal["fixed", "float32", "bfloat16", "float16"]
Part = Literal["all", "sign", "exponent", "mantissa"]


class _Parts(NamedTuple):
    """How many bits a floating-point number has for each part. The mantissa's are the lowest."""

    mantissa: int
    exponent: int

    def of(self, part: str) -> range:
        end = self.mantissa + self.exponent
        ends = {"mantissa": (0, self.mantissa), "exponent": (self.mantissa, end)}
        return range(*{**ends, "sign": (end, end + 1), "all": (0, end + 1)}[part])


class _Form(NamedTuple):
    """How weights are stored and read."""

    name: str
    bits: int
    clip: bool


_FLOATS = {"float32": _Parts(23, 8), "bfloat16": _Parts(7, 8), "float16": _Parts(10, 5)}


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BitFlip(Persistent, Tiled):
    """Flips bits of the weights as memory holds them: each bit with probability `rate`.

    With `format="fixed"`, that is the code `q = round(w / step)` in two's complement of `bits` bits, with
    `step = max|w| / (2^(bits - 1) - 1)`, as in `Quantization`. A weight with a flipped bit reads
    `w' = step * q'`, where q' may also be `-2^(bits - 1)`. So `Quantization(bits) + BitFlip(rate, bits)` is
    a network that runs on `bits` bits, with errors. With a floating-point format, it is the number in that
    format, and w' may be huge, infinite or NaN. A weight without a flipped bit keeps its exact value.

    Use it for memory at low voltage, and for faults that radiation makes. A flipped sign bit of a code
    moves a weight by `max|w|` and more, so clip the weights in training: the error grows with the largest.
    Gradient: straight through, `dL/dw = dL/dw'`.

    In `perturb_weights`, sweeps and their kin, the integer codes of a model that Keras has quantized
    (`model.quantize("int8")` or `"int4"`) have flips among their own 8 or 4 bits. `bits` and `format` are
    then those of its other weights; the scales of codes have none.

    Args:
        rate: Float in [0, 1], or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at
            the optimizer step: the probability that a bit is flipped. Defaults to `0.001`.
        bits: Integer in [2, 16], of the fixed-point code. Defaults to `8`.
        format: `"fixed"`, `"float32"`, `"bfloat16"` or `"float16"`. Defaults to `"fixed"`.
        which: The bits that may be flipped: `"all"`, `"sign"`, in floating point also `"exponent"` or
            `"mantissa"`, or a list of their numbers, where 0 is the least significant. Defaults to `"all"`.
        count: Integer >= 0: flips exactly so many bits of each variable, in place of each with a
            probability. It is then the magnitude. It sorts a number for each bit, which takes many times as
            long. Defaults to `None`.
        clip: Whether what is read is kept within the largest |w|, where NaN reads as 0. Defaults to `False`.
        persistent: Whether the flips are those of a chip: see `StuckAt`. A cell is a bit: those flipped at
            one rate are among those flipped at each higher one. Defaults to `False`.
        tile: Rows, or (rows, columns), of the tiles in which hardware holds the variable: each has a step
            of its own. See `Gaussian`. Defaults to `None`: the variable is one.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `rate` is not in [0, 1], `bits` not in [2, 16] or not 8 in floating point, or another
            argument none of these; if there are both `rate` and `count`, or `count` and `tile`.
        TypeError: If an argument is of another type.

    Example:

    >>> from keras_weightnoise import noises
    >>> noises.Quantization(8) + noises.BitFlip(0.01)  # doctest: +ELLIPSIS
    Compose(noises=(Quantization(bits=8, ...), BitFlip(rate=0.01, bits=8)))
    >>> noises.BitFlip(1e-6, format="bfloat16", which="exponent")
    BitFlip(rate=1e-06, bits=8, format='bfloat16', which='exponent')

    References:
        - [Stutz et al., 2021](https://arxiv.org/abs/2006.13977)
    """

    rate: Magnitude = 0.001
    bits: int = 8
    format: Format = dataclasses.field(default="fixed", kw_only=True, repr=False)
    which: Part | Sequence[int] = dataclasses.field(default="all", kw_only=True, repr=False)
    count: int | None = dataclasses.field(default=None, kw_only=True, repr=False)
    clip: bool = dataclasses.field(default=False, kw_only=True, repr=False)
    perturbs_codes = True

    def __post_init__(self) -> None:
        check_bits(self.bits)
        object.__setattr__(self, "bits", int(self.bits))
        check_choice("format", self.format, get_args(Format))
        if self.format != "fixed" and self.bits != 8:
            raise ValueError(
                "Invalid `bits`. Expected none beside a floating-point format. "
                f"Received: bits={self.bits}, format={self.format!r}"
            )
        self._check_which()
        if self.count is not None:
            self._check_count()
        check_flag("clip", self.clip)
        super().__post_init__()
        if self.count is not None:
            object.__setattr__(self, "count", int(self.count))

    @property
    def magnitude_name(self) -> str:  # type: ignore[override]
        return "rate" if self.count is None else "count"

    @property
    def most(self) -> float:  # type: ignore[override]
        return 1.0 if self.count is None else float("inf")

    @property
    def law(self) -> Law:  # type: ignore[override]
        return laws.BITS if self.count is None else laws.UNIFORM

    @property
    def draws(self) -> tuple[Draw, ...]:
        return super().draws * (2 if self.count is None else len(self._positions))

    def perturb_tiles(
        self,
        w: Tensor,
        draws: Sequence[Tensor],
        magnitude: Tensor,
        axes: tuple[int, ...],
        over: tuple[int, ...] | None,
    ) -> Tensor:
        most = largest(w, over) if self.clip else tf.zeros((), w.dtype)
        # XLA rounds `float64` to `float16` otherwise, by way of `float32`: so it is done here.
        held = self._step(w, over) if self.format == "fixed" else tf.cast(w, self.format)
        form = _Form(self.format, self.bits, self.clip)
        if self.count is not None:
            return _read(w, held, most, _bits.by_count(magnitude, draws, self._positions), form)
        kernel = kernels.compiled(_by_rate(form, self._positions), w.shape.num_elements())
        return kernel(w, held, most, magnitude, *draws)

    def of_codes(self, bits: int) -> Noise:
        chosen = self.which if isinstance(self.which, str) else max(self.which)
        if chosen in ("exponent", "mantissa") or (isinstance(chosen, int) and chosen >= bits):
            raise ValueError(
                f"Invalid `which`. Expected bits of the {bits}-bit codes that the model holds, by 'all', "
                f"'sign' or numbers up to {bits - 1}, or floating-point weights alone, by `variables` or "
                f"`exclude`. Received: which={self.which!r}"
            )
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _CodeFlip(**{**settings, "bits": bits, "format": "fixed"})

    def _step(self, w: Tensor, over: tuple[int, ...] | None) -> Tensor:
        return symmetric_step(w, self.bits, over)

    @property
    def _positions(self) -> tuple[int, ...]:
        """The bits that may be flipped, from the least significant."""
        if not isinstance(self.which, str):
            return tuple(self.which)
        if self.format == "fixed":
            return (self.bits - 1,) if self.which == "sign" else tuple(range(self.bits))
        return tuple(_FLOATS[self.format].of(self.which))

    def _check_which(self) -> None:
        if isinstance(self.which, list | tuple) and self.which:
            size = self.bits if self.format == "fixed" else len(_FLOATS[self.format].of("all"))
            for bit in self.which:
                check_integer("which", bit, 0, size - 1)
            object.__setattr__(self, "which", tuple(sorted({int(bit) for bit in self.which})))
            return
        parts = ("all", "sign") if self.format == "fixed" else get_args(Part)
        check_choice("which", self.which, parts)

    def _check_count(self) -> None:
        count: Any = self.count
        if isinstance(count, float) and count.is_integer():  # As of a sweep's magnitudes.
            count = int(count)
        check_integer("count", count, 0)
        default = next(f.default for f in dataclasses.fields(self) if f.name == "rate")
        if self.rate not in (0.0, default) or self.tile is not None:
            raise ValueError(
                "Invalid `count`. Expected neither `rate` nor `tile` beside it. "
                f"Received: count={self.count}, rate={self.rate}, tile={self.tile}"
            )
        object.__setattr__(self, "rate", 0.0)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _CodeFlip(BitFlip):
    """The same of codes, which are integers already."""

    def _step(self, w: Tensor, over: tuple[int, ...] | None) -> Tensor:
        return tf.ones((), w.dtype)


def _read(w: Tensor, held: Tensor, most: Tensor, flips: Tensor, form: _Form) -> Tensor:
    """What is read of weights with these bits flipped.

    `held` is the step of their codes or, in floating point, the weights in the format they are held in.
    """
    read = _fixed(w, held, flips, form.bits) if form.name == "fixed" else _float(w, held, flips)
    if form.clip:
        read = tf.where(tf.math.is_nan(read), tf.zeros_like(w), tf.clip_by_value(read, -most, most))
    return tf.where(flips == 0, w, read)


def _fixed(w: Tensor, step: Tensor, flips: Tensor, bits: int) -> Tensor:
    code = tf.cast(tf.round(tf.math.divide_no_nan(w, step)), tf.int32)
    unused = 32 - bits  # Shifted out and in again: that extends the sign.
    flipped = tf.bitwise.right_shift(
        tf.bitwise.left_shift(tf.bitwise.bitwise_xor(code, flips), unused), unused
    )
    return tf.cast(flipped, w.dtype) * step


def _float(w: Tensor, stored: Tensor, flips: Tensor) -> Tensor:
    pattern = tf.bitcast(stored, tf.int32 if stored.dtype == tf.float32 else tf.int16)
    flipped = tf.bitwise.bitwise_xor(pattern, tf.cast(flips, pattern.dtype))
    return tf.cast(tf.bitcast(flipped, stored.dtype), w.dtype)


@functools.cache
def _by_rate(form: _Form, positions: tuple[int, ...]) -> functools.partial[Tensor]:
    return functools.partial(_read_by_rate, form=form, positions=positions)


def _read_by_rate(
    w: Tensor,
    held: Tensor,
    most: Tensor,
    rate: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    form: _Form,
    positions: tuple[int, ...],
) -> Tensor:
    return _read(w, held, most, _bits.by_rate(rate, x, y, positions), form)

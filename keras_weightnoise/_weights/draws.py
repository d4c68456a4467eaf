"""The random numbers that noises ask for."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from keras_weightnoise._random import drawing, tf_random
from keras_weightnoise._random.generator import make_key
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.selection import Target
from keras_weightnoise.noises import Draw, Noise

Numbers = list[list[list[Tensor]]]  # By member of a noise, by what it asks for, by target.

# The stream of the first draw that is not new for each step: steps and replicas count up from 0.
_LASTING = 2**23
# Added to a stream for the second code in each byte.
_SECOND = 2**22


def draw(
    noise: Noise,
    targets: Sequence[Target],
    *,
    seed: Tensor,
    step: Tensor,
    chip: Tensor = 0,
    replica: int = 0,
) -> Numbers:
    """The random numbers that a noise asks for: one tensor per member, draw and target.

    Args:
        noise: The noise model.
        targets: What is perturbed.
        seed: See `perturbation.perturb`.
        step: See `perturbation.perturb`.
        chip: See `perturbation.perturb`.
        replica: See `perturbation.perturb`.
    """
    source = Source(seed, step, chip, replica)
    return [source.draw(member, asked, targets) for member, asked in asked_of(noise, replica)]


class Source(NamedTuple):
    """What random numbers are a function of, beside the variable."""

    seed: Tensor
    step: Tensor
    chip: Tensor
    replica: int

    def key(self, asked: Draw) -> Tensor:
        return make_key(self.seed, {"step": self.step, "chip": self.chip, "seed": 0}[asked.new_for])

    def draw(
        self, member: Noise, asked: Sequence[tuple[Draw, int]], targets: Sequence[Target]
    ) -> list[list[Tensor]]:
        """What a member asks for, as `asked_of` has it."""
        return [self._draw(member, each, stream, targets) for each, stream in asked]

    def _draw(
        self, member: Noise, asked: Draw, stream: int, targets: Sequence[Target]
    ) -> list[Tensor]:
        draw = {"threefry": drawing.draw, "philox": tf_random.draw}[member.generator]
        starts = [target.start for target in targets]
        shapes = [tuple(target.variable.shape) for target in targets]
        numbers = draw(asked.law, self.key(asked), starts, shapes, stream)
        if all(target.bits != 4 for target in targets):
            return numbers
        # A variable's place is as long as its bytes are: the second codes in them have another stream.
        more = draw(asked.law, self.key(asked), starts, shapes, stream + _SECOND)
        return [
            target.code.join(first, second) if target.code is not None else first
            for target, first, second in zip(targets, numbers, more, strict=True)
        ]


def asked_of(noise: Noise, replica: int) -> list[tuple[Noise, list[tuple[Draw, int]]]]:
    """For each member, what it asks for, each with the stream that it gets: no two share one."""
    # A member without draws counts, too, so that what replicas draw stays what it was in version 0.1.
    count = sum(max(1, len(member.draws)) for member in noise.members)
    numbers = itertools.count()
    return [
        (
            member,
            [
                (each, replica * count + i if each.new_for == "step" else _LASTING + i)
                for each, i in zip(member.draws, numbers, strict=False)
            ],
        )
        for member in noise.members
    ]

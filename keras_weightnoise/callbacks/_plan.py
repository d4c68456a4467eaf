"""How many passes a training step has, and what each is for."""

import dataclasses
from typing import Any, Literal, NamedTuple

from keras_weightnoise._checks import check_choice, check_count, check_flag, is_number
from keras_weightnoise._weights.rules import get_rules
from keras_weightnoise.adversaries import Adversary


class Pass(NamedTuple):
    """One run of the model's own step: forward, loss, gradients.

    Attributes:
        draw: The number of the draw that it sees (0 with an adversary); `None`: the weights are clean.
    """

    draw: int | None


CLEAN = Pass(None)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The passes of a step.

    Attributes:
        draws_per_step: Passes under noise, each with a draw of its own.
        split_batch: Whether each pass sees its own part of the batch, or all.
        clean_gradient: The share of the gradient at the clean weights.
        counted_pass: Which pass counts: "clean" or "noisy"; `None`: the clean one, if there is any.
        adversary: Whether the weights are perturbed by their gradient, for which there is a clean pass.
    """

    draws_per_step: int = 1
    split_batch: bool = False
    clean_gradient: float = 0.0
    counted_pass: Literal["clean", "noisy"] | None = None
    adversary: bool = False

    def __post_init__(self) -> None:
        check_count("draws_per_step", self.draws_per_step)
        check_flag("split_batch", self.split_batch)
        _check_share("clean_gradient", self.clean_gradient)
        check_choice("counted_pass", self.counted_pass, ("clean", "noisy", None))
        if self.adversary:
            _refuse_with_adversary(
                draws_per_step=(self.draws_per_step, 1), split_batch=(self.split_batch, False)
            )
        elif self.counted_pass == "clean" and not self.clean_gradient:
            raise ValueError(
                "Invalid `counted_pass`. Expected `clean_gradient` above 0, or 'noisy': no pass is clean. "
                f"Received: counted_pass='clean', clean_gradient={self.clean_gradient}"
            )
        if self.split_batch and self.counted_pass is not None:
            raise ValueError(
                "Invalid `counted_pass`. Expected `None` with `split_batch=True`: every pass counts, each "
                f"its part. Received: counted_pass={self.counted_pass!r}"
            )
        if self.split_batch and len(self.passes) == 1:
            raise ValueError(
                "Invalid `split_batch`. Expected several passes to split a batch among: `draws_per_step` "
                "above 1, or `clean_gradient` above 0. Received: split_batch=True"
            )

    @property
    def passes(self) -> list[Pass]:
        """The passes in order. The last is the one that counts, where not all do."""
        if self.adversary:
            return [CLEAN, Pass(0)] if self.counted_pass == "noisy" else [CLEAN]
        noisy = [Pass(draw) for draw in range(self.draws_per_step)]
        clean = [CLEAN] if self.clean_gradient else []
        if self.split_batch or (clean and self.counted_pass != "noisy"):
            return [*noisy, *clean]
        return [*clean, *noisy[1:], noisy[0]]

    @property
    def inside(self) -> list[Pass]:
        """Those that follow when the last has its gradient, before it updates."""
        return [Pass(0)] if self.adversary and self.counted_pass != "noisy" else []

    @property
    def several(self) -> bool:
        """Whether there are several passes."""
        return len(self.passes) + len(self.inside) > 1


def rules_of(noise: Any, *, frequency: Any, one_at_a_time: bool, frozen: bool) -> list[Any]:
    """What perturbs, each with a selector of what: the rules of a noise, or one adversary."""
    if not isinstance(noise, Adversary):
        return get_rules(noise)
    _refuse_with_adversary(
        frequency=(frequency, "batch"),
        one_at_a_time=(one_at_a_time, False),
        frozen=(frozen, False),
    )
    return [(None, noise)]


def _refuse_with_adversary(**settings: tuple[Any, Any]) -> None:
    """Raises if one is not at its default, of the settings that only draws of noise have."""
    for name, (value, default) in settings.items():
        if value != default:
            raise ValueError(
                f"Invalid `{name}`. Expected {default!r} with an adversary, which perturbs what is trained "
                f"anew in each step, and draws nothing. Received: {name}={value!r}"
            )


def _check_share(name: str, value: Any) -> None:
    if not is_number(value):
        raise TypeError(
            f"Invalid `{name}`. Expected a number. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if not 0 <= value < 1:
        raise ValueError(
            f"Invalid `{name}`. Expected a number >= 0 and < 1, the share of the gradient at the clean "
            f"weights. Received: {name}={value!r}"
        )

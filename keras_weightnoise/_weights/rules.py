"""Different noise for different variables."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_weightnoise import noises
from keras_weightnoise._checks import shown
from keras_weightnoise._weights import selection, selectors
from keras_weightnoise._weights.noise_parameters import trained_rhos
from keras_weightnoise._weights.reachable import Layer, Variable, path
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise._weights.skipped import warn_of_skipped
from keras_weightnoise.noises import Noise

Rule = tuple[Selector | None, Noise]
Assigned = tuple[Noise, list[Target]]


def get_rules(noise: Any) -> list[Rule]:
    """Returns what a `noise` argument says as pairs of a selector and a noise.

    Args:
        noise: What `noises.get` takes, for every variable; or a mapping from selectors to that, or a
            list of pairs `(selector, noise)`, for some. As the last selector, `None` takes the rest.

    Returns:
        A list of pairs `(selector, noise)`.

    Raises:
        ValueError: If there are no pairs, or a selector or magnitude is invalid.
        TypeError: If it is none of these.

    Example:

    >>> from keras_weightnoise._weights.rules import get_rules
    >>> for rule in get_rules({"embeddings": 0.1, None: 0.01}):
    ...     print(rule)
    ('embeddings', Gaussian(stddev=0.1, relative_to=None))
    (None, Gaussian(stddev=0.01, relative_to=None))
    """
    if isinstance(noise, Mapping) and "class_name" not in noise:
        pairs: Sequence[Any] = list(noise.items())
    elif isinstance(noise, list | tuple):
        pairs = noise
    else:
        return [(None, noises.get(noise))]
    if not pairs:
        raise ValueError(
            f"Invalid `noise`. Expected at least one pair (selector, noise). Received: noise={noise}"
        )
    rules = []
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            data = "; data come before it" if hasattr(pair, "shape") else ""
            raise TypeError(
                f"Invalid `noise`. Expected a noise, or pairs (selector, noise){data}. "
                f"Received: noise={shown(noise)}"
            )
        selectors.check_selector("noise", pair[0])
        rules.append((pair[0], noises.get(pair[1])))
    return rules


def needs_learned(noise: Noise) -> bool:
    """Whether a noise is one that was learned, or has such a one in it."""
    return any(member.needs_learned for member in noise.members)


def check_for_training(noise: Noise) -> None:
    """Raises if a noise is one that was learned: in training, the wrappers that learn it add it."""
    if needs_learned(noise):
        raise ValueError(
            "Invalid `noise`. Expected none that is learned: in training, the layers that learn it, such as "
            f"`VariationalWeightNoise`, add it themselves. Received: noise={noise}"
        )


def assign(
    root: Layer,
    rules: Sequence[Rule],
    variables: Selector | None = None,
    exclude: Selector | None = None,
    *,
    frozen: bool = False,
    codes: bool = False,
) -> list[Assigned]:
    """Finds the variables of each noise: for each variable, the first rule that matches it.

    Warns where most of what is selected is not eligible: see `warn_of_skipped`.

    Args:
        root: A built model or layer.
        rules: What `get_rules` returns.
        variables: A selector of the variables to perturb: see `selection.select`.
        exclude: A selector of those to leave out.
        frozen: Whether frozen weights are eligible. Defaults to `False`.
        codes: Whether the integer codes of a quantized model are, for noise that perturbs them. Defaults to
            `False`.

    Returns:
        A list of pairs `(noise, targets)`, one for each rule. No variable is in two of them;
        variables that no rule matches are in none.

    Raises:
        ValueError: If a selector matches nothing, or nothing that earlier rules have left; if it matches
            integer codes alone, and the noise perturbs none, or not those bits of them.
    """
    left = selection.select(root, variables, exclude, frozen=frozen, codes=codes)
    chosen = [target.variable for target in left]
    learned = trained_rhos(root) if any(needs_learned(noise) for _, noise in rules) else {}
    assigned = []
    for selector, noise in rules:
        matched = selectors.matching(root, chosen, "noise", selector, frozen=frozen)
        targets = [target for target in left if id(target.variable) in matched]
        if needs_learned(noise):
            targets = _with_learned(root, noise, targets, learned)
            matched &= learned.keys()
        if not targets:
            raise ValueError(
                "A noise is left without variables. Expected each selector to match one that no "
                f"earlier selector matches. Received: noise=[..., ({selector!r}, {noise}), ...]"
            )
        left = [target for target in left if id(target.variable) not in matched]
        assigned.append((noise, _perturbed_by(noise, targets)))
    warn_of_skipped(
        root,
        [target.variable for _, targets in assigned for target in targets],
        [variables, [selector for selector, _ in rules]],
        exclude,
        frozen=frozen,
        no_codes=[noise for noise, _ in assigned if codes and not noise.perturbs_codes],
    )
    return assigned


def _with_learned(
    root: Layer, noise: Noise, targets: Sequence[Target], learned: dict[int, Variable]
) -> list[Target]:
    """The targets that have learned standard deviations, with these."""
    found = [
        dataclasses.replace(target, rho=learned[id(target.variable)])
        for target in targets
        if id(target.variable) in learned
    ]
    if not found:
        raise ValueError(
            f"No variable of {root.name!r} that is selected has learned standard deviations. Expected a "
            "model with `VariationalWeightNoise` in it, as `add_variational_weight_noise` makes one, trained "
            f"before it is frozen, and not stripped or quantized. Received: noise={noise}"
        )
    return found


def _perturbed_by(noise: Noise, targets: Sequence[Target]) -> list[Target]:
    """Those of some targets that a noise perturbs."""
    if noise.perturbs_codes:
        for bits in {target.bits for target in targets if target.bits is not None}:
            noise.of_codes(bits)  # Raises if it cannot.
        return list(targets)
    floats = [target for target in targets if target.code is None]
    if not floats:
        raise ValueError(
            f"What is selected are the integer codes of a quantized model: {_names(targets)}. Expected "
            f"`noises.BitFlip` or `noises.StuckAt`, which alone perturb codes. Received: noise={noise}"
        )
    return floats


def refuse_codes(assigned: Sequence[Assigned], function: str) -> None:
    """Raises if integer codes are among the targets of a function that substitutes what is read."""
    codes = [target for _, targets in assigned for target in targets if target.code is not None]
    if codes:
        names = _names(codes)
        raise ValueError(
            f"`{function}` cannot reach the integer codes of a quantized model: what a quantized layer reads "
            "cannot be substituted. Expected `perturbed_weights`, or these variables among `exclude`. "
            f"Received: a selection that holds {names}."
        )


def _names(targets: Sequence[Target]) -> str:
    return ", ".join(path(target.variable) for target in targets)

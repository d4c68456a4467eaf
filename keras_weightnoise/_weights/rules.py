"""Different noise for different variables."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras_weightnoise import noises
from keras_weightnoise._weights import selection, selectors
from keras_weightnoise._weights.reachable import Layer
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
            raise TypeError(
                "Invalid `noise`. Expected a noise, or pairs (selector, noise). "
                f"Received: noise={noise!r}"
            )
        selectors.check_selector("noise", pair[0])
        rules.append((pair[0], noises.get(pair[1])))
    return rules


def assign(
    root: Layer,
    rules: Sequence[Rule],
    variables: Selector | None = None,
    exclude: Selector | None = None,
    *,
    frozen: bool = False,
) -> list[Assigned]:
    """Finds the variables of each noise: for each variable, the first rule that matches it.

    Args:
        root: A built model or layer.
        rules: What `get_rules` returns.
        variables: A selector of the variables to perturb: see `selection.select`.
        exclude: A selector of those to leave out.
        frozen: Whether frozen weights are eligible. Defaults to `False`.

    Warns where most of what is selected is not eligible: see `warn_of_skipped`.

    Returns:
        A list of pairs `(noise, targets)`, one for each rule. No variable is in two of them;
        variables that no rule matches are in none.

    Raises:
        ValueError: If a selector matches nothing, or nothing that earlier rules have left.
    """
    left = selection.select(root, variables, exclude, frozen=frozen)
    chosen = [target.variable for target in left]
    assigned = []
    for selector, noise in rules:
        matched = selectors.matching(root, chosen, "noise", selector, frozen=frozen)
        targets = [target for target in left if id(target.variable) in matched]
        if not targets:
            raise ValueError(
                "A noise is left without variables. Expected each selector to match one that no "
                f"earlier selector matches. Received: noise=[..., ({selector!r}, {noise}), ...]"
            )
        left = [target for target in left if id(target.variable) not in matched]
        assigned.append((noise, targets))
    warn_of_skipped(
        root,
        [target.variable for _, targets in assigned for target in targets],
        [variables, [selector for selector, _ in rules]],
        exclude,
        frozen=frozen,
    )
    return assigned

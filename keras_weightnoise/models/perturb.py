"""Noise in the weights of a trained model: on a copy, in place, or for as long as a `with` lasts."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_flag, check_model, check_variables
from keras_weightnoise._random import seeds
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights import selectors
from keras_weightnoise._weights.perturbation import perturb_assigned
from keras_weightnoise._weights.rules import Assigned, assign, get_rules
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise._weights.values import stored_values
from keras_weightnoise.models._borrowed_weights import BorrowedWeights
from keras_weightnoise.models._copying import copy_model
from keras_weightnoise.noises import Magnitude, Noise


def perturb_weights(
    model: Any,
    noise: Noise | Magnitude | Mapping[Any, Any] | Sequence[Any],
    *,
    variables: Selector | None = None,
    exclude: Selector | None = None,
    seed: int | None = None,
    inplace: bool = False,
) -> Any:
    """Returns a copy of a model with noise in its weights: `w' = w + stddev * n`, n ~ N(0, 1).

    Use it to start fine-tuning from a perturbed network (NoisyTune), or to keep a network as faulty
    hardware would hold it. To look at many draws, use `perturbed_weights`, which copies nothing, or
    `robustness_sweep`.

    Args:
        model: A built `keras.Model`, also one loaded from a file, compiled or not.
        noise: Float >= 0, the standard deviation of Gaussian noise, in units of the weights; or one of
            `keras_weightnoise.noises`. Or, for different noise in different variables, a mapping from
            selectors to such, or a list of pairs: the first selector that matches a variable counts,
            and `None` matches the rest.
        variables: Which variables: `"kernels"` (what multiplies what comes in, such as kernels and
            embeddings; never a bias, gamma or beta), a regular expression searched in `variable.path`, a
            variable, a layer, a layer class, a function of a variable that returns a bool, or a list of
            these. `None`: every float weight, frozen ones included, with LoRA both the kernel and the
            factors, and of quantized layers the integer codes, which `noises.BitFlip` and `noises.StuckAt`
            perturb alone. The statistics of BatchNormalization and other state that layers keep are never
            perturbed. Defaults to `None`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        seed: Integer in [0, 2**32), or `None` for one drawn from what `keras.utils.set_random_seed`
            seeds. Defaults to `None`.
        inplace: Whether to write into `model` itself, in place of a copy. Defaults to `False`.

    Returns:
        The perturbed model: a copy, compiled as `model` is, with an optimizer that begins anew. With
        `inplace=True`, `model`.

    Raises:
        ValueError: If the model is not built; if it cannot be copied (a subclass without `get_config`,
            for example), which `inplace=True` does without; if a selector matches nothing. The model's
            weights are then as they were.
        TypeError: If an argument is of another type, or a magnitude is a schedule: there are no
            optimizer steps here.

    Example:

    >>> import keras
    >>> from keras_weightnoise import noises, perturb_weights
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    >>> noisy = perturb_weights(model, noises.Uniform(0.1), variables=model.get_layer("head"), seed=1)
    >>> difference = keras.ops.abs(noisy.weights[0] - model.weights[0])
    >>> 0.0 < float(keras.ops.max(difference)) <= 0.1
    True

    References:
        - [Wu et al., 2022](https://arxiv.org/abs/2202.12024) (NoisyTune)
    """
    check_flag("inplace", inplace)
    noisy = PerturbedWeights(model, noise, variables, exclude, seed)
    if inplace:
        with noisy:
            noisy.keep()
        return model
    copy = copy_model(model)
    places = {id(v): place for place, v in enumerate(model.variables)}
    values = noisy.draw(stored_values(noisy.variables), 0)
    for variable, value in zip(noisy.variables, values, strict=True):
        copy.variables[places[id(variable)]].assign(value)
    return copy


def perturbed_weights(
    model: Any,
    noise: Noise | Magnitude | Mapping[Any, Any] | Sequence[Any],
    *,
    variables: Selector | None = None,
    exclude: Selector | None = None,
    seed: int | None = None,
) -> "PerturbedWeights":
    """Puts noise into a model's weights for as long as a `with` lasts.

    Inside, the model is noisy for everyone: `predict`, `evaluate`, exports, code of your own.
    Afterwards its weights are bit for bit what they were, also after an exception or an interrupt.

    Use it to examine a model under noise, in as many draws as you like, in a model of any kind, also
    one that cannot be copied or that holds a reloaded SavedModel (`keras.layers.TFSMLayer`).

    What else changes the perturbed weights inside (a `fit`, a `load_weights`) is undone at the end, or
    by the next `redraw`, with a warning: train a copy from `perturb_weights` instead. Other weights keep
    what happens to them. What calls change beside the weights (states of stateful RNNs, BatchNormalization's
    statistics, seeds, metrics, any variable that is not learned) is put back by `redraw` and at the end:
    each draw starts from the same state, and the model is left as without a call. One `with` in another
    adds noise to noise, and takes its own off again.

    Args:
        model: See `perturb_weights`.
        noise: See `perturb_weights`.
        variables: See `perturb_weights`.
        exclude: See `perturb_weights`.
        seed: See `perturb_weights`. The first draw is the one that `perturb_weights` has for this seed.

    Returns:
        A context manager, for any number of `with`s one after the other, each with the same draws.
        `redraw()` puts the next draw in the place of the last.

    Raises:
        ValueError: If the model is not built, or a selector matches nothing.
        TypeError: If an argument is of another type, or a magnitude is a schedule.

    Example:

    >>> import keras
    >>> from keras_weightnoise import perturbed_weights
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> x = keras.ops.ones((1, 4))
    >>> clean = float(model(x)[0, 0])
    >>> with perturbed_weights(model, 0.1, seed=1) as noisy:
    ...     outputs = [float(model(x)[0, 0])]
    ...     noisy.redraw()
    ...     outputs.append(float(model(x)[0, 0]))
    >>> len({clean, *outputs}), float(model(x)[0, 0]) == clean
    (3, True)
    """
    return PerturbedWeights(model, noise, variables, exclude, seed)


class PerturbedWeights(BorrowedWeights):
    """What `perturbed_weights` returns: see there.

    Attributes:
        assigned: Pairs of a noise and its targets.
        variables: The `keras.Variable`s that are perturbed.
    """

    def __init__(
        self,
        model: Any,
        noise: Any,
        variables: Selector | None = None,
        exclude: Selector | None = None,
        seed: int | None = None,
    ) -> None:
        check_model(model, keras.Layer, noise=noise)
        rules = get_rules(noise)
        for member in (member for _, each in rules for member in each.members):
            if callable(member.magnitudes[0]):
                raise TypeError(
                    "Invalid `noise`. Expected a magnitude that is a number: outside of training there "
                    f"are no steps to evaluate a schedule at. Received: noise={member}"
                )
        selectors.check_selectors(variables=variables, exclude=exclude)
        check_variables(model, "perturb")
        self.assigned = assign(model, rules, variables, exclude, frozen=True, codes=True)
        super().__init__(model, [t.variable for _, targets in self.assigned for t in targets])
        self._seed = seeds.resolve_seed(seeds.check_seed(seed))
        self._magnitudes = [each.magnitudes_at(0) for each, _ in self.assigned]
        self._step = 0

    def __enter__(self) -> "PerturbedWeights":
        if self.clean:
            raise RuntimeError(
                "This `perturbed_weights` is in use. Expected one `with` at a time: for noise on top of "
                "noise, make another."
            )
        super().__enter__()
        self._step = -1
        try:
            self.redraw()
        except BaseException:
            self._restore()
            raise
        return self

    def __repr__(self) -> str:
        noises = [noise for noise, _ in self.assigned]
        shown = noises[0] if len(noises) == 1 else noises
        return f"<perturbed_weights of {self._model.name!r}, noise={shown}, seed={self._seed}>"

    def redraw(self) -> None:
        """Replaces the noise by the next draw."""
        self._step += 1
        self.inject(self._step, self._magnitudes)

    def inject(self, step: int, magnitudes: Sequence[Sequence[Tensor]]) -> None:
        """Replaces the noise by the draw of a step, at these magnitudes (one for each noise)."""
        if not self.clean:
            raise RuntimeError(
                "There is no noise to replace. Expected `redraw` to be called inside of "
                "`with perturbed_weights(...)`."
            )
        self.put(lambda clean: self.draw(clean, step, magnitudes), stacklevel=4)

    def keep(self) -> None:
        """Leaves the noise where it is when the `with` ends."""
        self.clean = self._held

    def draw(
        self,
        clean: Sequence[Tensor],
        step: int,
        magnitudes: Sequence[Sequence[Tensor]] | None = None,
    ) -> list[Tensor]:
        """The values under noise of `variables` that hold these clean values.

        Args:
            clean: The clean values.
            step: The draw.
            magnitudes: One for each noise. `None`: their own.
        """
        magnitudes = self._magnitudes if magnitudes is None else magnitudes
        return perturbed_values(self.assigned, clean, self._seed, step, magnitudes)


def perturbed_values(
    assigned: Sequence[Assigned],
    clean: Sequence[Tensor],
    seed: int,
    step: int,
    magnitudes: Sequence[Sequence[Tensor]],
) -> list[Tensor]:
    """The values of a trained model's variables in a draw, which is a chip of its own, too.

    Without a graph: tracing one takes as long as some fifty draws.

    Args:
        assigned: Pairs of a noise and what it perturbs.
        clean: The clean values, in that order.
        seed: The seed.
        step: The number of the draw.
        magnitudes: For each noise, what its `magnitudes_at` returns.
    """
    at = tf.constant(step, tf.int64)
    return perturb_assigned(
        assigned,
        clean,
        seed=tf.constant(seed, tf.int64),
        step=at,
        chip=at,
        magnitudes=magnitudes,
        differentiable=False,
    )

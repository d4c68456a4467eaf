"""What the wrappers whose noise learns its size have in common."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import tensorflow as tf

from keras_weightnoise._not_public import under_tape
from keras_weightnoise._random.generator import make_key
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Layer, Variable, path
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.skipped import quantized_kernels
from keras_weightnoise._weights.values import stored_values, widen
from keras_weightnoise.layers import _estimators as estimators
from keras_weightnoise.layers._learned_stddev import LearnedNoise, draw_normal
from keras_weightnoise.layers._noise_parameters import NoiseParameters
from keras_weightnoise.layers._weight_decay import warn_of_weight_decay
from keras_weightnoise.layers._weight_noise_wrapper import WeightNoiseWrapper
from keras_weightnoise.layers.noisy_call import substituted_call

_Learned = TypeVar("_Learned", bound=LearnedNoise)


class LearnedNoiseWrapper(WeightNoiseWrapper, Generic[_Learned]):
    """Base class: a wrapper that reads `w' = w + factor * n`, n ~ N(0, 1), with factors that are trained.

    A subclass makes in `build_noise` one entry of `_learned` for each target, of variables of `noise`.

    Args:
        layer: A `keras.Layer` or `keras.Model`.
        **kwargs: Those of the base class.
    """

    def __init__(self, layer: Layer, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.noise = NoiseParameters(layer.dtype_policy, lambda: bool(quantized_kernels(layer)))
        self._learned: list[_Learned] = []
        self._decay_is_known = False

    def stddevs(self) -> list[tuple[Variable, Tensor]]:
        """Pairs of each variable that is perturbed and the learned standard deviation of its noise.

        Returns:
            A list of pairs of a `keras.Variable` of the wrapped layer and a tensor that broadcasts against
            it, in units of the weights, in `float32`, or in `float64` where the variable is.

        Raises:
            ValueError: If the layer is not built.
        """
        self._check_noise_is_built()
        return [(each.target.variable, each.stddev) for each in self._learned]

    def noisy_call(
        self,
        targets: Sequence[Target],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        *,
        seed: Tensor,
        step: Tensor,
    ) -> Any:
        """Calls the wrapped layer under noise: see the base class."""
        self._look_at_weight_decay()
        if self.estimator != "shared":
            target = estimators.only_kernel(self.estimator, self.layer, targets)
            (learned,) = self._learned_for([target])
            return estimators.call(
                self.estimator,
                self.layer,
                target,
                learned.factor,
                args,
                kwargs,
                seed=seed,
                step=step,
            )
        learned_for = self._learned_for(targets)
        draws = draw_normal(make_key(seed, step), targets)
        clean = stored_values([target.variable for target in targets])
        noisy = [
            tf.cast(widen(w) + each.factor * tf.cast(n, widen(w).dtype), w.dtype)
            for each, w, n in zip(learned_for, clean, draws, strict=True)
        ]
        return substituted_call(self.layer, targets, noisy, args, kwargs)

    def _look_at_weight_decay(self) -> None:
        """Warns of it in each trace of a training step; in eager mode once."""
        if under_tape() and not (self._decay_is_known and tf.executing_eagerly()):
            sizes = [each.parameter for each in self._learned]
            self._decay_is_known = warn_of_weight_decay(sizes) or self._decay_is_known

    def _check_noise_is_built(self) -> None:
        """Raises unless there is something learned."""
        if not self._learned:
            raise ValueError(
                f"The layer {self.name!r} has no standard deviations yet. Expected a built layer: call it "
                "once on a batch, or `build` it."
            )

    def _learned_for(self, targets: Sequence[Target]) -> list[_Learned]:
        """What is learned for each target, in their order."""
        known = {id(each.target.variable): each for each in self._learned}
        missing = [path(t.variable) for t in targets if id(t.variable) not in known]
        if missing:
            raise ValueError(
                f"The layer {self.name!r} has no learned standard deviations for {missing}, which became "
                "trainable after it was built. Expected a layer that is wrapped last: after `enable_lora`, "
                "and whatever else makes variables."
            )
        return [known[id(target.variable)] for target in targets]

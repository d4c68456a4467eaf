"""`WeightNoiseEnsemble`: a model whose prediction is the mean over perturbed copies of another."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise._checks import check_count
from keras_weightnoise._random import seeds
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights import selectors
from keras_weightnoise._weights.perturbation import perturb_assigned
from keras_weightnoise._weights.rules import get_rules
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise._weights.values import stored_values
from keras_weightnoise.layers._noisy_reads import NoisyReads
from keras_weightnoise.layers.noisy_call import substituted_call
from keras_weightnoise.models import _spread as spread
from keras_weightnoise.models._spread import EnsembleSpread
from keras_weightnoise.models.perturb import PerturbedWeights
from keras_weightnoise.noises import Magnitude, Noise


@keras.saving.register_keras_serializable(package="keras_weightnoise")
class WeightNoiseEnsemble(keras.Model):  # type: ignore[misc]  # Keras ships no types.
    """The mean over perturbed members of a model: `y = 1/M sum_m f(x; w + n(seed, m))`.

    Use it for predictions that a small change of the weights does not upset, for probabilities that are
    less sure of themselves (`calibration_report` tells), and for how much the members disagree.

    The mean is that of the model's outputs. For a mean of probabilities, let the model end in a softmax;
    of a model that returns logits it is the mean of logits.

    Member m reads each weight as `perturbed_weights(model, noise, seed=seed)` has it in its m-th draw, the
    first being 0. Nothing is written, the model's weights stay as they are, and they are the only weights
    that the ensemble has: train the model further, and the ensemble follows. The members are computed one
    after the other, so that memory does not grow with their number. Each batch draws them anew: the larger
    the batches, the less that costs.

    It is a `keras.Model`: `predict` returns the mean for all that `model.predict` takes, `evaluate` works
    once the ensemble is compiled (what the model is compiled with is not taken over), and it saves, loads
    and exports. `export` wants one call before it, as for every subclass of `keras.Model`. Losses that
    layers add in the call are the mean over members. It can be fitted, too: gradients of the mean reach
    the model's weights, through the same M draws in each step, at the memory of M models. To train with
    noise that changes, fit the model with `WeightNoiseCallback`.

    Args:
        model: A built `keras.Model`.
        noise: Float >= 0, the standard deviation of Gaussian noise, in units of the weights; or one of
            `keras_weightnoise.noises`. Or, for different noise in different variables, a mapping from
            selectors to such, or a list of pairs: the first selector that matches a variable counts,
            and `None` matches the rest. With magnitude 0 all members are the model.
        members: How many, an int >= 1. Defaults to `16`.
        variables: Which variables: `"kernels"` (what multiplies what comes in, such as kernels and
            embeddings; never a bias, gamma or beta), a regular expression searched in `variable.path`, a
            variable, a layer, a layer class, a function of a variable that returns a bool, or a list of
            these. `None`: every float weight, frozen ones included, as `perturb_weights` has it. They are
            looked up once, here. With a variable, a layer or a class the ensemble cannot be
            saved. Defaults to `None`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        seed: Integer in [0, 2**32), or `None` for one drawn from what `keras.utils.set_random_seed`
            seeds. Defaults to `0`.
        **kwargs: Keyword arguments of `keras.Model`, such as `name`.

    Call arguments:
        inputs: What the model takes.
        training: Passed on to the model, whose layers then behave as in training (Dropout,
            BatchNormalization). The members are noisy either way. Defaults to `None`, which is `False`.

    Returns:
        From a call and from `predict`: the mean, in the structure of the model's outputs, in `float32`, or
        in `float64` where the model's output is.

    Raises:
        ValueError: If the model is not built; if a selector matches nothing; if `members` is less than 1.
            In the first call: if noise would not reach a weight (a `keras.layers.TFSMLayer`, a
            `tf.function` inside a layer, a layer that assigns its kernel itself); the message names it.
        TypeError: If an argument is of another type, or a magnitude is a schedule.

    Example:

    >>> import keras
    >>> from keras_weightnoise import WeightNoiseEnsemble
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    >>> ensemble = WeightNoiseEnsemble(model, 0.5, members=8)
    >>> x = keras.random.normal((5, 4), seed=1)
    >>> ensemble.predict(x, verbose=0).shape, ensemble.predict_members(x).shape
    ((5, 3), (8, 5, 3))
    >>> spread = ensemble.predict_spread(x)
    >>> spread.stddev.shape, spread.mutual_information.shape
    ((5, 3), (5,))

    References:
        - [Bykov et al., 2022](https://arxiv.org/abs/2106.10185) (NoiseGrad: a mean over noisy weights)
        - [Houlsby et al., 2011](https://arxiv.org/abs/1112.5745) (mutual information)
    """

    def __init__(
        self,
        model: Any,
        noise: Noise | Magnitude | Mapping[Any, Any] | Sequence[Any],
        members: int = 16,
        *,
        variables: Selector | None = None,
        exclude: Selector | None = None,
        seed: int | None = 0,
        **kwargs: Any,
    ) -> None:
        check_count("members", members)
        seed = seeds.resolve_seed(seeds.check_seed(seed))
        perturbed = PerturbedWeights(model, noise, variables, exclude, seed)  # Checks the rest.
        # The model casts its inputs as it needs them.
        super().__init__(**{"autocast": False, **kwargs})
        self.model = model
        self.members = int(members)
        self.seed = seed
        self._assigned = perturbed.assigned
        self._passes_training = "training" in inspect.signature(model.call).parameters
        # In this form Keras does not take layers in here for layers of this one.
        self._arguments: functools.partial[dict[str, Any]] = functools.partial(
            dict, noise=get_rules(noise), variables=variables, exclude=exclude
        )
        self._functions: functools.partial[dict[str, Any]] = functools.partial(
            dict, members=_Function(self._stack), spread=_Function(self._spread)
        )
        # So that it can be saved, summarised and exported as its model can.
        if (shape := _input_shape(model)) is not None:
            self.build(shape)

    @property
    def metrics(self) -> list[Any]:
        """The ensemble's own: Keras 3.5 would add those that the model is compiled with."""
        others = {id(metric) for metric in self.model.metrics}
        return [metric for metric in super().metrics if id(metric) not in others]

    def build(self, input_shape: Any) -> None:
        """Builds nothing: the model is built."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The mean over members."""
        outputs, means, losses = self._fold(inputs, training, spread.widen, spread.update_mean)
        for loss in losses:
            self.add_loss(loss)
        return keras.tree.pack_sequence_as(outputs, means)

    def predict_members(
        self,
        x: Any,
        batch_size: int | None = None,
        *,
        steps: int | None = None,
        verbose: str | int = 0,
    ) -> Any:
        """Returns the predictions of all members.

        Args:
            x: See `keras.Model.predict`.
            batch_size: See `keras.Model.predict`.
            steps: See `keras.Model.predict`.
            verbose: See `keras.Model.predict`. Defaults to `0`.

        Returns:
            In the structure of the model's outputs, arrays of the shape (members, examples, ...), in the
            dtype of the model's output.
        """
        stacked = self._predict("members", x, batch_size, steps, verbose)
        return keras.tree.map_structure(lambda each: np.swapaxes(each, 0, 1), stacked)

    def predict_spread(
        self,
        x: Any,
        batch_size: int | None = None,
        *,
        steps: int | None = None,
        verbose: str | int = 0,
    ) -> EnsembleSpread:
        """Returns mean and standard deviation over members, and for class probabilities entropies.

        Outputs are taken for class probabilities if, for every example and member, they are non-negative
        and sum to one (to 0.01) over a last axis of two entries or more. So a single sigmoid is not.
        Nothing but sums is kept of the members.

        Args:
            x: See `keras.Model.predict`.
            batch_size: See `keras.Model.predict`.
            steps: See `keras.Model.predict`.
            verbose: See `keras.Model.predict`. Defaults to `0`.

        Returns:
            An `EnsembleSpread`.
        """
        return spread.assemble(*self._predict("spread", x, batch_size, steps, verbose))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        arguments = self._arguments.keywords
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "noise": [
                [selectors.serialize("noise", selector), keras.saving.serialize_keras_object(noise)]
                for selector, noise in arguments["noise"]
            ],
            "members": self.members,
            "variables": selectors.serialize("variables", arguments["variables"]),
            "exclude": selectors.serialize("exclude", arguments["exclude"]),
            "seed": self.seed,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "WeightNoiseEnsemble":
        """The inverse of `get_config`."""
        objects = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("model", "noise", "variables", "exclude")
        }
        return cls(**{**config, **objects})

    def _member(self, number: Tensor, inputs: Any, training: bool | None) -> tuple[Any, list[Any]]:
        """The outputs of a member, and the losses that its layers add."""
        targets = [target for _, targets in self._assigned for target in targets]
        values = perturb_assigned(
            self._assigned,
            stored_values([target.variable for target in targets]),
            seed=tf.constant(self.seed, tf.int64),
            step=number,
            chip=number,
            magnitudes=[noise.magnitudes_at(0) for noise, _ in self._assigned],
        )
        kwargs = {"training": bool(training)} if self._passes_training else {}
        # Keeps losses from the model, where tensors of a loop's body are of no use after the loop.
        with NoisyReads([], []) as scope:
            outputs = substituted_call(self.model, targets, values, [inputs], kwargs)
        return outputs, list(scope.losses)

    def _fold(
        self,
        inputs: Any,
        training: bool | None,
        start: Callable[[Tensor], Any],
        update: Callable[[Any, Tensor, Tensor], Any],
    ) -> tuple[Any, list[Any], list[Tensor]]:
        """Goes through the members.

        Args:
            inputs: The model's.
            training: See `call`.
            start: From an output of member 0 to a state.
            update: From the state, an output of member m, and m + 1, to a state.

        Returns:
            The outputs of member 0, for their structure; the state of each output; and the mean of the
            losses, if there are any.
        """
        # The first is not in the loop: it shows the shapes, which may depend on the inputs.
        outputs, losses = self._member(tf.constant(0, tf.int64), inputs, training)
        states = [start(each) for each in keras.tree.flatten(outputs)]

        def step(number: Tensor, states: list[Any], total: Tensor) -> tuple[Any, ...]:
            outputs, losses = self._member(number, inputs, training)
            states = [
                update(state, each, number + 1)
                for state, each in zip(states, keras.tree.flatten(outputs), strict=True)
            ]
            return number + 1, states, total + _total(losses)

        _, states, total = tf.while_loop(
            lambda number, *_: number < self.members,
            step,
            (tf.constant(1, tf.int64), states, _total(losses)),
            parallel_iterations=1,
            maximum_iterations=self.members - 1,
        )
        return outputs, states, [total / self.members] if losses else []

    def _stack(self, inputs: Any) -> Any:
        """The outputs of all members, on the second axis."""

        def start(x: Tensor) -> Any:
            array = tf.TensorArray(x.dtype, self.members, element_shape=x.shape)
            return array.write(0, x)

        def update(array: Any, x: Tensor, count: Tensor) -> Any:
            return array.write(tf.cast(count - 1, tf.int32), x)

        outputs, arrays, _ = self._fold(inputs, None, start, update)
        stacked = [tf.experimental.numpy.swapaxes(array.stack(), 0, 1) for array in arrays]
        return keras.tree.pack_sequence_as(outputs, stacked)

    def _spread(self, inputs: Any) -> list[Any]:
        """What `spread.summarize` makes of each output, in the structure of the outputs."""
        outputs, states, _ = self._fold(inputs, None, spread.start, spread.update)
        results = [spread.summarize(state, self.members) for state in states]
        return [
            keras.tree.pack_sequence_as(outputs, list(each)) for each in zip(*results, strict=True)
        ]

    def _predict(self, name: str, *arguments: Any) -> Any:
        function = self._functions.keywords[name]
        settings = {"run_eagerly": self.run_eagerly, "jit_compile": self.jit_compile}
        if any(getattr(function, key) != value for key, value in settings.items()):
            function.compile(**settings)
        x, batch_size, steps, verbose = arguments
        return function.predict(x, batch_size=batch_size, steps=steps, verbose=verbose)


class _Function(keras.Model):  # type: ignore[misc]  # Keras ships no types.
    """A function of a batch, for the sake of `predict`."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(name="members", autocast=False)
        self._function = function

    def call(self, inputs: Any) -> Any:
        return self._function(inputs)


def _input_shape(model: Any) -> Any:
    """The shape of a model's inputs in their structure, or `None` if that is not known."""
    if getattr(model, "inputs", None) and not isinstance(model, keras.Sequential):
        return keras.tree.map_structure(lambda each: each.shape, model.input)
    return (model.get_build_config() or {}).get("input_shape")


def _total(losses: Sequence[Tensor]) -> Tensor:
    return tf.add_n([tf.constant(0.0), *(tf.cast(loss, tf.float32) for loss in losses)])

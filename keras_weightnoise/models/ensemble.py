"""`WeightNoiseEnsemble`: a model whose prediction is the mean over perturbed copies of another."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_weightnoise._checks import check_count, is_number
from keras_weightnoise._random import seeds
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.rules import get_rules, refuse_codes
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.models import _accumulate as accumulate
from keras_weightnoise.models import _magnitudes as magnitudes
from keras_weightnoise.models import _spread as spread
from keras_weightnoise.models._batch_function import BatchFunction, BatchFunctions
from keras_weightnoise.models._compiled_by_itself import CompiledByItself
from keras_weightnoise.models._ensemble_settings import EnsembleSettings
from keras_weightnoise.models._inputs import MeanLayer, input_shape, symbolic_inputs
from keras_weightnoise.models._members import Members
from keras_weightnoise.models._spread import EnsembleSpread
from keras_weightnoise.models.perturb import PerturbedWeights
from keras_weightnoise.noises import Magnitude, Noise


@keras.saving.register_keras_serializable(package="keras_weightnoise")
class WeightNoiseEnsemble(CompiledByItself):
    """The mean over perturbed members of a model: `y = 1/M sum_m f(x; w + n(seed, m))`.

    Use it for predictions that a small change of the weights does not upset, for probabilities that are
    less sure of themselves (`calibration_report` tells), and for how much the members disagree.

    The mean is that of the model's outputs. For a mean of probabilities, let the model end in a softmax;
    of a model that returns logits it is the mean of logits.

    Member m reads each weight as `perturbed_weights(model, noise, seed=seed)` has it in its m-th draw, the
    first being 0. Nothing is written, the model's weights stay as they are, and they are the only weights
    that the ensemble has: train the model further, and the ensemble follows. The members are computed one
    after the other, so that memory does not grow with their number. Each batch draws them anew: the larger
    the batches, the less that costs. `magnitude` sets how much noise there is, without a new trace.

    In each batch, every member starts from the same state of the model: what calls change beside the weights
    (states of stateful RNNs, BatchNormalization's statistics, metrics, any variable of a layer). Afterwards
    the state is what one call of the model without noise leaves, which is made for it where members change
    more than seeds. With `training=True`, each member has random numbers of its own, as for Dropout.

    It is a `keras.Model`: `predict` returns the mean for all that `model.predict` takes, `evaluate` works
    once the ensemble is compiled (what the model is compiled with is not taken over), and it saves, loads
    and exports, with the inputs that the model's own export has. After a change of the model's layers
    (freezing, quantizing), compile the ensemble anew, as any model. Losses that
    layers add in the call are the mean over members. It can be fitted, too: gradients of the mean reach
    the model's weights, through the same M draws in each step, at the memory of M models.

    Args:
        model: A built `keras.Model`.
        noise: Float >= 0, the standard deviation of Gaussian noise, in units of the weights; or one of
            `keras_weightnoise.noises` (`Learned()`: the posterior predictive of a variational model). Or, for
            different noise in different variables, a mapping from selectors to such, or a list of pairs: the
            first selector that matches a variable counts, and `None` matches the rest. With magnitude 0 all
            members are the model.
        members: How many, an int >= 1. Defaults to `16`.
        variables: Which variables: `"kernels"` (see `perturb_weights`), a regular expression searched in
            `variable.path`, a layer, a layer class, a function of a variable that returns a bool, or a list
            of these. `None`: every float weight, frozen ones included, as `perturb_weights` has it. They are
            looked up once, here. With a layer or a class the ensemble cannot be saved. Defaults to `None`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        seed: Integer in [0, 2**32), or `None` for one drawn from what `keras.utils.set_random_seed`
            seeds. Defaults to `0`.
        **kwargs: Keyword arguments of `keras.Model`, such as `name`.

    Attributes:
        magnitude: The magnitude of the noise. Of several noises, or a composition, a tuple of the magnitude
            of each. Set it to another number, or to as many.

    Call arguments:
        inputs: What the model takes.
        training: Passed on to the model, whose layers then behave as in training (Dropout,
            BatchNormalization). The members are noisy either way. Defaults to `None`, which is `False`.

    Returns:
        From a call and from `predict`: the mean, in the structure of the model's outputs, in `float32`, or
        in `float64` where the model's output is.

    Raises:
        ValueError: If the model is not built; if a selector matches nothing, or codes; if `members` is less
            than 1. In the first call: if noise would not reach a weight (a `keras.layers.TFSMLayer`, a
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
    >>> ensemble.magnitude = 0.0
    >>> float(ensemble.predict_spread(x).stddev.max())
    0.0

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
        refuse_codes(perturbed.assigned, "WeightNoiseEnsemble")
        # The model casts its inputs as it needs them.
        super().__init__(**{"autocast": False, **kwargs})
        self.model = model
        self.members = int(members)
        self.seed = seed
        # In objects of its own, where Keras does not take layers for layers of this one.
        self._settings = EnsembleSettings(tuple(get_rules(noise)), variables, exclude)
        self._loop = Members(model, perturbed.assigned, self.members, seed)
        self._functions = BatchFunctions(BatchFunction(self._stack), BatchFunction(self._spread))
        # No weight, but a variable of the graph: another number needs no other graph.
        self._magnitudes = magnitudes.settable(self._settings.noises)
        # So that it can be saved, summarised and exported as its model can.
        if (shape := input_shape(model)) is not None:
            self.build(shape)

    @property
    def magnitude(self) -> float | tuple[float, ...]:
        """The magnitude of the noise, or of each noise."""
        numbers = magnitudes.of(self._settings.noises)
        return numbers if len(numbers) > 1 else numbers[0]

    @magnitude.setter
    def magnitude(self, magnitude: float | Sequence[float]) -> None:
        before = magnitudes.of(self._settings.noises)
        self._settings = self._settings.with_magnitudes(magnitude)
        new = self._settings.noises
        if not (self._loop.replace_noises(new) and all(map(is_number, before))):
            self._forget_traces()
        self._magnitudes.assign(magnitudes.of(new))

    @property
    def input_dtype(self) -> Any:
        """The model's, which is what it exports."""
        return self.model.input_dtype

    @property
    def metrics(self) -> list[Any]:
        """The ensemble's own: Keras 3.5 would add those that the model is compiled with."""
        others = {id(metric) for metric in self.model.metrics}
        return [metric for metric in super().metrics if id(metric) not in others]

    def build(self, input_shape: Any) -> None:
        """Builds nothing: the model is built."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """See `keras.Model.compile`."""
        super().compile(*args, **kwargs)
        self._forget_traces()

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """The inverse of `get_compile_config`. Keras's own is not for models with a `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """See `keras.Model.export`. Inputs have the names, dtypes and shapes that the model's have."""
        inputs = symbolic_inputs(self.model)
        if inputs is None:
            return super().export(filepath, *args, **kwargs)
        # Of subclasses Keras exports the shapes alone.
        return keras.Model(
            inputs, MeanLayer(self.model, self._magnitudes, self._mean)(inputs)
        ).export(filepath, *args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The mean over members."""
        mean, losses = self._mean(inputs, training)
        for loss in losses:
            self.add_loss(loss)
        return mean

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
        stacked = self._predict(self._functions.members, x, batch_size, steps, verbose)
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

        Outputs are taken for class probabilities by their values. Over a last axis of two entries or more
        they must be non-negative and sum to one (to 0.01), for every example and member. On a last axis of
        one entry, or without one, they must be in [0, 1]: that is the probability of one of two classes,
        as of a single sigmoid. (Of a regression within [0, 1], leave the entropies aside.) Nothing but sums
        is kept of the members.

        Args:
            x: See `keras.Model.predict`.
            batch_size: See `keras.Model.predict`.
            steps: See `keras.Model.predict`.
            verbose: See `keras.Model.predict`. Defaults to `0`.

        Returns:
            An `EnsembleSpread`.
        """
        return spread.assemble(
            *self._predict(self._functions.spread, x, batch_size, steps, verbose)
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "members": self.members,
            "seed": self.seed,
            **self._settings.serialize(),
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

    def __repr__(self) -> str:
        noise, *others = self._settings.noises
        return (
            f"<WeightNoiseEnsemble of {self.model.name!r}, noise={(noise, *others) if others else noise}, "
            f"members={self.members}, seed={self.seed}>"
        )

    def _mean(self, inputs: Any, training: bool | None) -> tuple[Any, list[Tensor]]:
        return accumulate.mean(self._loop, inputs, training, self._sizes())

    def _stack(self, inputs: Any) -> Any:
        return accumulate.stack(self._loop, inputs, self._sizes())

    def _spread(self, inputs: Any) -> list[Any]:
        return accumulate.spread(self._loop, inputs, self._sizes())

    def _forget_traces(self) -> None:
        self._loop.forget_traces()
        self.train_function = self.test_function = None
        for each in (self, self._functions.members, self._functions.spread):
            each.predict_function = None

    def _sizes(self) -> Tensor:
        return magnitudes.current(self._settings.noises, self._magnitudes)

    def _predict(self, function: BatchFunction, *arguments: Any) -> Any:
        function.run_as(run_eagerly=self.run_eagerly, jit_compile=self.jit_compile)
        x, batch_size, steps, verbose = arguments
        return function.predict(x, batch_size=batch_size, steps=steps, verbose=verbose)

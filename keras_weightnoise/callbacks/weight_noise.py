"""`WeightNoiseCallback`: noise in the weights for a whole `model.fit`."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras

from keras_weightnoise._checks import check_flag, check_variables, renamed
from keras_weightnoise._not_public import running_callbacks
from keras_weightnoise._random import seeds
from keras_weightnoise._weights import selection, selectors
from keras_weightnoise._weights.resolution import warn_below_resolution
from keras_weightnoise._weights.rules import assign, check_for_training
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.adversaries import Adversary
from keras_weightnoise.callbacks import _findings
from keras_weightnoise.callbacks._clock import check_frequency, period_of
from keras_weightnoise.callbacks._fitted_model import (
    build_from_data,
    is_built,
    refuse_several_workers,
)
from keras_weightnoise.callbacks._noisy_step import NoisyStep
from keras_weightnoise.callbacks._plan import Plan, rules_of
from keras_weightnoise.callbacks._report import (
    as_called,
    largest_magnitudes,
    log_before_others,
    named_magnitudes,
    table,
)
from keras_weightnoise.callbacks._train_function import Armed, clean_function, is_in_place
from keras_weightnoise.noises import Magnitude, Noise


class WeightNoiseCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Trains with noise in the weights: the step sees `w + n`, everything else sees `w`.

    In each training step, the gradient g of the loss L is taken at the noisy point, and the optimizer
    updates the clean one:

        w_noisy = w + stddev * n,  n ~ N(0, 1);    g = dL/dw at w_noisy;    w <- optimizer(w, g)

    Use it to regularise where a network would memorise (label noise), to find flat minima, or to
    prepare a network for noisy or low-precision hardware. It works with any model and any `train_step`.
    Validation, checkpoints and every hook of every callback meet clean weights, and after an error or an
    interrupt the weights are as they were before the step.

    The noise is a function of `seed`, of the number of optimizer steps taken, and of the variable's place
    in `model.variables`. So a run that is interrupted and resumed needs nothing saved of this callback.

    Args:
        noise: Float >= 0, the standard deviation of Gaussian noise, in units of the weights; a
            `keras.optimizers.schedules.LearningRateSchedule` of it over optimizer steps; or one of
            `keras_weightnoise.noises`. Or, for different noise in different variables, a mapping from
            selectors (see `variables`) to such, or a list of pairs: the first selector that matches a
            variable counts, and `None` matches the rest. Or one of `keras_weightnoise.adversaries`, whose
            perturbation is a function of the gradient at the clean weights: a step then has two passes.
            Defaults to `0.01`.
        frequency: When to draw anew. `"batch"`: in each optimizer step, also inside one execution of
            `steps_per_execution`; under gradient accumulation, the batches of one optimizer step share a
            draw, as one big batch would. `"epoch"`: when an epoch begins. An int n >= 1: every n optimizer
            steps. Defaults to `"batch"`.
        variables: Which variables: `"kernels"` (what multiplies what comes in, such as kernels and
            embeddings; never a bias, gamma or beta), a regular expression searched in `variable.path`, a
            variable, a layer, a layer class, a function of a variable that returns a bool, or a list of
            these. `None`: every trainable float variable, and with `frozen=True` every float weight.
            Integer and quantized variables are never perturbed. With LoRA enabled, that leaves the low-rank
            factors. Defaults to `None`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        one_at_a_time: Whether each draw perturbs one of the variables, chosen at random, in place of
            all. That regularizes without the variance that noise in many layers adds up to (Orvieto et
            al.). Defaults to `False`.
        draws_per_step: Integer >= 1. A step updates once, with the mean of the gradients at so many draws: in
            any `train_step` that applies one optimizer once. Defaults to `1`.
        split_batch: Whether each gradient is that of its own part of the batch, or of all. Parts are weighted
            by size, as suits a loss that is a mean over examples. Defaults to `False`.
        clean_gradient: Float a in [0, 1). With a further gradient, at the clean weights, a step updates with
            `a * g(w) + (1 - a) * g(w + n)`. Defaults to `0.0`.
        counted_pass: `"clean"` or `"noisy"`: in which of several passes over one batch the metrics,
            BatchNormalization and all else that a step keeps count it. `None`: in the clean one, if there is
            any. All start from the same seeds, for the same Dropout. With `split_batch`, each counts its
            part. Defaults to `None`.
        per_replica: Whether each replica of a `tf.distribute.MirroredStrategy` draws noise of its own, or
            all see the same, which is what one device would see. An adversary then has each replica's own
            gradient, and not their sum. Defaults to `False`.
        frozen: Whether frozen weights are perturbed beside the trainable ones: a device is noisy whatever is
            trained on it. With LoRA enabled, those are the kernels beside the factors. Statistics of
            BatchNormalization never are. Defaults to `False`.
        seed: Integer in [0, 2**32). `None`: drawn when a fit begins, from what
            `keras.utils.set_random_seed` seeds. Defaults to `None`.
        verbose: 0 or 1. 1 prints a table of the perturbed variables when training begins. Defaults to 0.

    Raises:
        ValueError: If an argument's value is not one of these. When training begins: if the model is not
            built, a selector matches nothing, another `WeightNoiseCallback` is on the same fit, or replicas
            are trained by other processes (`tf.distribute.MultiWorkerMirroredStrategy`).
        TypeError: If an argument's type is not one of these.

    Logs:
        `weight_noise_stddev`: the magnitude in the epoch's last step. Other noises have other names for
        it (`weight_noise_rate`); several have a key each (`weight_noise_gaussian_stddev`, ...), of two alike
        with what selects them (`weight_noise_gaussian_stddev_kernels`, `..._rest` for `None`).

    Limits:
        What a `train_step` assigns by hand to a variable that holds noise lands on the clean value as a
        change: `w <- clean + (assigned - noisy)`. That is right for `v.assign_sub(learning_rate * g)`, and
        wrong for what is overwritten, such as a target network or an average of weights: make that
        non-trainable, or name it in `exclude`. With a `LossScaleOptimizer`, a step it skips is not counted,
        so the next one sees the same draw. Of an optimizer that the model does not hold as an attribute,
        steps are counted from the beginning in each new callback. Several passes in a step run its Python
        code several times, draw anew from `tf.random` (not from `keras.random`), and all count in variables
        that the model does not hold. What it keeps in Python, and what it reads of `model.losses` after its
        update, is that of the pass made last: with an adversary, the perturbed one. An embedding's gradient
        is made dense: where a batch has an id twice, Keras's Adam and RMSprop square the sum of its
        gradients then, as they do with `gradient_accumulation_steps`, and not each of them.

    Example:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import WeightNoiseCallback
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 1))
    >>> noise = WeightNoiseCallback(0.05, variables="kernels", seed=0)
    >>> history = model.fit(x, y, epochs=2, callbacks=[noise], verbose=0)
    >>> history.history["weight_noise_stddev"]
    [0.05..., 0.05...]

    References:
        - [Graves, 2011](https://papers.nips.cc/paper/4329-practical-variational-inference-for-neural-networks)
        - [An, 1996](https://doi.org/10.1162/neco.1996.8.3.643)
        - [Orvieto et al., 2023](https://arxiv.org/abs/2206.04613) (`one_at_a_time`)
    """

    # Of a fit.
    _fitted: Any = None
    _fit_seed = 0
    _fit_params: Any = None
    _told = True
    _step: NoisyStep | None = None  # This fit's.
    _kept: NoisyStep | None = None  # The last one, which the next fit may need again.
    _armed: Armed | None = None

    @renamed(stddev="noise", sigma="noise", magnitude="noise", layers="variables")
    def __init__(
        self,
        noise: Noise | Adversary | Magnitude | Mapping[Any, Any] | Sequence[Any] = 0.01,
        *,
        frequency: Literal["batch", "epoch"] | int = "batch",
        variables: Selector | None = None,
        exclude: Selector | None = None,
        one_at_a_time: bool = False,
        draws_per_step: int = 1,
        split_batch: bool = False,
        clean_gradient: float = 0.0,
        counted_pass: Literal["clean", "noisy"] | None = None,
        per_replica: bool = False,
        frozen: bool = False,
        seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__()
        selectors.check_selectors(variables=variables, exclude=exclude)
        check_flag("one_at_a_time", one_at_a_time)
        check_flag("per_replica", per_replica)
        check_flag("frozen", frozen)
        if verbose not in (0, 1):
            raise ValueError(f"Invalid `verbose`. Expected 0 or 1. Received: verbose={verbose}")
        self.noise = noise
        self.frequency = check_frequency(frequency)
        self.variables = variables
        self.exclude = exclude
        self.one_at_a_time = one_at_a_time
        self.draws_per_step = draws_per_step
        self.split_batch = split_batch
        self.clean_gradient = clean_gradient
        self.counted_pass = counted_pass
        self.per_replica = per_replica
        self.frozen = frozen
        self.seed = seeds.check_seed(seed)
        self.verbose = verbose
        for _, each in self._rules():  # Which checks it.
            check_for_training(each)
        self._plan()  # Checks that.

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        # `evaluate` of another model, in a hook, sets `self.model` to that.
        self._fitted, self._fit_params = self.model, self.params
        refuse_several_workers(self._fitted)
        log_before_others(running_callbacks(), self._magnitudes)
        self._fit_seed = seeds.resolve_seed(self.seed)
        self._told = not self.verbose
        # A model that is yet to be built is built when its first batch is there: see `_run`.
        self._step = self._prepare() if is_built(self._fitted) else None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.frequency == "epoch" and self._step is not None:
            self._current().clock.begin_draw()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._step is not None:
            self._current()
        self._armed = Armed(self._fitted, self._run)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        armed, self._armed = self._armed, None
        if armed is None or not armed.ran:
            _findings.refuse_unrun()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs.update(self._magnitudes())

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._step is not None:
            self._step.end()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._warn_outside_fit("evaluate")

    def on_predict_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._warn_outside_fit("predict")

    def __repr__(self) -> str:
        return as_called(self, always=("noise",))

    def __getstate__(self) -> dict[str, Any]:
        # The model and the traced step belong to a fit, not to the settings.
        own = ("_model", "_fitted", "_fit_params", "_step", "_kept", "_armed")
        return {**self.__dict__, **dict.fromkeys(own)}

    def __deepcopy__(self, memo: dict[int, Any]) -> "WeightNoiseCallback":
        # A selector may be a layer, of a model that is not copied along.
        return copy.copy(self)

    def _prepare(self) -> NoisyStep:
        """The noisy step of the model as it is now, made anew unless the last one still serves."""
        model = self._fitted
        clean = clean_function(model, self._run)
        check_variables(model, "perturb")
        rules = self._rules()
        assigned = assign(model, rules, self.variables, self.exclude, frozen=self.frozen)
        selection.refuse_self_assigned(
            model, [target for _, targets in assigned for target in targets]
        )
        how = period_of(self.frequency), self.one_at_a_time, self.per_replica, self._plan()
        settings = (model, clean, assigned, *how)
        step = self._kept
        if step is None or not step.serves(*settings):
            step = self._kept = NoisyStep(*settings)
            for noise, targets in assigned if not isinstance(self.noise, Adversary) else ():
                warn_below_resolution(noise, targets, largest_magnitudes(noise, step.clock.now()))
        step.begin(self._fit_seed)
        if not self._told:
            self._told = True
            print(table(model, assigned, rules, step.clock.now()))
        self._step = step
        return step

    def _rules(self) -> list[Any]:
        once = {"frequency": self.frequency, "one_at_a_time": self.one_at_a_time}
        return rules_of(self.noise, **once, frozen=self.frozen)

    def _plan(self) -> Plan:
        passes = self.draws_per_step, self.split_batch, self.clean_gradient, self.counted_pass
        return Plan(*passes, adversary=isinstance(self.noise, Adversary))

    def _run(self, iterator: Any) -> Any:
        if self._step is None:
            build_from_data(self._fitted, iterator.element_spec)
        return self._current().run(iterator)

    def _magnitudes(self) -> dict[str, float]:
        """What is logged: the magnitudes in the last step."""
        if self._step is None:
            return {}
        step = self._step.clock.step
        return {
            f"weight_noise_{name}": float(m(step) if callable(m) else m)
            for name, m in named_magnitudes(self._rules()).items()
        }

    def _warn_outside_fit(self, method: str) -> None:
        # `fit` validates with the parameters that it set in the beginning, the others set their own.
        if self.params is not self._fit_params:
            self._fit_params = self.params
            _findings.warn_outside_fit(method)

    def _current(self) -> NoisyStep:
        """The noisy step of this fit, made anew if another callback had the model's own rebuilt."""
        step = self._step
        if step is not None and is_in_place(step.clean_function, self._fitted):
            return step
        return self._prepare()

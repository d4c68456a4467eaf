"""What the library needs of Keras and TensorFlow that is not public: all of it is here.

Each entry says why no public way serves. `tests/test_not_public.py` has a test for each, which fails where
Keras or TensorFlow change it; `tests/test_house.py` finds such uses elsewhere. Checked with TensorFlow 2.18
and Keras 3.5.0, and with TensorFlow 2.21 and Keras 3.15.1.
"""

import contextlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import record

# A function that Keras makes anew for each grouped convolution.
_MADE_FOR_ONE_CALL = "_conv_xla"

# The ops that only look at a variable. Any other may have written to it.
_READS = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"}


def current_graph() -> Any:
    """The graph that is being built, or `None` in eager mode.

    TensorFlow 2 has no name for it; that of TensorFlow 1 is still there.
    """
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def in_nested_function(outer: Any) -> bool:
    """Whether a `tf.function` is being traced inside the graph `outer`, and may outlive its call.

    `FuncGraph`, the class of a function's graph, is not public, nor is the graph that it is traced in.
    The graphs of loop bodies and branches are of subclasses.
    """
    graph = current_graph()
    while graph is not None and graph is not outer:
        if type(graph).__name__ == "FuncGraph" and graph.name != _MADE_FOR_ONE_CALL:
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


def outermost_graph() -> Any:
    """The graph of the outermost `tf.function` that is being traced, or `None` in eager mode.

    As in `in_nested_function`, the graph that a function is traced in is not public.
    """
    graph = current_graph()
    while hasattr(getattr(graph, "outer_graph", None), "outer_graph"):
        graph = graph.outer_graph
    return graph


def under_tape() -> bool:
    """Whether a gradient tape records what is computed at this moment.

    A tape of one's own shows only whether recording is stopped, and not whether there is another.
    """
    return bool(record.could_possibly_record())


def handle(variable: tf.Variable) -> Any:
    """The tensor that stands for a variable in ops, and tells variables apart.

    It is missing in the documentation of `tf.Variable`.
    """
    return variable.handle


def ops_on(variable: tf.Variable) -> list[Any]:
    """The ops of the graph being built that use a variable, in the order in which they were made.

    `capture`, which finds the placeholder of a variable in the graph of a function, and the `consumers` of
    a tensor are not public.
    """
    ops: list[Any] = current_graph().capture(handle(variable)).consumers()
    return ops


def may_write(op: Any, variable: tf.Variable) -> bool:
    """Whether an op that uses a variable may write to it.

    Types of ops have public names, but no documentation that says which of them read. One that runs
    functions (a branch, a loop, a call) has an attribute that says which of its inputs these only read.
    """
    if op.type in _READS:
        return False
    used = current_graph().capture(handle(variable))
    try:
        only_read = op.get_attr("_read_only_resource_inputs")
    except ValueError:
        only_read = []
    return any(i not in only_read for i, each in enumerate(op.inputs) if each is used)


def calls_function(op: Any) -> bool:
    """Whether an op calls a function that was traced before. As `may_write`, by the type's name."""
    return str(op.type).endswith("PartitionedCall")


def assigns_in(op: Any, layer: Any) -> bool:
    """Whether an op that `layer` made in its call assigns a variable.

    Neither Keras nor TensorFlow says which layer made an op; but Keras makes the ops of a layer in a name
    scope of the layer's name, which TensorFlow makes unique with a number.
    """
    scope = re.compile(rf"{re.escape(layer.name)}(_\d+)?")
    return "Assign" in op.type and any(map(scope.fullmatch, op.name.split("/")))


def own_trainable_variables(layer: Any) -> list[Any]:
    """The variables that a layer holds itself and trains, or would train if it were not frozen.

    `layer.trainable_variables` is empty while the layer is frozen, and `layer.non_trainable_variables` then
    has the frozen weights among the statistics of BatchNormalization.
    """
    return list(layer._trainable_variables)


def updated_variables(optimizer: Any) -> list[Any]:
    """The variables that `optimizer.apply(gradients)` updates: those the optimizer was built with.

    `optimizer.variables` has only the optimizer's own. In Keras 3.5, a `LossScaleOptimizer` leaves them to
    its inner one.
    """
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return list(optimizer._trainable_variables)


def decays(optimizer: Any, variable: tf.Variable) -> bool:
    """Whether an optimizer decays a variable, which is that of TensorFlow that a Keras variable has.

    `optimizer.weight_decay` is public, what `exclude_from_weight_decay` has left out is not.
    """
    return bool(optimizer.weight_decay) and bool(optimizer._use_weight_decay(variable))


def python_function(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The Python code of a `tf.function`, or `None` of anything else. It is not in the documentation."""
    return getattr(function, "python_function", None)


def keep_from_autograph(package: str) -> None:
    """Marks the functions and classes of a package as code that AutoGraph does not convert.

    Users call them in a `tf.function`, where AutoGraph would rewrite them, and all that they call: it takes
    ten times as long to trace, and stumbles over newer Python. `tf.autograph.experimental.do_not_convert`
    leaves the same mark, but on a function around each: doctest would not find the examples, warnings
    would name a line of TensorFlow's, and a callable object would be converted nevertheless.
    """
    for module in [
        each for name, each in sys.modules.items() if f"{name}.".startswith(f"{package}.")
    ]:
        own = [v for v in vars(module).values() if getattr(v, "__module__", "") == module.__name__]
        classes: list[Any] = [each for each in own if inspect.isclass(each)]
        members = [getattr(v, "__func__", v) for cls in classes for v in vars(cls).values()]
        functions: list[Any] = [each for each in own + members if inspect.isfunction(each)]
        for code in classes + functions:
            code.autograph_info__ = None


def running_callbacks() -> keras.callbacks.CallbackList | None:
    """The list of callbacks whose hook is running now, or `None` where none is.

    A callback has no reference to the list that it is in. So this looks for the caller.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return caller
        frame = frame.f_back
    return None


def global_seed() -> Any:
    """The state of the generator that `keras.random` takes seeds from where it is given none, or `None`.

    Keras exports neither the generator nor a way to keep its state.
    """
    generator = global_state.get_global_attribute("global_seed_generator")
    return None if generator is None else generator.state


def set_past_tracking(owner: Any, name: str, value: Any) -> None:
    """Sets an attribute of a layer or model that Keras is not to track.

    Keras tracks in `__setattr__` what is set, and has no public way around it.
    """
    vars(owner)[name] = value


def in_stateless_scope() -> bool:
    """Whether a `keras.StatelessScope` is around, as in symbolic calls.

    Keras exports no such question. A scope notes which one it is in, but that is not in its documentation.
    """
    with keras.StatelessScope() as scope:
        return scope.original_scope is not None


class ReadScope(keras.StatelessScope):  # type: ignore[misc]  # Keras ships no types.
    """A scope in which a subclass decides what variables read as, and what becomes of assignments.

    `keras.StatelessScope` is public, and takes values for variables; but that Keras asks the scope at each
    read and each assignment, by these methods, and that one can leave and enter it again, is not promised.
    Without that, what a call assigns in a loop would be out of reach after the loop.
    """

    def __init__(self) -> None:
        super().__init__(collect_losses=True)

    def read(self, variable: Any) -> Any:
        """What `variable` reads as: what it reads as outside."""
        with self._outside():  # So that a scope around this one is honoured.
            return variable.value

    def assign(self, variable: Any, value: Any) -> None:
        """Assigns `value` to `variable`, outside."""
        with self._outside():
            variable.assign(value)

    def get_current_value(self, variable: Any) -> Any:
        """Keras calls this for each read."""
        return self.read(variable)

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Keras calls this for each assignment."""
        self.assign(*update)

    @contextlib.contextmanager
    def _outside(self) -> Iterator[None]:
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

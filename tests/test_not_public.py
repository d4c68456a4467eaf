"""Each entry of the page of what is not public, against this version of Keras and TensorFlow."""

import fits
import keras
import pytest
import tensorflow as tf

from keras_weightnoise import _not_public as page


def dense():
    layer = keras.layers.Dense(2, name="own")
    layer.build((None, 3))
    return layer


def in_graph(function):
    """Traces a function without arguments, and returns what it returns."""
    results = []
    tf.function(lambda: results.append(function()), autograph=False).get_concrete_function()
    return results[0]


def test_current_graph():
    assert page.current_graph() is None
    assert in_graph(lambda: page.current_graph() is tf.constant(0).graph)
    with tf.Graph().as_default() as graph:
        assert page.current_graph() is graph


def test_nested_functions_and_what_is_none():
    def look():
        outer, found = page.current_graph(), {}

        def note(name):
            found[name] = page.in_nested_function(outer)
            return tf.constant(0)

        note("here")
        tf.cond(tf.constant(0) > 0, lambda: note("branch"), lambda: note("branch"))
        tf.while_loop(lambda i: i < 1, lambda i: note("loop") + 1, [0])
        tf.function(lambda: note("function"), autograph=False)()
        tf.function(
            lambda: tf.cond(tf.constant(0) > 0, lambda: note("branch in function"), lambda: 0),
            autograph=False,
        )()
        return found

    expected = {"here": False, "branch": False, "loop": False}
    assert in_graph(look) == {**expected, "function": True, "branch in function": True}


def test_outermost_graph():
    def look():
        graph = page.current_graph()
        found = [page.outermost_graph() is graph]

        def note(_):
            found.append(page.current_graph() is not graph and page.outermost_graph() is graph)
            return tf.constant(1)

        tf.function(lambda: tf.while_loop(lambda i: i < 1, note, [0]), autograph=False)()
        return found

    assert page.outermost_graph() is None
    assert in_graph(look) == [True, True]


def test_in_stateless_scope():
    found = []

    class Look(keras.layers.Layer):
        def call(self, x):
            found.append(page.in_stateless_scope())
            return x

    Look()(tf.ones((1, 2)))
    Look()(keras.Input((2,)))
    with keras.StatelessScope():
        found.append(page.in_stateless_scope())
    with page.ReadScope() as scope:
        found.append(page.in_stateless_scope())
        with scope._outside():
            found.append(page.in_stateless_scope())
    assert found == [False, True, True, True, False]
    assert not page.in_stateless_scope()


def test_under_tape():
    def look():
        found = [page.under_tape()]
        with tf.GradientTape() as tape:
            found.append(page.under_tape())
            tf.cond(tf.constant(0) > 0, lambda: found.append(page.under_tape()), lambda: None)
            with tape.stop_recording():
                found.append(page.under_tape())
        return [*found, page.under_tape()]

    assert look() == [False, True, False, False]  # Eagerly, one branch is not taken.
    assert in_graph(look) == [False, True, True, False, False]


def test_the_function_of_a_grouped_convolution():
    layer = keras.layers.Conv2D(4, 1, groups=2)
    layer.build((None, 2, 2, 4))
    call = tf.function(lambda x: layer(x), autograph=False)
    graph = call.get_concrete_function(tf.TensorSpec((1, 2, 2, 4))).graph
    names = [function.signature.name for function in graph.as_graph_def().library.function]
    assert any(page._MADE_FOR_ONE_CALL in name for name in names)


def test_handles_tell_variables_apart_and_last():
    layer = dense()
    first, second = (page.handle(v.value) for v in layer.variables)
    assert first is page.handle(layer.kernel.value)
    assert first is not second
    with tf.GradientTape() as tape:
        layer(tf.ones((1, 3)))
    assert {id(page.handle(v)) for v in tape.watched_variables()} == {id(first), id(second)}


READS = {
    "read": lambda v: tf.convert_to_tensor(v),
    "gather": lambda v: tf.gather(v, [0]),
    "gather in two dimensions": lambda v: tf.gather_nd(v, [[0]]),
    "embedding": lambda v: tf.nn.embedding_lookup(v, [0]),
    "shape": lambda v: tf.raw_ops.VariableShape(input=v.handle),
    "branch that reads": lambda v: tf.cond(tf.ones(()) > 0, lambda: v + 1.0, lambda: v.value()),
    "loop that reads": lambda v: tf.while_loop(
        lambda x: tf.reduce_sum(x) < 9.0,
        lambda x: [x + tf.cond(x[0, 0] > 2.0, v.value, v.value)],
        [v],
    ),
    "function that reads": lambda v: tf.function(lambda: v + 1.0, autograph=False)(),
}
WRITES = {
    "assign": lambda v: v.assign(tf.ones((3, 2))),
    "assign_add": lambda v: v.assign_add(tf.ones((3, 2))),
    "assign_sub": lambda v: v.assign_sub(tf.ones((3, 2))),
    "scatter": lambda v: v.scatter_update(tf.IndexedSlices(tf.ones((1, 2)), [0])),
    "branch": lambda v: tf.cond(tf.ones(()) > 0, lambda: v.assign(v + 1.0), lambda: v.value()),
    "loop": lambda v: tf.while_loop(
        lambda i: i < 2,
        lambda i: [i + tf.cond(i > 0, lambda: int(v.assign(2 * v) is None), lambda: 1)],
        [0],
    ),
    "function": lambda v: tf.function(lambda: v.assign(v + 1.0), autograph=False)(),
}


@pytest.mark.parametrize("use", [*READS.values(), *WRITES.values()], ids=[*READS, *WRITES])
def test_ops_on_a_variable(use):
    variable, other = tf.Variable(tf.ones((3, 2))), tf.Variable(0.0)

    def ops():
        before = page.ops_on(variable)
        use(variable)
        other.assign(1.0)
        after = page.ops_on(variable)
        assert after[: len(before)] == before
        made = after[len(before) :]
        return made, any(page.may_write(op, variable) for op in made)

    made, writes = in_graph(ops)
    assert made
    assert writes == (use in WRITES.values())
    calls = use in (WRITES["function"], READS["function that reads"])
    assert any(map(page.calls_function, made)) == calls


def test_a_variable_of_several_replicas_is_found():
    strategy = fits.strategy()
    with strategy.scope():
        variable = tf.Variable(1.0)
    first = strategy.experimental_local_results(variable)[0]

    def ops():
        first.assign(2.0)
        return page.ops_on(first)

    assert [op.type for op in in_graph(ops)] == ["AssignVariableOp"]


def test_layers_name_the_ops_they_make():
    class Counts(keras.layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), name="count", trainable=False)

        def call(self, x):
            self.count.assign(self.count + 1.0)
            return x * self.count

    layer, other = Counts(name="counts"), Counts(name="counts_too")
    model = keras.Sequential([keras.Input((2,)), layer, other, layer], name="model")

    def ops():
        model(tf.ones((1, 2)))
        layer.count.assign(0.0)
        return page.ops_on(layer.count.value)

    assigning = [op for op in in_graph(ops) if "Assign" in op.type]
    assert [page.assigns_in(op, layer) for op in assigning] == [True, True, False]
    assert not any(page.assigns_in(op, other) for op in assigning)


def test_what_a_frozen_layer_would_train():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 3))
    expected = [layer.gamma, layer.beta]
    assert page.own_trainable_variables(layer) == expected == layer.trainable_variables
    layer.trainable = False
    assert page.own_trainable_variables(layer) == expected
    assert layer.trainable_variables == []
    assert page.own_trainable_variables(keras.Sequential([layer])) == []


OPTIMIZERS = {
    "plain": lambda: keras.optimizers.Adam(),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_an_optimizer_updates(optimizer):
    layer, optimizer = dense(), optimizer()
    optimizer.build(layer.trainable_variables)
    assert page.updated_variables(optimizer) == layer.trainable_variables


@pytest.mark.parametrize("names", [None, ["_rho"], ["kernel"]])
@pytest.mark.parametrize("decay", [None, 0.0, 0.1])
def test_what_an_optimizer_decays(names, decay):
    variable = keras.Variable([1.0], name="kernel_rho")
    optimizer = keras.optimizers.SGD(0.1, weight_decay=decay)
    if names:
        optimizer.exclude_from_weight_decay(var_names=names)
    optimizer.build([variable])
    expected = page.decays(optimizer, variable.value)
    optimizer.apply([tf.zeros(1)])
    assert (float(variable[0]) != 1.0) == expected == (not names and bool(decay))


def test_the_code_of_a_function():
    def code():
        return 1

    class Model(keras.Model):
        @tf.function
        def step(self):
            return 1

    assert page.python_function(tf.function(code)) is code
    model = Model()
    assert page.python_function(model.step)() == 1
    assert page.python_function(Model.step)(model) == 1
    assert page.python_function(code) is page.python_function(model) is None


def test_the_list_of_callbacks_that_runs():
    found = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            found.append(page.running_callbacks())

    callbacks = keras.callbacks.CallbackList([Look()])
    callbacks.on_epoch_end(0)
    assert found == [callbacks]
    assert page.running_callbacks() is None


def test_what_is_set_past_tracking():
    model, layer = keras.Model(), dense()
    page.set_past_tracking(model, "hidden", layer)
    assert model.hidden is layer
    assert model.layers == model.variables == []
    model.seen = layer
    assert model.layers == [layer]


class TestReadScope:
    class Double(page.ReadScope):
        """Reads one variable as twice what it is."""

        def __init__(self, variable):
            super().__init__()
            self.variable, self.assigned = variable, []

        def read(self, variable):
            value = super().read(variable)
            return 2.0 * value if variable is self.variable else value

        def assign(self, variable, value):
            self.assigned.append(variable)
            super().assign(variable, value)

    def test_reads(self):
        layer = dense()
        layer.bias.assign([1.0, 2.0])
        with self.Double(layer.bias):
            assert keras.ops.convert_to_numpy(layer(tf.zeros((1, 3)))).tolist() == [[2.0, 4.0]]
        assert keras.ops.convert_to_numpy(layer(tf.zeros((1, 3)))).tolist() == [[1.0, 2.0]]

    def test_assignments_land_at_once_also_in_loops(self):
        layer = keras.layers.LSTM(2, dropout=0.5, seed=1)
        layer.build((None, 3, 4))
        norm = keras.layers.BatchNormalization()
        norm.build((None, None, 4))
        scope = self.Double(layer.cell.kernel)

        @tf.function(autograph=False)
        def call(x):
            with scope:
                return layer(norm(x, training=True), training=True)

        call(tf.random.normal((2, 3, 4)))
        assert {id(norm.moving_mean), id(norm.moving_variance)} <= set(map(id, scope.assigned))
        assert keras.ops.convert_to_numpy(norm.moving_mean).any()

    def test_losses_are_collected(self):
        layer = keras.layers.Dense(2, activity_regularizer="l2")
        layer.build((None, 3))
        with self.Double(layer.bias) as scope:
            layer(tf.ones((1, 3)))
        assert len(scope.losses) == 1

    def test_a_scope_around_it_is_honoured(self):
        layer = dense()
        with (
            keras.StatelessScope([(layer.bias, tf.constant([3.0, 4.0]))]),
            self.Double(layer.kernel),
        ):
            assert keras.ops.convert_to_numpy(layer(tf.zeros((1, 3)))).tolist() == [[3.0, 4.0]]


def test_global_seed():
    keras.random.normal(())
    state = page.global_seed()
    before = state.numpy()
    keras.random.normal(())
    assert not (state.numpy() == before).all()

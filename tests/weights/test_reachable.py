"""What variables and layers are called in a model, however it came to be."""

import keras
import pytest

from keras_weightnoise._weights import reachable, selection

L = keras.layers


def encoder():
    return keras.Sequential([keras.Input((4,)), L.Dense(3, name="hidden")], name="encoder")


def functional_encoder():
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Dense(3, name="hidden")(inputs), name="encoder")


def around(inner):
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Dense(1, name="head")(inner(inputs)), name="net")


def recurrent():
    layers = [
        L.TimeDistributed(L.Dense(4, name="dense"), name="each"),
        L.Bidirectional(L.LSTM(3, return_sequences=True, name="lstm"), name="both"),
        L.RNN([L.GRUCell(2, name="gru")], name="rnn"),
    ]
    return keras.Sequential([keras.Input((5, 4)), *layers], name="net")


def attention():
    inputs = keras.Input((5, 4))
    attention = L.MultiHeadAttention(2, 3, use_bias=False, name="attention")
    return keras.Model(inputs, attention(inputs, inputs), name="net")


@keras.saving.register_keras_serializable("tests")
class Subclass(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [L.Dense(2, use_bias=False, name="first"), encoder()]
        self.by_name = {"head": L.Dense(1, use_bias=False, name="head")}

    def build(self, shape):
        self.blocks[0].build((None, 4))
        self.by_name["head"].build((None, 4))
        self.weight = self.add_weight(shape=(2,), name="own")
        self.built = True


def subclass():
    model = Subclass(name="net")
    model.build((None, 4))
    return model


def tied():
    """The head reads the embedding's table, and holds it."""
    embedding = L.Embedding(4, 3, name="table")
    head = L.Dense(2, use_bias=False, name="head")
    head.tied = embedding
    inputs = keras.Input((5,))
    return keras.Model(inputs, head(embedding(inputs)), name="net")


HIDDEN, HEAD = ["hidden/kernel", "hidden/bias"], ["head/kernel", "head/bias"]
NESTED = [f"encoder/{name}" for name in HIDDEN] + HEAD
MODELS = {
    "Sequential": (encoder, HIDDEN),
    "Sequential in functional": (lambda: around(encoder()), NESTED),
    "functional in functional": (lambda: around(functional_encoder()), NESTED),
    "Sequential in Sequential": (
        lambda: keras.Sequential([keras.Input((4,)), encoder(), L.Dense(1, name="head")]),
        NESTED,
    ),
    "recurrent": (
        recurrent,
        [f"each/dense/{name}" for name in ("kernel", "bias")]
        + [
            f"both/{way}_lstm/lstm_cell/{name}"
            for way in ("forward", "backward")
            for name in ("kernel", "recurrent_kernel", "bias")
        ]
        + [f"rnn/stacked_rnn_cells/gru/{name}" for name in ("kernel", "recurrent_kernel", "bias")],
    ),
    "attention": (
        attention,
        [f"attention/{name}/kernel" for name in ("query", "key", "value", "attention_output")],
    ),
    "subclass": (
        subclass,
        ["own", "first/kernel", *NESTED[:2], "head/kernel"],
    ),
    "tied": (tied, ["table/embeddings", "head/kernel"]),
}


def names(model):
    """As sets: where a loaded model has its variables in another order is not ours to say."""
    return sorted(reachable.relative_names(model, model.weights))


@pytest.mark.parametrize(("make", "expected"), MODELS.values(), ids=MODELS)
def test_names_do_not_depend_on_how_the_model_came_to_be(make, expected, tmp_path):
    model = make()
    assert names(model) == sorted(expected)
    path = tmp_path / "model.keras"
    model.save(path)
    assert names(keras.saving.load_model(path)) == sorted(expected)
    if not isinstance(model, Subclass):
        assert names(keras.models.clone_model(model)) == sorted(expected)


def test_names_of_layers():
    model = around(encoder())
    inner = model.get_layer("encoder")
    layers = [inner, inner.get_layer("hidden"), model.get_layer("head"), model]
    expected = ["encoder", "encoder/hidden", "head", "net"]
    assert reachable.relative_names(model, layers) == expected


def test_names_in_a_layer_by_itself():
    layer = L.Dense(2, name="head")
    layer.build((None, 3))
    assert reachable.relative_names(layer, layer.variables) == ["kernel", "bias"]


# What was written down of a new model finds the same in the loaded one.
REGEXES = [
    (encoder, r"^hidden/", HIDDEN),
    (encoder, r"^encoder/hidden/k", HIDDEN[:1]),
    (encoder, r"encoder(_\d+)?/hidden/kernel", HIDDEN[:1]),
    (encoder, r"^encoder/hidden/kernel|hidden/bias", HIDDEN),
    (lambda: around(encoder()), r"^encoder/", NESTED[:2]),
    (lambda: around(encoder()), r"^encoder/hidden/kernel$|^head/bias", [NESTED[0], NESTED[3]]),
    (lambda: around(encoder()), r"^net/head", HEAD),
    (lambda: around(functional_encoder()), r"^hidden/kernel", NESTED[:1]),
    (lambda: around(functional_encoder()), r"^encoder/hidden/kernel", NESTED[:1]),
    (lambda: around(encoder()), r"n.*kernel", [NESTED[0]]),  # The "n" is not that of "net".
]


@pytest.mark.parametrize(("make", "regex", "expected"), REGEXES, ids=[r for _, r, _ in REGEXES])
def test_regular_expressions_survive_load_model(make, regex, expected, tmp_path):
    model = make()
    model.save(tmp_path / "model.keras")
    for each in (model, keras.saving.load_model(tmp_path / "model.keras")):
        found = [target.variable for target in selection.select(each, regex)]
        assert reachable.relative_names(each, found) == expected

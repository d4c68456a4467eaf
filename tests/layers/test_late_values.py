"""Values that are made when they are read."""

import numpy as np
import tensorflow as tf

from keras_weightnoise.layers._late_values import LateValues


def late(x):
    return LateValues({i: lambda after: tf.where(after, x, 0.0) for i in range(3)})


def ancestors(op):
    found = {op.name}
    for each in op.inputs:
        if each.op.name not in found:
            found |= ancestors(each.op)
    return found


def test_in_a_graph_each_waits_for_what_used_those_before():
    seen = []

    @tf.function
    def used(x):
        values = late(x)
        uses = [tf.square(values.at(i)) for i in range(3)]
        assert values.at(0) is values.at(0)
        for i in range(1, 3):
            seen.append(uses[i - 1].op.name in ancestors(values.at(i).op))
        return tf.add_n(uses)

    np.testing.assert_array_equal(used(tf.constant([2.0, np.inf])), [12.0, np.inf])
    assert seen == [True, True]


def test_eagerly_one_is_kept():
    values = late(tf.ones(2))
    for i in range(3):
        np.testing.assert_array_equal(values.at(i), [1.0, 1.0])
    assert list(values._made) == [2]

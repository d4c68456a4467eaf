"""Which graph ops are being made in."""

from typing import Any

import tensorflow as tf

# A function that Keras makes anew for each grouped convolution (as of Keras 3.5 to 3.15).
_MADE_FOR_ONE_CALL = "_conv_xla"


def current_graph() -> Any:
    """The graph that is being built, or `None` in eager mode."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def in_nested_function(outer: Any) -> bool:
    """Whether a `tf.function` is being traced inside the graph `outer`, and may outlive its call."""
    graph = current_graph()
    while graph is not None and graph is not outer:
        # The graphs of loop bodies and branches are of subclasses.
        if type(graph).__name__ == "FuncGraph" and graph.name != _MADE_FOR_ONE_CALL:
            return True
        graph = getattr(graph, "outer_graph", None)
    return False

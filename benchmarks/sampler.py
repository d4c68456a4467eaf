"""What a normal random number costs, drawn and added into the weights: nanoseconds, ratios, and page faults.

Interleaved rounds, medians; each number of weights in a process of its own, with the heap kept and with page
faults dear (see `rounds.py`). The faults are minor ones, of one draw, after others: a buffer of ten million
weights has 9766 pages. A peer on PyTorch, noise-injection, draws with `torch.randn`, adds, and subtracts
again: measured where PyTorch is installed. Of few weights, most is the call of a `tf.function`: so what one
takes that only counts is printed, too.

Run it: `python benchmarks/sampler.py`
"""

import argparse
import os
import resource

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rounds import describe, medians, run_again

from keras_weightnoise._random import adding, laws, tf_random
from keras_weightnoise._random.generator import make_key


def ways(n):
    """Functions that add noise to n weights, by name."""
    weights = tf.Variable(tf.zeros([n]))
    step = tf.Variable(0, dtype=tf.int64)

    def ours(law):
        @tf.function
        def add():
            key = make_key(tf.constant(1, tf.int64), step.assign_add(1))
            weights.assign(adding.add(law, key, [0], [weights.value()], [tf.constant(0.01)])[0])

        return add

    @tf.function
    def philox():
        key = make_key(tf.constant(1, tf.int64), step.assign_add(1))
        weights.assign_add(0.01 * tf_random.draw(laws.NORMAL, key, [0], [[n]])[0])

    @tf.function
    def stateless():
        seed = tf.stack([tf.constant(1, tf.int64), step.assign_add(1)])
        weights.assign_add(0.01 * tf.random.stateless_normal([n], seed, alg="philox"))

    @tf.function
    def nothing():
        step.assign_add(1)

    @tf.function
    def stateful():
        weights.assign_add(tf.random.normal([n], stddev=0.01))

    rng = np.random.default_rng(0)

    def numpy():
        noise = rng.normal(scale=0.01, size=n)
        weights.assign(weights.numpy() + noise)

    found = {
        "tf.random.stateless_normal": stateless,
        "tf.random.normal": stateful,
        "NumPy": numpy,
        "keras_weightnoise": ours(laws.NORMAL),
        "  exact=True": ours(laws.EXACT_NORMAL),
        '  generator="philox"': philox,
        "a tf.function without a draw": nothing,
    }
    try:
        import torch
    except ImportError:
        return found
    tensor = torch.zeros(n)

    def peer():
        noise = 0.01 * torch.randn_like(tensor)
        tensor.add_(noise)
        tensor.sub_(noise)

    return {**found, "PyTorch, added and subtracted": peer}


def faults(way):
    """Minor page faults of a call. Zero where the system does not count them, as in some sandboxes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    way()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def measure(n, rounds):
    found = ways(n)
    # Several at a time: threads of the way before, PyTorch's above all, spin on for milliseconds.
    taken = medians(found, rounds, repeats=max(1, 10**7 // n))
    counted = resource.getrusage(resource.RUSAGE_SELF).ru_minflt > 0
    print(f"{n:,} weights")
    base = taken["tf.random.stateless_normal"]
    for name, seconds in taken.items():
        pages = f"{faults(found[name]):8,d} faults" if counted else "  faults are not counted here"
        print(
            f"  {name:30s} {1e9 * seconds / n:7.2f} ns   {base / seconds:5.2f} times as fast{pages}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**6, 10**7, 10**8])
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure(arguments.only, arguments.rounds)
        return
    for condition in "heap kept", "page faults dear":
        print(describe(condition))
        for n in arguments.sizes:
            options = "--rounds", arguments.rounds, "--only", n
            print(run_again(__file__, condition, *options), end="", flush=True)


if __name__ == "__main__":
    main()

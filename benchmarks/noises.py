"""What each noise costs, drawn and put into the weights, beside Gaussian noise relative to the largest.

Interleaved rounds, medians: the ratio of the times, and of the CPU's times, which say more where the machine
has other work.

Run it: `python benchmarks/noises.py`
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import time

import keras
import tensorflow as tf
from rounds import describe, medians

from keras_weightnoise import noises as N
from keras_weightnoise._weights import perturbation, selection

BASE = 'Gaussian(relative_to="max")'
NOISES = {
    BASE: N.Gaussian(0.1, relative_to="max"),
    "  tile=(512, 512)": N.Gaussian(0.1, relative_to="max", tile=(512, 512)),
    "  tile=(400, 400), of two sizes": N.Gaussian(0.1, relative_to="max", tile=(400, 400)),
    "  exact=True": N.Gaussian(0.1, relative_to="max", exact=True),
    '  generator="philox"': N.Gaussian(0.1, relative_to="max", generator="philox"),
    "Gaussian()": N.Gaussian(0.1),
    'Gaussian(relative_to="std")': N.Gaussian(0.1, relative_to="std"),
    'Gaussian(relative_to="channel_max")': N.Gaussian(0.1, relative_to="channel_max"),
    "Uniform()": N.Uniform(0.1),
    "LogNormal()": N.LogNormal(0.1),
    "DropConnect()": N.DropConnect(0.1),
    "Quantization(8)": N.Quantization(8),
    "  probability=0.5": N.Quantization(8, probability=0.5),
    "  and per channel, asymmetric": N.Quantization(8, 0.5, symmetric=False, per_channel=True),
    "PseudoQuantization(8)": N.PseudoQuantization(8),
    "StuckAt()": N.StuckAt(0.01),
    '  "max", tile=(512, 512)': N.StuckAt(0.01, "max", tile=(512, 512)),
    "Polynomial()": N.Polynomial([0.01, 0.05, -0.03]),
    "ReRAM()": N.ReRAM(),
    "ReRAM(tile=(512, 512))": N.ReRAM(tile=(512, 512)),
    "BitFlip()": N.BitFlip(0.001),
    "BitFlip(tile=(512, 512))": N.BitFlip(0.001, tile=(512, 512)),
    '  format="bfloat16"': N.BitFlip(0.001, format="bfloat16"),
    '  format="float32"': N.BitFlip(0.001, format="float32"),
    "  and clip=True": N.BitFlip(0.001, format="float32", clip=True),
    "PCM()": N.PCM(),
    '  compensation="global"': N.PCM(compensation="global"),
    "  tile=512": N.PCM(tile=512),
}  # fmt: skip


def ways(rows, columns, jit_compile):
    """Functions that put each noise into a kernel, by name."""
    layer = keras.layers.Dense(columns, use_bias=False)
    layer.build((None, rows))
    targets = selection.select(layer)
    clean = tf.random.normal([rows, columns], stddev=0.05)
    noisy = tf.Variable(clean)
    step = tf.Variable(0, dtype=tf.int64)

    def way(noise):
        @tf.function(jit_compile=jit_compile)
        def put():
            magnitudes = noise.magnitudes_at(0)
            at = step.assign_add(1)
            (value,) = perturbation.perturb(
                noise, targets, [clean], seed=tf.constant(1), step=at, magnitudes=magnitudes
            )
            noisy.assign(value)

        return put

    return {name: way(noise) for name, noise in NOISES.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--shape", type=int, nargs=2, default=[1000, 1000])
    parser.add_argument("--jit", action="store_true", help="in a step that XLA compiles")
    arguments = parser.parse_args()
    found = ways(*arguments.shape, arguments.jit)
    clocks = (time.perf_counter, time.process_time)
    seconds, cpu = (medians(found, arguments.rounds, 5, clock) for clock in clocks)
    print(describe())
    print(f"{'a kernel of ' + ' by '.join(map(str, arguments.shape)):36s} time         CPU's")
    for name in found:
        ratios = "".join(f"{each[name] / each[BASE]:8.1f} times" for each in (seconds, cpu))
        print(f"{name:36s}{1e3 * seconds[name]:7.1f} ms{ratios}")


if __name__ == "__main__":
    main()

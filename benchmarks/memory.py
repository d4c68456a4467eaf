"""What memory training takes under weight noise: the peak, in copies of the weights.

Each way in a process of its own, an MLP of large layers, plain gradient descent. What is resident at most,
beyond what was before the first step. (What is resident after tells nothing: TensorFlow keeps memory that
it has freed.) "usual" is that of `step.py`.

Run it: `python benchmarks/memory.py`
"""

import argparse
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from step import WAYS


def resident(which):
    """Megabytes of this process: "VmRSS", or "VmHWM", the most there was."""
    with open("/proc/self/status") as status:
        (line,) = (each for each in status if each.startswith(which))
    return int(line.split()[1]) / 1024


def train(way, width):
    model = keras.Sequential(
        [keras.Input((width,)), *(keras.layers.Dense(width) for _ in range(4))]
    )
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    x = np.zeros((8, width), "float32")
    copy = 4 * width**2 * 4 / 2**20
    before = resident("VmRSS")
    model.fit(x, x, batch_size=1, verbose=0, callbacks=WAYS[way]())
    print(f"  {way:24s} {(resident('VmHWM') - before) / copy:6.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--width", type=int, default=4096, help="of each of four Dense layers")
    parser.add_argument("--way", help="only this one, in this process")
    arguments = parser.parse_args()
    if arguments.way:
        train(arguments.way, arguments.width)
        return
    print(f"MLP, 4 x Dense({arguments.width})")
    for way in WAYS:
        options = ["--way", way, "--width", str(arguments.width)]
        subprocess.run([sys.executable, __file__, *options], check=True)


if __name__ == "__main__":
    main()

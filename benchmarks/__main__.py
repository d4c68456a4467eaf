"""All the benchmarks, one after the other: `python benchmarks`."""

import pathlib
import subprocess
import sys

from rounds import describe

print(describe(), "unless it says otherwise")
for name in (
    "step",
    "first_step",
    "wrapper",
    "variational",
    "sampler",
    "noises",
    "scaling",
    "memory",
    "sweep",
    "ensemble",
):
    print(f"== {name}.py", flush=True)
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    subprocess.run([sys.executable, path], check=True)

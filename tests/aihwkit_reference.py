"""What IBM's aihwkit makes of some weights, as means and standard deviations, to compare with elsewhere.

    pip install torch aihwkit==1.1.0
    python tests/aihwkit_reference.py

writes `tests/data/aihwkit.json` anew: in a virtual environment of its own, as it needs some gigabytes unless
PyTorch comes for CPUs alone. Its wheels are for Python 3.10 to 3.12.
"""

import importlib.metadata
import json
import pathlib

import numpy as np

FILE = pathlib.Path(__file__).with_name("data") / "aihwkit.json"
VALUES = np.float32([-1.0, -0.7, -0.1, -1e-3, 0.0, 1e-3, 0.03, 0.2, 0.5, 1.0])
TIMES = (0.0, 1.0, 3600.0, 86_400.0, 31_536_000.0)
SCALES = {"programming": "prog_noise_scale", "drift": "drift_scale", "read": "read_noise_scale"}


def theirs(samples):
    """Pairs of a case, in the words of this library, and many samples of what each of the values becomes."""
    import torch

    torch.manual_seed(0)
    w = torch.tensor(np.repeat(VALUES[:, None], samples, axis=1))
    for time in TIMES:
        yield f"PCM({time})", _pcm(w, time)
    for name in SCALES:
        scales = {SCALES[each]: 2.0 if each == name else 0.0 for each in SCALES}
        others = ", ".join(f"{each}={2.0 if each == name else 0.0}" for each in SCALES)
        yield f"PCM(3600.0, {others})", _pcm(w, 3600.0, **scales)
    yield 'Gaussian(0.1, "max")', _modified(w, "AddNormal", std_dev=0.1)
    yield (
        "Gaussian(0.1 * 2.0)",
        _modified(w, "AddNormal", std_dev=0.1, rel_to_actual_wmax=False, assumed_wmax=2.0),
    )
    yield 'Gaussian(0.1, "weight")', _modified(w, "MultNormal", std_dev=0.1)
    yield "Quantization(4)", _modified(w, "Discretize", res=1 / (2**4 - 2))


def _pcm(w, time, **scales):
    """What is read of phase-change memory: programmed, then drifted and read."""
    from aihwkit.inference.noise.pcm import PCMLikeNoiseModel

    model = PCMLikeNoiseModel(g_max=25.0, **scales)
    cells, parameters = model.g_converter.convert_to_conductances(w)
    read = []
    for target in cells:
        exponents = model.generate_drift_coefficients(target)
        programmed = model.apply_programming_noise_to_conductance(target)
        read.append(model.apply_drift_noise_to_conductance(programmed, exponents, time))
    return model.g_converter.convert_back_to_weights(read, parameters).numpy()


def _modified(w, kind, **settings):
    from aihwkit.simulator.parameters.enums import WeightModifierType
    from aihwkit.simulator.parameters.inference import WeightModifierParameter
    from aihwkit.simulator.tiles.torch_tile import TorchSimulatorTile

    modifier = WeightModifierParameter(type=WeightModifierType(kind), **settings)
    return TorchSimulatorTile.modify_weight(w, modifier, 1).numpy()


def moments(samples):
    """The mean and the standard deviation of what each value becomes."""
    return {
        "mean": samples.mean(axis=1, dtype="float64"),
        "std": samples.std(axis=1, dtype="float64"),
    }


def main():
    samples = 1_000_000
    cases = {name: moments(found) for name, found in theirs(samples)}
    versions = {name: importlib.metadata.version(name) for name in ("aihwkit", "torch")}
    rounded = {
        name: {key: [float(f"{x:.6g}") for x in found] for key, found in case.items()}
        for name, case in cases.items()
    }
    content = {
        "versions": versions,
        "samples": samples,
        "values": VALUES.tolist(),
        "cases": rounded,
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

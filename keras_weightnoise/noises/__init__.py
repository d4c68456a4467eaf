"""Noise models: immutable, serializable values that say how a weight is perturbed, and how much.

All of them pass gradients straight through: the gradient that arrives at the noisy weight w' is the
gradient of the clean weight w, whatever the noise. So the callback, which moves the clean weights by
the gradient at the noisy ones, and the wrapper, through which it flows, train alike.

What IBM's aihwkit calls weight modifiers is here (`std_dev`, `coeffs`, `res`, `g_max`, `pdrop`: its names):

| aihwkit | here |
|---|---|
| `AddNormal` | `Gaussian(std_dev, "max")` (`rel_to_actual_wmax`), or `Gaussian(std_dev * assumed_wmax)` |
| `MultNormal` | `Gaussian(std_dev, "weight")`; its compiled tiles have `std_dev * wmax` for std_dev |
| `Discretize` | `Quantization(bits)`: `res = 1 / (2^bits - 2)`, of its compiled tiles twice that |
| `DiscretizeAddNormal` | `Quantization(bits) + Gaussian(std_dev, "max")` |
| `Poly` | `Polynomial(coeffs, std_dev)` |
| `DropConnect`, `pdrop` | `DropConnect(pdrop, rescale=False)` |
| `PCMNoise` | not compared, as only GPUs have it: `PCM(time)` is its `PCMLikeNoiseModel` of inference |
| `ProgNoise` | no: `Polynomial(coeffs, std_dev / g_max)`, without its mirror at 0, which keeps signs |
| `DoReFa` | no: it squashes weights by tanh before it quantizes them, which is not noise |
| `sto_round` | no: `Quantization` rounds to the nearest |
| `per_batch_sample` | no: one draw for each example is `GaussianWeightNoise(estimator="flipout")` |

`PCM`, `AddNormal`, `MultNormal` and `Discretize` are compared with aihwkit 1.1.0's own numbers in
`tests/noises/test_aihwkit_parity.py`; of the rest but `PCMNoise`, the formula of its source was read.
"""

from keras_weightnoise._random import laws
from keras_weightnoise.noises._get import get
from keras_weightnoise.noises._scales import Scale as Scale
from keras_weightnoise.noises.additive import Gaussian, Rademacher, TruncatedGaussian, Uniform
from keras_weightnoise.noises.bit_flip import BitFlip
from keras_weightnoise.noises.faults import StuckAt
from keras_weightnoise.noises.learned import Learned
from keras_weightnoise.noises.multiplicative import DropConnect, LogNormal
from keras_weightnoise.noises.noise import Compose, Draw, Noise
from keras_weightnoise.noises.noise import Magnitude as Magnitude
from keras_weightnoise.noises.pcm import PCM
from keras_weightnoise.noises.polynomial import Polynomial
from keras_weightnoise.noises.quantization import PseudoQuantization, Quantization
from keras_weightnoise.noises.reram import ReRAM

__all__ = [
    "PCM",
    "BitFlip",
    "Compose",
    "Draw",
    "DropConnect",
    "Gaussian",
    "Learned",
    "LogNormal",
    "Noise",
    "Polynomial",
    "PseudoQuantization",
    "Quantization",
    "Rademacher",
    "ReRAM",
    "StuckAt",
    "TruncatedGaussian",
    "Uniform",
    "get",
    "laws",
]

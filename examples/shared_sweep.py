"""
Title: A sweep in several processes
Description: Share the draws of a robustness sweep out with joblib, and add the parts up.
Accelerator: None

A draw is a function of the seed and of its number. So a sweep can be cut into ranges of draws, each evaluated
wherever there is room: in other processes, or on other machines. Results of one sweep add up, and the sum is
bit for bit what one process would have measured on the same machine.

joblib comes with scikit-learn. Ray, Dask, or a job for each range on a cluster, which leaves its part behind
with `to_json`, do as well.

Run it: `python examples/shared_sweep.py` (half a minute). With `--workers 1` it prints the same numbers.
"""

import functools
import operator
import os

import common
import joblib
import keras

from keras_weightnoise import noises, robustness_sweep

quick = bool(os.environ.get("QUICK"))


"""
## One part

A worker loads the model from its file: a model in memory cannot be sent. Nothing else is shared, so the
function holds all that a sweep depends on.
"""


def part(path, data, draws):
    """The sweep of a range of draws."""
    model = keras.models.load_model(path)
    return robustness_sweep(
        model,
        data,
        noise=noises.Uniform(relative_to="max"),
        magnitudes=(0.05, 0.1, 0.2),
        draws=draws,
        verbose=0,
    )


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--draws", type=int, default=4 if quick else 20)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    train, test = common.load(arguments)
    arguments.out.mkdir(exist_ok=True, parents=True)
    path = arguments.out / "shared_sweep.keras"
    keras.utils.set_random_seed(arguments.seed)
    common.trained(train).save(path)

    """
    ## All of them

    Each worker gets every second draw, or third, and so on.
    """

    ranges = [range(i, arguments.draws, arguments.workers) for i in range(arguments.workers)]
    pool = joblib.Parallel(n_jobs=arguments.workers)
    parts = pool(joblib.delayed(part)(path, test, each) for each in ranges)
    result = functools.reduce(operator.add, parts)
    print(result)
    print(f"The sum of {len(parts)} parts: {', '.join(f'draws={each}' for each in ranges)}")


if __name__ == "__main__":
    main()

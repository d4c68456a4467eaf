"""`noisy_call` in a training loop on two workers: two processes that talk over the loopback interface.

Keras itself cannot `fit` on several workers (https://github.com/keras-team/keras/issues/20585).
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from fits import same, strategy
from integration import two_workers

import keras_weightnoise

PROGRAM = pathlib.Path(two_workers.__file__)
PACKAGE = pathlib.Path(keras_weightnoise.__file__).parents[1]
LIMIT = 240  # Seconds. Alone on two cores, the longest takes 15.
pytestmark = pytest.mark.slow


def cluster(folder, *arguments, of_second=()):
    """Runs the program on two workers until both have ended, or one has failed. Returns their exit codes.

    Args:
        folder: Where they leave their results and logs.
        *arguments: Arguments of both.
        of_second: Further arguments of the second worker.
    """
    for _ in range(3):
        codes = _attempt(folder, arguments, of_second)
        # Another process may have taken a port since we asked for it.
        if not re.search("Could not start gRPC server|[Aa]ddress already in use", logs(folder)):
            break
    return codes


def logs(folder):
    return "".join(path.read_text() for path in sorted(folder.glob("log*")))


def _attempt(folder, arguments, of_second):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    workers = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {
            **os.environ,
            "PYTHONPATH": str(PACKAGE),
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CONFIG": json.dumps(task),
        }
        command = [sys.executable, PROGRAM, "--folder", folder, *arguments]
        with (folder / f"log{index}").open("w") as log:
            workers.append(
                subprocess.Popen(
                    [*command, *(of_second if index else ())],
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    _wait(workers)
    return [worker.returncode for worker in workers]


def _wait(workers):
    """Waits for the workers to end. If one fails, the other waits for it in vain: then ends that, too."""
    end = time.monotonic() + LIMIT
    try:
        while any(worker.poll() is None for worker in workers):
            if any(worker.poll() for worker in workers):
                break
            assert time.monotonic() < end, f"Two workers took more than {LIMIT} s."
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def results(folder, draws):
    """What each of the two workers ended with."""
    files = [np.load(folder / f"worker{index}" / f"{draws}.npz") for index in range(2)]
    return [list(file.values()) for file in files]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert cluster(folder) == [0, 0], logs(folder)
    return {
        **{draws: results(folder, draws) for draws in two_workers.DRAWS},
        "refusals": [path.read_text() for path in folder.glob("worker*/refusal")],
    }


@pytest.mark.parametrize("draws", two_workers.DRAWS)
def test_two_workers_train_as_two_replicas_of_one_process(uninterrupted, draws):
    first, second = uninterrupted[draws]
    assert same(first, second)
    for actual, expected in zip(first, two_workers.train(strategy(), draws), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_draw_for_each_replica_is_another_than_one_for_all(uninterrupted):
    assert np.abs(uninterrupted["own"][0][0] - uninterrupted["common"][0][0]).max() > 1e-3


def test_a_job_that_lost_a_worker_resumes_and_ends_as_the_uninterrupted(uninterrupted, tmp_path):
    arguments = ("--checkpoint", "--draws", "own")
    # The last checkpoint is that of two steps; the third step is done again.
    codes = cluster(tmp_path, *arguments, of_second=("--die-after", "3"))
    assert codes[1] == -signal.SIGKILL, logs(tmp_path)
    assert not list(tmp_path.glob("*/own.npz"))
    assert (tmp_path / "own-checkpoints" / "ckpt-1.index").exists()
    assert cluster(tmp_path, *arguments) == [0, 0], logs(tmp_path)
    assert same(results(tmp_path, "own"), uninterrupted["own"])


def test_the_callback_refuses_and_says_what_to_do_instead(uninterrupted):
    assert len(uninterrupted["refusals"]) == 2
    for refusal in uninterrupted["refusals"]:
        assert re.search(r"several workers.*`strategy\.run`.*2 replicas, 1 of them", refusal)

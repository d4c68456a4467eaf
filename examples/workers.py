"""
Title: Weight noise on several workers
Description: Two processes train one network, each under noise of its own; one dies, the job resumes.
Accelerator: None

Keras 3 cannot `fit` on several workers (https://github.com/keras-team/keras/issues/20585), so the training
loop is one's own: `strategy.run` for the replicas, and `noisy_call` for the noise. Nothing has to be sent
between the workers for it: noise is computed from a seed and the optimizer's step. All workers with the
same seed see the same noise, as one machine would; here, each has a seed of its own, so that the average
gradient is an average over noise, too.

For the same reason there is no state of the noise to save. This script starts two workers on this
machine, lets one of them die, starts both again from the last checkpoint, and compares with a job that
ran through. `TF_CONFIG` tells each worker who it is; on a cluster, the cluster's manager would set it.

Run it: `python examples/workers.py` (under a minute).
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import common
import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise import noises, noisy_call

parser = common.parser(__doc__)
parser.add_argument("--stddev", type=float, default=0.1, help="of the noise in training / max|w|")
parser.add_argument("--epochs", type=int, default=2 if os.environ.get("QUICK") else 8)
parser.add_argument("--die-after", type=int, help="the epoch in which worker 1 dies (internal)")
parser.add_argument("--folder", type=pathlib.Path, help="of a worker's results (internal)")
arguments = parser.parse_args()
BATCH = 50  # Of each replica.

"""
## One worker

The same code runs in each worker. Its parts are those of any distributed loop, but for `noisy_call`.
"""


def train():
    """Trains for the epochs that the last checkpoint leaves to do. Saves weights and accuracy."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    worker = strategy.cluster_resolver.task_id
    replicas = strategy.num_replicas_in_sync
    keras.utils.set_random_seed(arguments.seed)  # All workers start from the same weights.
    (x, y), (x_test, y_test) = common.load(arguments)
    with strategy.scope():
        model = common.network(x.shape[1:])
        optimizer = keras.optimizers.Adam(2e-3)
        optimizer.build(model.trainable_variables)
    noise = noises.Gaussian(arguments.stddev, relative_to="max")
    loss_function = keras.losses.SparseCategoricalCrossentropy()

    def replica_step(x, y):
        # Without the second term, all replicas would see the same noise.
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = arguments.seed * replicas + replica
        with tf.GradientTape() as tape:
            outputs = noisy_call(
                model,
                noise,
                x,
                seed=seed,
                step=optimizer.iterations,
                variables="kernels",
                training=True,
            )
            # `apply` sums the gradients of all replicas.
            loss = loss_function(y, outputs) / replicas
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    @tf.function
    def step(x, y):
        losses = strategy.run(replica_step, args=(x, y))
        return strategy.reduce("SUM", losses, axis=None)

    steps = len(x) // (BATCH * replicas)

    def data(epoch):
        order = np.random.default_rng(epoch).permutation(len(x))[: steps * BATCH * replicas]

        def of_worker(context):
            batches = tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(
                BATCH, drop_remainder=True
            )
            return batches.shard(context.num_input_pipelines, context.input_pipeline_id)

        return strategy.distribute_datasets_from_function(of_worker)

    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    # One for all: those of two workers could be of different epochs.
    manager = tf.train.CheckpointManager(checkpoint, arguments.folder, max_to_keep=1)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
    done = int(tf.convert_to_tensor(optimizer.iterations)) // steps
    for epoch in range(done + 1, arguments.epochs + 1):
        losses = [float(step(*batch)) for batch in data(epoch)]
        if worker == 0:
            print(f"  epoch {epoch:2d}  loss {np.mean(losses):.3f}", flush=True)
        if worker == 1 and epoch == arguments.die_after:
            os._exit(1)
        if worker == 0:
            manager.save()
    weights = [np.asarray(tf.convert_to_tensor(v)) for v in model.variables]
    correct = np.argmax(model(x_test, training=False), axis=-1) == y_test
    np.savez(arguments.folder / f"worker{worker}.npz", correct.mean(), *weights)


"""
## Both workers

The folder, which both share, has the last checkpoint. A job that is started on it again goes on from there.
"""


def run_job(folder, *options):
    """Starts both workers, and waits until they have ended or one has died. Returns whether all went well."""
    folder.mkdir(exist_ok=True, parents=True)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))  # Any free port.
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    workers = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        with (folder / f"worker{index}.log").open("w") as log:
            workers.append(
                subprocess.Popen(
                    [sys.executable, *sys.argv, "--folder", folder, *options],
                    env={**os.environ, "TF_CONFIG": json.dumps(task), "CUDA_VISIBLE_DEVICES": "-1"},
                    stderr=log,
                )
            )
    while None in (codes := [worker.poll() for worker in workers]) and not any(codes):
        time.sleep(0.1)
    for worker in workers:
        worker.kill()  # One whose peer has died would wait for it forever.
        worker.wait()
    return codes == [0, 0]


def results(folder):
    """What both workers ended with: their weights, and the accuracy."""
    files = [np.load(folder / f"worker{index}.npz") for index in range(2)]
    return [[file[name] for name in file.files] for file in files]


def same(a, b):
    return "yes" if all(map(np.array_equal, a, b)) else "NO"


def main():
    shutil.rmtree(arguments.out / "workers", ignore_errors=True)
    through, cut = arguments.out / "workers" / "through", arguments.out / "workers" / "cut"
    print("A job on two workers:", flush=True)
    if not run_job(through):
        sys.exit(f"A worker failed: see {through}/worker*.log")
    half = arguments.epochs // 2 + 1
    print(f"The same job; in epoch {half}, worker 1 dies:", flush=True)
    run_job(cut, "--die-after", str(half))
    print("Started again, from the last checkpoint:", flush=True)
    if not run_job(cut):
        sys.exit(f"A worker failed: see {cut}/worker*.log")
    (first, second), (again, _) = results(through), results(cut)
    print(f"Accuracy on test data, without noise:              {first[0]:.3f}")
    print(f"Both workers have the same weights, bit for bit:   {same(first, second)}")
    print(f"The job that was cut ended as the one that ran on: {same(first, again)}")


train() if arguments.folder else main()

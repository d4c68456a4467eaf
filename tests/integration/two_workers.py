"""A training loop of one's own on several replicas, in one process or two: `test_workers.py` starts it.

As a program, it is one worker of the cluster that `TF_CONFIG` describes.
"""

import argparse
import os
import pathlib
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise import WeightNoiseCallback, noises, noisy_call

SEED, STEPS, BATCH = 3, 6, 4
DRAWS = ("common", "own")


def train(strategy, draws, checkpoints=None, die_after=None):
    """Trains a model under the strategy for the steps that its checkpoint, if any, leaves to do.

    Args:
        strategy: A `tf.distribute` strategy of any number of replicas.
        draws: "common" for noise that all replicas share, "own" for noise of each replica's own.
        checkpoints: Folder of checkpoints, common to all workers: the first writes them.
        die_after: Number of steps after which this process kills itself.

    Returns:
        The weights of the model and the variables of the optimizer, as this worker holds them.
    """
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((4,)),
                # The second kernel is large enough to be drawn by the compiled generator.
                keras.layers.Dense(96, activation="tanh"),
                keras.layers.Dense(96, activation="tanh"),
                keras.layers.Dense(1),
            ]
        )
        optimizer = keras.optimizers.Adam(0.01)
        optimizer.build(model.trainable_variables)
    noise = noises.Gaussian(keras.optimizers.schedules.PolynomialDecay(0.2, STEPS, 0.1))
    replicas = strategy.num_replicas_in_sync

    def replica_step(x, y):
        seed = SEED * replicas
        if draws == "own":
            seed += tf.distribute.get_replica_context().replica_id_in_sync_group
        with tf.GradientTape() as tape:
            outputs = noisy_call(
                model, noise, x, seed=seed, step=optimizer.iterations, training=True
            )
            loss = tf.reduce_mean((outputs - y) ** 2) / replicas
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    @tf.function
    def step(x, y):
        strategy.run(replica_step, args=(x, y))

    manager = None
    if checkpoints is not None:
        checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
        manager = tf.train.CheckpointManager(checkpoint, checkpoints, max_to_keep=1)
        if manager.latest_checkpoint:
            checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
    done = int(tf.convert_to_tensor(optimizer.iterations))
    for number, (x, y) in enumerate(_data(strategy, done), done + 1):
        step(x, y)
        if manager is not None and number % 2 == 0 and strategy.cluster_resolver.task_id == 0:
            manager.save()
        if number == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
    return [np.asarray(tf.convert_to_tensor(v)) for v in [*model.variables, *optimizer.variables]]


def _data(strategy, done):
    """The batches of the steps that are still to do: the n-th of a step for replica n."""
    replicas = strategy.num_replicas_in_sync
    x = np.random.default_rng(0).normal(size=(STEPS * replicas * BATCH, 4)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, x.sum(axis=1, keepdims=True)))

    def of_worker(context):
        batches = data.batch(BATCH).skip(done * replicas)
        return batches.shard(context.num_input_pipelines, context.input_pipeline_id)

    return strategy.distribute_datasets_from_function(of_worker)


def refusal(strategy):
    """What `WeightNoiseCallback` says to a `fit`, where Keras comes far enough to ask it."""

    class OwnStep(keras.Sequential):
        def train_step(self, data):
            raise NotImplementedError

    with strategy.scope():
        model = OwnStep([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd")  # With a loss, Keras fails before any callback is there.
    try:
        model.fit(np.ones((8, 4)), batch_size=4, verbose=0, callbacks=[WeightNoiseCallback(0.1)])
    except ValueError as error:
        return str(error)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--draws", nargs="+", default=DRAWS)
    parser.add_argument("--checkpoint", action="store_true")
    parser.add_argument("--die-after", type=int)
    arguments = parser.parse_args()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    folder = arguments.folder / f"worker{strategy.cluster_resolver.task_id}"
    folder.mkdir(exist_ok=True)
    for draws in arguments.draws:
        checkpoints = arguments.folder / f"{draws}-checkpoints" if arguments.checkpoint else None
        np.savez(folder / f"{draws}.npz", *train(strategy, draws, checkpoints, arguments.die_after))
    (folder / "refusal").write_text(str(refusal(strategy)))


if __name__ == "__main__":
    main()

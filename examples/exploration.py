"""
Title: Exploration by noise in the weights
Description: A chain whose reward is at its far end: noisy weights get there, epsilon-greedy not always.
Accelerator: None

An agent stands near the left end of a chain, and has a few more steps than the chain has states. The left
end pays 0.001 for each step there, the right end 1. To see the large reward it has to go right many times in
a row, away from the small one that it finds first. An agent that acts at random now and then
(epsilon-greedy) is back a step later. One whose weights are noisy, by one draw for a whole episode, is of one
mind for so long: it tries a policy.

Three agents that differ in nothing else, all learning by Q-learning from replay:

- epsilon-greedy, from 1 down to 0.1 in the first quarter;
- `NoisyDense` layers, whose noise has a learned size;
- `noisy_call`, with noise of the size that `AdaptiveStddev` holds: actions as far off as with epsilon 0.1.

The chain is that of Osband et al. (2016, https://arxiv.org/abs/1602.04621), on which Plappert et al. (2018,
https://arxiv.org/abs/1706.01905) compare, too.

Run it: `python examples/exploration.py` (two minutes). It prints (TensorFlow 2.21):

    A chain of 20, 300 episodes. Best return: 12
      epsilon-greedy               first there in episode [None, 56, 21, 66, None]
                                   return without noise in the end [0.0, 12.0, 12.0, 12.0, 0.015]
      NoisyDense                   first there in episode [85, 239, 24, 194, 1]
                                   return without noise in the end [12.0, 12.0, 12.0, 12.0, 12.0]
      noisy_call, AdaptiveStddev   first there in episode [26, 24, 1, 8, 13]
                                   return without noise in the end [12.0, 12.0, 12.0, 12.0, 12.0]

In the end, epsilon-greedy (in the runs in which it got there) and parameter noise still lose a quarter of the
best return, as their noise has one size. That of `NoisyDense` has gone, where it does harm.
"""

import argparse
import math
import os
import pathlib

import common
import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from keras_weightnoise import AdaptiveStddev, NoisyDense, noisy_call

quick = bool(os.environ.get("QUICK"))
parser = argparse.ArgumentParser(description=__doc__.strip().split("\n\n")[1])
parser.add_argument("--out", type=pathlib.Path, default="out", help="folder of the figure")
parser.add_argument("--seeds", type=int, default=1 if quick else 5)
parser.add_argument("--length", type=int, default=6 if quick else 20, help="states of the chain")
parser.add_argument("--episodes", type=int, default=10 if quick else 300)
arguments = parser.parse_args()
LENGTH, EPISODES = arguments.length, arguments.episodes
STEPS = LENGTH + 9  # The right end is LENGTH - 2 steps away, so 12 of them can be there.
BEST = STEPS - (LENGTH - 2) + 1.0

"""
## The chain

Written in TensorFlow, so that an episode is one call of a `tf.function`.
"""


def observe(state):
    """What the agent sees: which states are not beyond its own."""
    return tf.cast(tf.range(LENGTH) <= state[:, None], tf.float32)


def move(state, action):
    """The state after a step to the left (0) or to the right (1), and its reward."""
    state = tf.clip_by_value(state + 2 * action - 1, 0, LENGTH - 1)
    return state, tf.where(state == LENGTH - 1, 1.0, tf.where(state == 0, 0.001, 0.0))


"""
## The agents

They differ in what they do before an episode (`begin`), and in how they come to an action (`act`) and to the
values that they learn by (`values`).
"""


class Agent:
    def __init__(self, dense):
        self.network, self.target = (
            keras.Sequential(
                [
                    keras.Input((LENGTH,)),
                    dense(32),
                    keras.layers.LayerNormalization(center=False, scale=False),
                    keras.layers.ReLU(),
                    dense(2),
                ]
            )
            for _ in range(2)
        )
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.optimizer.build(self.network.trainable_variables)
        self.states, self.actions = (
            tf.Variable(tf.zeros(EPISODES * STEPS, tf.int32)) for _ in range(2)
        )

    def sample(self, episode, count=64):
        """States and actions of the past."""
        chosen = tf.random.uniform([count], 0, (episode + 1) * STEPS, tf.int32)
        return tf.gather(self.states, chosen), tf.gather(self.actions, chosen)

    @tf.function
    def play(self, episode):
        """One episode, and as many updates as it had steps. Returns its rewards' sum."""
        self.begin(episode)
        state, total = tf.constant([1]), tf.constant(0.0)
        for step in tf.range(STEPS):
            action = self.act(observe(state), episode)
            self.states[episode * STEPS + step].assign(state[0])
            self.actions[episode * STEPS + step].assign(action[0])
            state, reward = move(state, action)
            total += reward[0]
        weights = self.network.trainable_variables
        for variable, weight in zip(self.target.trainable_variables, weights, strict=True):
            variable.assign(weight)
        for _ in tf.range(STEPS):
            self.learn(*self.sample(episode))
        return total

    @tf.function
    def test(self):
        """The rewards' sum of an episode without noise."""
        state, total = tf.constant([1]), tf.constant(0.0)
        for _ in tf.range(STEPS):
            state, reward = move(state, tf.argmax(self.network(observe(state)), -1, tf.int32))
            total += reward[0]
        return total

    def learn(self, states, actions):
        after, rewards = move(states, actions)
        wanted = rewards + 0.99 * tf.reduce_max(self.values(self.target, observe(after)), -1)
        with tf.GradientTape() as tape:
            values = self.values(self.network, observe(states))
            values = tf.gather(values, actions, batch_dims=1)
            loss = tf.reduce_mean(keras.losses.huber(wanted[:, None], values[:, None]))
        gradients = tape.gradient(loss, self.network.trainable_variables)
        self.optimizer.apply(gradients, self.network.trainable_variables)

    def begin(self, episode):
        pass

    def values(self, network, observations):
        return network(observations)


class EpsilonGreedy(Agent):
    def __init__(self, seed):
        super().__init__(keras.layers.Dense)

    def act(self, observation, episode):
        epsilon = tf.maximum(0.1, 1.0 - 0.9 * tf.cast(episode, tf.float32) / (EPISODES / 4))
        if tf.random.uniform([]) < epsilon:
            return tf.random.uniform([1], 0, 2, tf.int32)
        return tf.argmax(self.network(observation), -1, tf.int32)


class NoisyLayers(Agent):
    def __init__(self, seed):
        super().__init__(lambda units: NoisyDense(units, hold=True))

    def redraw(self, network):
        for layer in network.layers:
            if isinstance(layer, NoisyDense):
                layer.redraw()

    def begin(self, episode):
        self.redraw(self.network)

    def act(self, observation, episode):
        return tf.argmax(self.network(observation, training=True), -1, tf.int32)

    def values(self, network, observations):
        self.redraw(network)
        return network(observations, training=True)


class ParameterNoise(Agent):
    def __init__(self, seed):
        super().__init__(keras.layers.Dense)
        self.seed = seed
        self.adaptive = AdaptiveStddev(-math.log(1 - 0.1 + 0.1 / 2), distance="kl", factor=1.05)

    def noisy(self, observations, seed, episode):
        return noisy_call(self.network, self.adaptive.stddev, observations, seed=seed, step=episode)

    def begin(self, episode):
        observations = observe(self.sample(episode)[0])
        noisy = self.noisy(observations, self.seed + 1000, episode)  # Not by the draw it acts by.
        self.adaptive.update(self.network(observations), noisy)

    def act(self, observation, episode):
        return tf.argmax(self.noisy(observation, self.seed, episode), -1, tf.int32)


"""
## Result
"""

AGENTS = {
    "epsilon-greedy": (EpsilonGreedy, common.GRAY),
    "NoisyDense": (NoisyLayers, common.BLUE),
    "noisy_call, AdaptiveStddev": (ParameterNoise, common.ORANGE),
}
returns = {}
print(f"A chain of {LENGTH}, {EPISODES} episodes. Best return: {BEST:g}")
for name, (make, _) in AGENTS.items():
    runs, tests = [], []
    for seed in range(arguments.seeds):
        keras.utils.set_random_seed(seed)
        agent = make(seed)
        runs.append([float(agent.play(tf.constant(episode))) for episode in range(EPISODES)])
        tests.append(round(float(agent.test()), 3))
    returns[name] = np.array(runs)
    there = returns[name] >= 1.0  # At the right end, if only at the last step.
    first = [int(run.argmax()) + 1 if run.any() else None for run in there]
    print(f"  {name:28s} first there in episode {first}", flush=True)
    print(f"  {'':28s} return without noise in the end {tests}", flush=True)

common.style()
figure, ax = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
width = max(1, EPISODES // 30)
for name, (_, color) in AGENTS.items():
    smooth = [np.convolve(run, np.ones(width) / width, "valid") for run in returns[name]]
    for run in smooth:
        ax.plot(run, color=color, lw=0.8, alpha=0.35)
    ax.plot(np.mean(smooth, 0), color=color, lw=2.5, label=name)
ax.axhline(BEST, color="black", lw=0.8, ls=":")
ax.set(xlabel="episode", ylabel=f"return, mean of {width} episodes")
figure.legend(loc="outside upper center", ncols=3)
common.save(figure, arguments, "exploration")

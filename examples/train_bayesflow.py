"""Train a posterior network of BayesFlow on batches that dasksim simulates while it trains."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import bayesflow as bf
import keras
import numpy as np

import dasksim

keras.utils.set_random_seed(2025)  # the network; the samples have a seed of their own


def prior(batch_shape, rng):
    return {"theta": rng.normal(size=(*batch_shape, 2))}


def likelihood(theta, rng):
    return {"x": theta + 0.5 * rng.normal(size=theta.shape)}


simulator = dasksim.make_simulator([prior, likelihood], is_batched=True)

workflow = bf.BasicWorkflow(
    simulator=simulator.to_bayesflow(seed=2025),
    inference_network=bf.networks.CouplingFlow(depth=3),
    inference_variables=["theta"],
    inference_conditions=["x"],
)
history = workflow.fit_online(epochs=2, num_batches_per_epoch=100, batch_size=64, validation_data=500, verbose=0)
print("loss:", *(f"{loss:.3f}" for loss in history.history["loss"]))
print("validation loss:", *(f"{loss:.3f}" for loss in history.history["val_loss"]))

observed = np.array([[1.0, -1.0]])
draws = workflow.sample(conditions={"x": observed}, num_samples=2000)["theta"]
print("posterior mean:", draws.mean(axis=(0, 1)).round(2), "exact:", observed[0] / 1.25)

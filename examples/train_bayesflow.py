"""Train posterior networks of BayesFlow on batches that are simulated meanwhile, and on a store."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import bayesflow as bf
import keras
import numpy as np
import torch
from two_moons_posterior import compare

import dasksim
from dasksim.loaders.keras import StoreDataset

torch.set_num_threads(1)
keras.utils.set_random_seed(2025)  # the networks; samples and their order have seeds of their own

# Simulated while it trains


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
history = workflow.fit_online(epochs=2, num_batches_per_epoch=50, batch_size=64, validation_data=500, verbose=0)
print("loss:", *(f"{loss:.3f}" for loss in history.history["loss"]))
print("validation loss:", *(f"{loss:.3f}" for loss in history.history["val_loss"]))

observed = np.array([[1.0, -1.0]])
draws = workflow.sample(conditions={"x": observed}, num_samples=2000)["theta"]
print("posterior mean:", draws.mean(axis=(0, 1)).round(2), "exact:", observed[0] / 1.25)

# From a store

dasksim.generate(dasksim.models.two_moons(), "moons.zarr", 200_000, seed=2025, progress=False)

workflow = bf.BasicWorkflow(
    inference_network=bf.networks.FlowMatching(subnet_kwargs={"widths": (128, 128, 128)}),
    inference_variables=["parameters"],
    inference_conditions=["observables"],
    initial_learning_rate=2e-3,
)
splits = {"train": 0.9, "validation": 0.1}
train = StoreDataset("moons.zarr", 512, workflow.adapter, split=("train", splits), seed=1)
validation = StoreDataset("moons.zarr", 4096, workflow.adapter, split=("validation", splits), shuffle=False)

EPOCHS = 12
workflow.build_optimizer(EPOCHS, train.num_batches, strategy="offline")
workflow.approximator.compile(optimizer=workflow.optimizer)
history = workflow.approximator.fit(dataset=train, epochs=EPOCHS, validation_data=validation, verbose=0)
print("loss:", *(f"{loss:.3f}" for loss in history.history["loss"]))
print("validation loss:", *(f"{loss:.3f}" for loss in history.history["val_loss"]))

draws = workflow.sample(conditions={"observables": np.zeros((1, 2), "float32")}, num_samples=3000)["parameters"]
compare(draws[0], np.zeros(2), "bayesflow.png")

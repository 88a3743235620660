"""Train posterior networks of sbi on samples in memory, and on a store."""

import numpy as np
import torch
from sbi.inference import NPE
from sbi.utils import BoxUniform
from two_moons_posterior import compare

import dasksim
from dasksim import loaders

torch.manual_seed(2025)  # the network; the samples have a seed of their own
torch.set_num_threads(1)

# From sbi's own prior and simulator

prior = BoxUniform(-2 * torch.ones(2), 2 * torch.ones(2))


def simulator(theta):
    return theta + 0.3 * torch.randn_like(theta)


dataset = dasksim.from_sbi(prior, simulator).sample(5000, seed=2025).compute()
theta, x = torch.from_numpy(dataset.theta.values), torch.from_numpy(dataset.x.values)

inference = NPE(prior, show_progress_bars=False).append_simulations(theta, x)
inference.train(max_num_epochs=5)
print("validation loss:", *(f"{loss:.3f}" for loss in inference.summary["validation_loss"]))

observed = torch.tensor([0.5, -0.5])
draws = inference.build_posterior().sample((2000,), x=observed, show_progress_bars=False)
print("posterior mean:", [round(value, 2) for value in draws.mean(0).tolist()], "exact:", observed.tolist())

# From a store: sbi keeps what it trains on in memory, so it is given as many samples as that allows

dasksim.generate(dasksim.models.two_moons(), "moons.zarr", 200_000, seed=2025, progress=False)
samples = next(iter(loaders.batches("moons.zarr", 50_000, seed=1)))

inference = NPE(BoxUniform(-torch.ones(2), torch.ones(2)), density_estimator="nsf", show_progress_bars=False)
inference.append_simulations(torch.from_numpy(samples["parameters"]), torch.from_numpy(samples["observables"]))
inference.train(training_batch_size=512, learning_rate=2e-3, max_num_epochs=30)
print("validation loss:", *(f"{loss:.3f}" for loss in inference.summary["validation_loss"]))
draws = inference.build_posterior().sample((3000,), x=torch.zeros(2), show_progress_bars=False)
compare(draws.numpy(), np.zeros(2), "sbi.png")

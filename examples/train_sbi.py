"""Train a posterior network of sbi on samples that dasksim simulated from the same prior and simulator."""

import torch
from sbi.inference import NPE
from sbi.utils import BoxUniform

import dasksim

torch.manual_seed(2025)  # the network; the samples have a seed of their own

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

"""Truncated inference in three rounds with sbi, a store for each round; against the exact posterior."""

import numpy as np
import torch
from sbi.inference import NPE
from sbi.utils import BoxUniform, RestrictedPrior, get_density_thresholder

import dasksim

torch.manual_seed(2025)  # the networks; the samples have seeds of their own
torch.set_num_threads(1)

NOISE = 0.1
prior = BoxUniform(-2 * torch.ones(2), 2 * torch.ones(2))
observed = torch.tensor([0.5, -0.5])


def simulator(theta):
    return theta + NOISE * torch.randn_like(theta)


sim = dasksim.from_sbi(prior, simulator)
inference = NPE(prior, show_progress_bars=False)
proposal, stores = prior, []
for number in (1, 2, 3):
    store = f"round{number}.zarr"
    # a round begins where the last one left: its parameters are drawn from what that found possible
    dataset = dasksim.generate(sim, store, 2000, seed=number, conditions={"theta": proposal}, progress=False)
    stores.append(store)
    samples = dataset.dasksim.to_dict()
    inference.append_simulations(torch.from_numpy(samples["theta"]), torch.from_numpy(samples["x"]))
    # the proposals are the prior, cut off: no round needs another loss than the first
    inference.train(force_first_round_loss=True, max_num_epochs=60)
    posterior = inference.build_posterior().set_default_x(observed)
    accepts = get_density_thresholder(posterior, quantile=1e-4, num_samples_to_estimate_support=20_000)
    proposal = RestrictedPrior(prior, accepts, sample_with="rejection")
    print(f"round {number}: standard deviation of the parameters {np.std(samples['theta'], 0, dtype=float).round(2)}")

draws = posterior.sample((5000,), show_progress_bars=False).numpy()
print("posterior mean", draws.mean(0).round(3), "exact", observed.numpy())
print("posterior sd  ", draws.std(0).round(3), "exact", np.array([NOISE, NOISE]))

# All rounds as one dataset, and as one source of batches

rounds = dasksim.open_dataset(stores).compute()
print(rounds.theta.groupby("round").std().values.round(2).tolist())
batch = next(iter(dasksim.loaders.batches(stores, 256, seed=1)))
print({name: values.shape for name, values in batch.items()})

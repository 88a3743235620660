"""A queue, a spike train and a varying number of trials, which differ in size, into one store; and training on it."""

import numpy as np
import torch

import dasksim
from dasksim import loaders

torch.manual_seed(2025)  # the network; the samples have a seed of their own
torch.set_num_threads(1)

SECONDS = 10.0


def prior(rng):
    return {"rate": rng.uniform(0.5, 4.0)}


def queue(rate, rng):
    """How long each customer waits for the one clerk, who serves one a quarter of a second."""
    arrivals = np.cumsum(rng.exponential(1 / rate, size=120))
    arrivals = arrivals[arrivals < SECONDS]
    waits, free = [], 0.0
    for arrival in arrivals:
        waits.append(max(free - arrival, 0.0))
        free = max(free, arrival) + rng.exponential(0.25)
    return {"waits": np.array(waits)}


def neuron(rate, rng):
    return {"spikes": np.sort(rng.uniform(0, SECONDS, size=min(rng.poisson(SECONDS * rate), 80)))}


def experiment(rate, rng):
    return {"times": rng.exponential(1 / rate, size=rng.integers(5, 40))}


sim = dasksim.make_simulator(
    [prior, queue, neuron, experiment],
    dims={"waits": ["customer"], "spikes": ["spike"], "times": ["trial"]},
    max_sizes={"customer": 120, "spike": 80, "trial": 40},
    attrs={name: {"units": "s"} for name in ("waits", "spikes", "times")},
    expand_outputs=False,
)
ds = dasksim.generate(sim, "sizes.zarr", 20_000, seed=2025, dtypes="float32", progress=False)
print({name: (ds[name].dims, ds[f"{name}_size"].values[:5].tolist()) for name in ("waits", "spikes", "times")})

# A network for sets: each element on its own, then their mean, of those that are there


class Sets(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.each = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.ReLU()) for _ in range(3))
        self.whole = torch.nn.Sequential(torch.nn.Linear(3 * 17, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))

    def forward(self, batch):
        parts = []
        for net, name in zip(self.each, ("waits", "spikes", "times"), strict=True):
            values, sizes = torch.from_numpy(batch[name]), torch.from_numpy(batch[f"{name}_size"])
            mask = (torch.arange(values.shape[1]) < sizes[:, None])[..., None]  # a comparison: what is beyond is NaN
            features = torch.where(mask, net(torch.nan_to_num(values)[..., None]), 0.0)
            parts += [features.sum(1) / sizes.clamp(min=1)[:, None], sizes[:, None] / 50]
        return self.whole(torch.cat(parts, 1).float())[:, 0]


fractions = {"train": 0.9, "validation": 0.1}
network = Sets()
optimizer = torch.optim.Adam(network.parameters(), 3e-3)
for batch in loaders.batches("sizes.zarr", 256, seed=1, epochs=4, split=("train", fractions)):
    loss = torch.nn.functional.mse_loss(network(batch), torch.from_numpy(batch["rate"]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

found, true = [], []
with torch.no_grad():
    for batch in loaders.batches("sizes.zarr", 500, shuffle=False, split=("validation", fractions)):
        found.append(network(batch).numpy())
        true.append(batch["rate"])
error = np.sqrt(np.mean((np.concatenate(found) - np.concatenate(true)) ** 2))
print(f"rates of the validation samples: off by {error:.2f}, of a spread of {np.concatenate(true).std():.2f}")

"""Train a mixture density network with PyTorch alone, on a store that two worker processes read."""

import numpy as np
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.utils.data import DataLoader
from two_moons_posterior import compare

import dasksim
from dasksim.loaders.torch import StoreBatches

N_COMPONENTS, EPOCHS = 20, 4

torch.manual_seed(2025)  # the network; the samples and their order have seeds of their own
torch.set_num_threads(1)

dasksim.generate(dasksim.models.two_moons(), "moons.zarr", 200_000, seed=2025, progress=False)

SIZES = [N_COMPONENTS, 2 * N_COMPONENTS, 2 * N_COMPONENTS, N_COMPONENTS]  # weights, means, scales, correlations
layers = [torch.nn.Linear(2, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU()]
network = torch.nn.Sequential(*layers, torch.nn.Linear(64, sum(SIZES)))


def posterior(observables):
    weights, means, scales, correlations = network(observables).split(SIZES, -1)
    lower = torch.diag_embed(torch.nn.functional.softplus(scales.unflatten(-1, (-1, 2)) - 2) + 1e-3)
    lower[..., 1, 0] = correlations * 0.1
    components = MultivariateNormal(means.unflatten(-1, (-1, 2)), scale_tril=lower, validate_args=False)
    return MixtureSameFamily(Categorical(logits=weights), components, validate_args=False)


def loss_of(batch):
    return -posterior(batch["observables"]).log_prob(batch["parameters"]).mean()


if __name__ == "__main__":
    splits = {"train": 0.9, "validation": 0.1}
    train = StoreBatches("moons.zarr", 256, split=("train", splits), seed=1)
    validation = StoreBatches("moons.zarr", 2048, split=("validation", splits), shuffle=False)
    loader = DataLoader(train, batch_size=None, num_workers=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, epochs=EPOCHS, steps_per_epoch=len(loader))
    for epoch in range(EPOCHS):
        losses = []
        for batch in loader:
            optimizer.zero_grad()
            loss = loss_of(batch)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        with torch.no_grad():
            held_out = np.mean([loss_of(batch).item() for batch in validation])
        print(f"epoch {epoch}: loss {np.mean(losses):.3f}, validation loss {held_out:.3f}")

    with torch.no_grad():
        draws = posterior(torch.zeros(1, 2)).sample((3000,))[:, 0].numpy()
    compare(draws, np.zeros(2), "torch.png")

"""A simulator that fails for some parameters: masked, drawn again, and one failure looked at closely."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import dasksim


def prior(rng: np.random.Generator) -> dict[str, Any]:
    """Growth rates of a logistic map."""
    return {"rate": rng.uniform(3.0, 4.2)}


def population(rate: float, rng: np.random.Generator) -> dict[str, Any]:
    """Twenty generations; beyond a rate of 4 the population may die out."""
    sizes = [rng.uniform(0.2, 0.8)]
    while len(sizes) < 20:
        sizes.append(rate * sizes[-1] * (1 - sizes[-1]))
        if sizes[-1] < 0:
            raise ArithmeticError("extinct")
    return {"sizes": np.array(sizes)}


simulator = dasksim.make_simulator([prior, population], dims={"sizes": ["generation"]})

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "masked.zarr"
    masked = dasksim.generate(simulator, path, 20_000, seed=2025, on_error="mask", progress=False).load()
    print(dasksim.status(path), end="\n\n")

    failed = int(np.flatnonzero(~masked["valid"])[0])
    try:
        dasksim.replay(path, simulator, sample=failed)
    except ArithmeticError as error:
        print(f"sample {failed}: {error}", *error.__notes__[:1], sep="\n  ", end="\n\n")

    redrawn = dasksim.generate(
        simulator, Path(folder) / "redrawn.zarr", 20_000, seed=2025, on_error="redraw", progress=False
    ).load()

edges = np.linspace(3.0, 4.2, 13)
prior_share = np.full(12, 1 / 12)
share = np.histogram(redrawn["rate"], edges)[0] / redrawn.sizes["batch"]
print("rates, prior and given success:")
for left, before, after in zip(edges[:-1], prior_share, share, strict=True):
    print(f"  {left:.1f}  {'-' * round(before * 200):<20} {'#' * round(after * 200)}")

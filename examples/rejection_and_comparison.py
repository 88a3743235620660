"""Points in a circle by rejection, and a comparison of two models, as pictures if Matplotlib is installed."""

import importlib.util
from typing import Any

import numpy as np

import dasksim


def square(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
    """Points in a square."""
    return {"x": rng.uniform(-1, 1, batch_shape), "y": rng.uniform(-1, 1, batch_shape)}


def normal(rng: np.random.Generator) -> dict[str, Any]:
    """Observations with light tails."""
    return {"data": rng.normal(size=50)}


def student(rng: np.random.Generator) -> dict[str, Any]:
    """Observations with heavy tails."""
    return {"data": rng.standard_t(3, size=50)}


simulator = dasksim.make_simulator(square, is_batched=True)
circle = simulator.rejection_sample(500, lambda x, y: x**2 + y**2 < 1, seed=2025).compute()
more = simulator.rejection_sample(500, lambda x, y: x**2 + y**2 < 1, overshoot=True, seed=2025)
print(f"{circle.sizes['batch']} points in the circle, {more.sizes['batch']} with overshoot")

comparison = dasksim.ModelComparisonSimulator([normal, student], p=[0.3, 0.7])
samples = comparison.sample(2000, seed=2025).compute()
print("model frequencies:", samples.model_indices.mean("batch").to_series().to_dict())

if importlib.util.find_spec("matplotlib"):
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
    left.scatter(circle.x, circle.y, s=4)
    left.set(aspect="equal", title="accepted")
    largest = abs(samples.data).max("data_dim_0")
    for name in samples.model.values:
        right.hist(largest[samples.model_indices.sel(model=name) == 1], bins=40, alpha=0.6, label=str(name))
    right.set(title="largest observation", yscale="log")
    right.legend()
    figure.savefig("rejection_and_comparison.png")
    print("wrote rejection_and_comparison.png")

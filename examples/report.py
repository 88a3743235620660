"""A random walk that sometimes fails: a store, and a page on it to open in a browser."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import dasksim


def prior(rng: np.random.Generator) -> dict[str, Any]:
    """A drift and a scale."""
    return {"drift": rng.normal(), "scale": rng.gamma(2)}


def walk(drift: float, scale: float, rng: np.random.Generator) -> dict[str, Any]:
    """A walk of sixty steps; one that goes too far raises an exception."""
    path = (drift / 20 + scale * rng.normal(size=60) / 5).cumsum()
    if abs(path[-1]) > 25:
        raise ArithmeticError("the walk left the map")
    return {"path": path}


simulator = dasksim.make_simulator(
    [prior, walk], dims={"path": ["time"]}, coords={"time": np.linspace(0, 3, 60)}, expand_outputs=False
)
with tempfile.TemporaryDirectory() as folder:
    store = Path(folder) / "walk.zarr"
    dasksim.generate(simulator, store, 10_000, seed=2025, on_error="mask", scheduler="threads", progress=False)
    print(dasksim.status(store))
    page = dasksim.report(store, "walk.html")
print(f"wrote {page}; open it in a browser")

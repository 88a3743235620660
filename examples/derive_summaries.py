"""Summary statistics of a store, added to it afterwards, and what they say about the parameters."""

import numpy as np
import xarray as xr

import dasksim

simulator = dasksim.models.lotka_volterra(flatten=False)
dasksim.generate(simulator, "predators.zarr", 20_000, seed=2025)


def summaries(observables):
    """Return the largest numbers of prey and predators, and when they are reached."""
    return {"peak": observables.max(axis=-2), "peak_index": observables.argmax(axis=-2)}


ds = dasksim.derive("predators.zarr", summaries, is_batched=True, dims={"peak": ["population"]}).compute()
print(dasksim.status("predators.zarr"))
print("\ncorrelations of the logarithms of the largest numbers with those of the parameters:")
print(xr.corr(np.log(ds.parameters), np.log(ds.peak), "batch").to_pandas().round(2))

"""A damped oscillator: simulate a training set into a store, and look at its prior predictive bands by name.

Run it twice: the second run finds the store complete and simulates nothing.
"""

import numpy as np

import dasksim

times = np.linspace(0, 10, 41)


def prior(rng):
    return {"frequency": rng.uniform(0.5, 2.0), "damping": rng.gamma(2.0, 0.1)}


def likelihood(frequency, damping, rng):
    signal = np.exp(-damping * times) * np.cos(frequency * times)
    return {"x": signal + rng.normal(scale=0.05, size=times.size)}


simulator = dasksim.make_simulator([prior, likelihood], dims={"x": ["time"]}, coords={"time": times})
print(simulator)

dataset = dasksim.generate(simulator, "oscillator.zarr", 20_000, seed=2025)
print(dasksim.status("oscillator.zarr"))

x = dataset.x.chunk(batch=-1)  # quantiles need the whole batch of a time point
bands = x.quantile([0.05, 0.5, 0.95], "batch").compute()
print("\n  time   5 % to 95 % of x, median marked")
for time in times[::2]:
    low, middle, high = (round(24 * (float(value) + 1.3)) for value in bands.sel(time=time))
    line = ["-" if low <= i <= high else " " for i in range(64)]
    line[middle] = "|"
    print(f"{time:6.1f}   {''.join(line)}")

fast = dataset.where(dataset.frequency.isel(scalar=0) > 1.5).x.sel(time=2.0).mean().compute()
print(f"\nmean of x at time 2 where frequency > 1.5: {float(fast):.3f}")

"""A simulator of which a part runs on a GPU, where there is one, and a part on the host."""

import numpy as np

import dasksim

TIMES = np.linspace(0, 3, 50)


def prior(batch_shape, rng):
    return {"rate": rng.uniform(0.5, 2, batch_shape)}


def decay(rate, rng, xp):
    mean = xp.exp(-rate[..., None] * xp.asarray(TIMES))
    return {"x": mean + 0.05 * xp.asarray(rng.standard_normal(mean.shape))}


def half_life(x):
    """Find where a curve falls below a half; NumPy only."""
    return {"half_life": TIMES[(x < 0.5).argmax(axis=-1)]}


simulator = dasksim.make_simulator(
    [prior, decay, half_life], is_batched=True, expand_outputs=False, dims={"x": ["time"]}, coords={"time": TIMES}
)
ds = simulator.sample(100_000, seed=1)
for name, array in ds.items():
    kind = type(array.data._meta)
    print(f"{name:<10} {kind.__module__}.{kind.__name__}")
print("crossings:", [name for name in ds.half_life.data.dask.layers if "-to-" in name] or "none, all is on the host")
made = ds[["rate", "half_life"]].compute(scheduler="threads")
print("half-life times rate, which is log 2 without noise:", float((made.rate * made.half_life).mean()))

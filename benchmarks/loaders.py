"""Measure how fast shuffled batches come out of a store, against other ways to read it.

Two stores are generated: two moons, and one sample of 1000 features with 10 parameters.
They are read in batches of 512 samples, shuffled, by ``dasksim.loaders``; their shards in
order by zarr-python; batches of random rows by zarr-python; by xbatcher, in order, since
it does not shuffle; and by BayesFlow's ``DiskDataset`` from a pickle for each sample.
Slow ways read a part of the samples only. All take turns, so that a passing load touches
all alike; medians of samples per second are printed, and ratios to reading in order, also
per second of processor time, which other work on the machine disturbs less. What is read
comes from the page cache, unless ``--cold`` tells the system to forget it.

Then: how much memory a process takes to read the wide store, and how well it is shuffled.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

import dasksim
from dasksim import loaders

BATCH = 512
FEATURES = 1000


def wide() -> dasksim.Simulator:
    """Return a simulator of 10 parameters and 1000 features."""

    def prior(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
        return {"parameters": rng.standard_normal((*batch_shape, 10), "float32")}

    def simulate(parameters: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": parameters[:, :1] + rng.standard_normal((len(parameters), FEATURES), "float32")}

    return dasksim.make_simulator([prior, simulate], is_batched=True)


def forget(store: Path) -> None:
    """Tell the system that files of a store need not stay in its page cache."""
    for file in store.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def shuffled(store: Path) -> Iterator[int]:
    """Read shuffled batches."""
    for batch in loaders.batches(store, BATCH):
        yield len(next(iter(batch.values())))


def in_order(store: Path) -> Iterator[int]:
    """Read all shards in order with zarr-python, the way that is fastest."""
    group = zarr.open_group(store, mode="r")
    arrays = [array for _, array in group.arrays() if array.ndim > 1]
    for first in range(0, arrays[0].shape[0], arrays[0].shards[0]):
        yield max(len(array[first : first + array.shards[0]]) for array in arrays)


def at_random(store: Path) -> Iterator[int]:
    """Read batches of random rows with zarr-python."""
    group = zarr.open_group(store, mode="r")
    arrays = [array for _, array in group.arrays() if array.ndim > 1]
    order = np.random.default_rng(0).permutation(arrays[0].shape[0])
    for first in range(0, len(order), BATCH):
        rows = np.sort(order[first : first + BATCH])
        yield max(len(array.oindex[rows]) for array in arrays)


def with_xbatcher(store: Path) -> Iterator[int]:
    """Read batches in order with xbatcher."""
    import xbatcher

    dataset = xr.open_zarr(store, consolidated=False, chunks=None)
    for batch in xbatcher.BatchGenerator(dataset, {"batch": BATCH}):
        yield batch.load().sizes["batch"]


def with_bayesflow(folder: Path) -> Iterator[int]:
    """Read shuffled batches with BayesFlow's DiskDataset."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import bayesflow

    dataset = bayesflow.DiskDataset(folder, batch_size=BATCH, adapter=None)
    for i in range(len(dataset)):
        yield len(dataset[i]["parameters"])


def rate(read: Callable[[Path], Iterator[int]], store: Path, seconds: float) -> tuple[float, float]:
    """Return samples per second and per second of processor time, of as many as can be read in some time."""
    start, used, n = time.perf_counter(), time.process_time(), 0
    for samples in read(store):
        n += samples
        if time.perf_counter() - start > seconds:
            break
    return n / (time.perf_counter() - start), n / (time.process_time() - used)


def pickles(store: Path, n: int) -> Path:
    """Write a pickle for each of the first samples."""
    folder = store.parent / f"{store.stem}.pickles"
    folder.mkdir()
    dataset = dasksim.open_dataset(store).isel(batch=slice(n)).compute()
    for i in range(n):
        sample = {str(name): array.values[i] for name, array in dataset.data_vars.items()}
        (folder / f"sample_{i}.pkl").write_bytes(pickle.dumps(sample))
    return folder


def compare(title: str, store: Path, repetitions: int, seconds: float, cold: bool) -> None:
    """Measure all ways and print their rates."""
    ways: dict[str, tuple[Callable[[Path], Iterator[int]], Path]] = {
        "zarr-python, shards in order": (in_order, store),
        "dasksim.loaders, shuffled": (shuffled, store),
        "zarr-python, random rows": (at_random, store),
    }
    if importlib.util.find_spec("xbatcher"):
        ways["xbatcher, in order"] = with_xbatcher, store
    if importlib.util.find_spec("bayesflow"):
        ways["BayesFlow DiskDataset, shuffled, 10 240 samples"] = with_bayesflow, pickles(store, 20 * BATCH)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, (read, path) in ways.items():
            if cold:
                forget(path)
            rates[name].append(rate(read, path, seconds))
    medians = {name: np.median(values, axis=0) for name, values in rates.items()}
    base = medians["zarr-python, shards in order"]
    print(f"\n### {title}\n\n| way | samples/s | of in order | per CPU second | of in order |\n|{' --- |' * 5}")
    for name, (wall, used) in medians.items():
        print(f"| {name} | {wall:,.0f} | {wall / base[0]:.3g} | {used:,.0f} | {used / base[1]:.3g} |", flush=True)
    ratio = medians["dasksim.loaders, shuffled"][0] / medians["zarr-python, random rows"][0]
    print(f"\nshuffled against random rows: {ratio:.0f}")


MEMORY = """
import re, sys
from dasksim import loaders
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
len(loaders.batches(sys.argv[1], 512))  # what is imported for it counts for no store
before = peak()
n = sum(len(batch["x"]) for batch in loaders.batches(sys.argv[1], 512, buffer_bytes=int(sys.argv[2])))
print(f"{peak() - before:.0f}")
"""


def measure_memory(store: Path) -> None:
    """Print by how much reading a store lets a process grow."""
    n_bytes = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    print(f"\n### Memory to read {n_bytes / 2**20:,.0f} MiB\n\n| buffer_bytes, MiB | growth, MiB |\n| --- | --- |")
    for mebibytes in (32, 128):
        command = [sys.executable, "-c", MEMORY, str(store), str(mebibytes << 20)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"| {mebibytes} | {run.stdout.strip()} |", flush=True)


def measure_shuffle(store: Path) -> None:
    """Print how much of the order of a store is left in an epoch."""
    moons = dasksim.open_dataset(store).parameters.values
    keys = np.ascontiguousarray(moons).view("u8").ravel()
    batches = [np.ascontiguousarray(b["parameters"]).view("u8").ravel() for b in loaders.batches(store, BATCH)]
    order = np.argsort(keys)
    rows = order[np.searchsorted(keys[order], np.concatenate(batches))]
    n = len(rows)
    inner = zarr.open_group(store, mode="r")["parameters"].chunks[0]
    blocks = [len(set(rows[first : first + BATCH] // inner)) for first in range(0, n - BATCH, BATCH * 50)]
    epoch_halves = np.corrcoef(rows[: n // 2], rows[n // 2 : 2 * (n // 2)])[0, 1]
    print("\n### Shuffle of two moons\n\n| measure | an epoch | a random permutation |\n| --- | --- | --- |")
    print(f"| correlation of a sample's number with its place | {np.corrcoef(rows, np.arange(n))[0, 1]:.4f} | 0 |")
    print(f"| serial correlation of numbers | {np.corrcoef(rows[:-1], rows[1:])[0, 1]:.4f} | 0 |")
    print(f"| correlation of the first half with the second | {epoch_halves:.4f} | 0 |")
    print(f"| neighbours that were neighbours | {int((np.abs(np.diff(rows)) == 1).sum())} | 2 |")
    print(f"| inner chunks in a batch of {BATCH} | {np.mean(blocks):.0f} | {min(BATCH, n // inner):.0f} |")


def main() -> None:
    """Generate the stores and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples, once")
    parser.add_argument("--cold", action="store_true", help="read from the disk, not from the page cache")
    parser.add_argument("--moons", type=int, default=10_000_000, help="samples of two moons")
    parser.add_argument("--wide", type=int, default=500_000, help="samples of 1000 features")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="at most for one way")
    args = parser.parse_args()
    if args.quick:
        args.moons, args.wide, args.repetitions, args.seconds = args.moons // 10, args.wide // 10, 1, 5
    folder = Path(tempfile.mkdtemp())
    try:
        for name, simulator, n in (("two moons", dasksim.models.two_moons(), args.moons), ("wide", wide(), args.wide)):
            store = folder / f"{name.replace(' ', '_')}.zarr"
            dasksim.generate(simulator, store, n, seed=1, progress=False)
            title = f"{n:,} samples of two moons" if name == "two moons" else f"{n:,} samples of {FEATURES} features"
            compare(title, store, args.repetitions, args.seconds, args.cold)
        measure_memory(folder / "wide.zarr")
        measure_shuffle(folder / "two_moons.zarr")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""Kill a command at a moment, and see it gone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import zarr

SIMULATOR = """
import numpy as np

rng = np.random.default_rng(2025)

def prior():
    return {"loc": rng.normal(), "scale": rng.uniform()}

def likelihood(loc, scale):
    return {"x": rng.normal(loc=loc, scale=scale, size=3)}

simulator = [prior, likelihood]

def prior_of_many(batch_shape, rng):
    return {"theta": rng.normal(size=(*batch_shape, 2))}

def observe_many(theta, rng):
    return {"y": np.sort(theta + rng.normal(size=theta.shape), axis=-1), "n": rng.poisson(9.0, size=theta.shape)}

import dasksim
batched = dasksim.make_simulator([prior_of_many, observe_many], is_batched=True)
"""


#: Target, options and samples of a run of about two seconds and 100 chunks, by scheduler.
RUNS = {
    "threads": ("batched", ["--chunk-size", "16384", "--sub-batch-size", "4096"], 1_600_000),
    "processes": ("simulator", ["--chunk-size", "4096"], 400_000),
}


def command(folder: Path, scheduler: str, store: Path, part_of_samples: float = 1.0) -> list[str]:
    name, options, n = RUNS[scheduler]
    n = int(n * part_of_samples)
    target = f"{folder / 'simulators.py'}:{name}"
    generate = [sys.executable, "-m", "dasksim", "generate", target, str(store), "-n", str(n), "--seed", "2025"]
    return [*generate, "--scheduler", scheduler, *options]


def arrays(store: Path) -> dict[str, bytes]:
    group = zarr.open_group(store, mode="r")
    return {name: array[:].tobytes() for name, array in group.arrays()}  # type: ignore[union-attr]


def n_receipts(store: Path) -> int:
    return len(list(store.glob("_dasksim/receipts/c.*.0")))


def kill_at(fraction: float, delay: float, arguments: list[str], store: Path, n_chunks: int) -> None:
    """Run a command, kill it once a fraction of the chunks is complete and some time has passed, and see it gone."""
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    while process.poll() is None and n_receipts(store) < fraction * n_chunks:
        time.sleep(0.001)
    time.sleep(delay)
    if process.poll() is not None:  # it was faster
        return
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, f"workers outlived the killed run: {alive}"

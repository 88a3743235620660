"""How long it takes to open a complete store of many chunks, and to ask how far it is.

Usage: opening.py [N_CHUNKS]

A few chunks are simulated, and linked to as all others: what is read to open a store is the same.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import dasksim

SIZE = 64
MADE = 20


def prior(rng: np.random.Generator) -> dict[str, Any]:
    """Draw parameters."""
    return {"theta": rng.normal(size=3), "k": int(rng.integers(9))}


def make_store(path: Path, n_chunks: int) -> None:
    """Make a complete store of two variables."""
    simulator = dasksim.make_simulator(prior)
    how: dict[str, Any] = {"seed": 1, "sub_batch_size": SIZE, "chunk_size": SIZE, "scheduler": "synchronous"}
    dasksim.generate(simulator, path, n_chunks * SIZE, part=(0, n_chunks // MADE), progress=False, **how)
    for chunk in range(MADE, n_chunks):
        (path / "theta" / "c" / str(chunk)).mkdir()
        for key in ("theta/c/{}/0", "k/c/{}", "_dasksim/receipts/c.{}.0"):
            os.link(path / key.format(chunk % MADE), path / key.format(chunk))


def main(n_chunks: int) -> None:
    """Print how long each call takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.zarr"
        make_store(path, n_chunks)
        for name, call in {"open_dataset": dasksim.open_dataset, "status": dasksim.status}.items():
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                call(path)
                seconds.append(time.perf_counter() - start)
            print(f"{name:<14} {n_chunks:,} chunks: {min(seconds):.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)

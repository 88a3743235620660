"""What sub-batches and chunks cost: make a store of two moons in several sizes, and read it back shuffled.

Each store is made in a process of its own, by two threads, and read in another one; memory is what a process had at
most, less what it had before. Repetitions take turns over the sizes, so that a passing load touches all alike; medians
are printed. What is read was just written, and comes from the page cache. It needs Linux::

    python benchmarks/chunk_sizes.py
"""

import argparse
import itertools
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dask
import zarr

import dasksim
from dasksim import loaders

BATCH, WARM_UP, THREADS = 512, 10_000, 2
#: Samples in a sub-batch and in a chunk; None is the default.
SIZES: list[tuple[int | None, int | None]] = [
    *((sub_batch, 65_536) for sub_batch in (64, 512, 4_096)),
    *itertools.product((65_536,), (65_536, 262_144, 1_048_576, 4_194_304)),
    (4_096, 4_096),
    (512, 512),
    (None, None),
]
HEADER = ["sub-batch", "chunk", "inner chunk", "made in, s", "memory, MiB", "read in, s", "memory, MiB", "files"]


def resident(kind: str) -> float:
    """Return the MiB of memory that this process has (``VmRSS``) or had at most (``VmHWM``)."""
    found = re.search(rf"{kind}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def generate(store: str, n: int, sub_batch: int | None, chunk: int | None) -> None:
    """Make a store."""
    simulator = dasksim.models.two_moons()
    with dask.config.set(num_workers=THREADS):
        dasksim.generate(
            simulator,
            store,
            n,
            seed=2025,
            sub_batch_size=sub_batch,
            chunk_size=chunk,
            scheduler="threads",
            progress=False,
        )


def read(store: str) -> None:
    """Read one epoch of shuffled batches."""
    assert sum(len(batch["parameters"]) for batch in loaders.batches(store, BATCH, seed=1)) > 0


def measured(warm_up: Callable[[], None], run: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds and the MiB that a run takes."""
    warm_up()
    before, start = resident("VmRSS"), time.perf_counter()
    run()
    return time.perf_counter() - start, max(resident("VmHWM") - before, 0)


def child(store: Path, *words: object) -> list[float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--child", str(store), *map(str, words)]
    return [float(word) for word in subprocess.check_output(command, text=True).split()]


def in_child(store: str, words: list[str]) -> tuple[float, float]:
    """Do what a child is told."""
    small = f"{store}.small"
    if words == ["read"]:
        return measured(lambda: read(small), lambda: read(store))
    n, sub_batch, chunk = (None if word == "None" else int(word) for word in words)
    assert n
    return measured(lambda: generate(small, WARM_UP, None, None), lambda: generate(store, n, sub_batch, chunk))


def sizes_of(store: Path) -> list[str]:
    """Return the sizes of a store, for the table."""
    record = dasksim.status(store)
    inner = zarr.open_group(store, mode="r")["parameters"].chunks[0]
    return [f"{record.sub_batch_size:,}", f"{record.chunk_size:,}", f"{inner:,}"]


def main() -> None:
    """Measure all sizes and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=4_194_304, help="samples of a store")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(*in_child(args.child[0], args.child[1:]))
        return
    runs: dict[tuple[int | None, int | None], list[list[float]]] = {sizes: [] for sizes in SIZES}
    shown: dict[tuple[int | None, int | None], list[str]] = {}
    for _ in range(args.repetitions):
        for sizes, costs in runs.items():
            with tempfile.TemporaryDirectory() as folder:
                store = Path(folder, "moons.zarr")
                made = child(store, args.n, *sizes)
                files = sum(path.is_file() for path in store.rglob("*"))
                costs.append([*made, *child(store, "read"), files])
                shown[sizes] = sizes_of(store)
                shutil.rmtree(store)
    print(f"| {' | '.join(HEADER)} |", "|" + " --- |" * len(HEADER), sep="\n")
    for sizes, costs in runs.items():
        seconds, memory, read_in, read_memory, files = map(statistics.median, zip(*costs, strict=True))
        figures = [f"{seconds:.1f}", f"{memory:.0f}", f"{read_in:.2f}", f"{read_memory:.0f}", f"{files:,.0f}"]
        print(f"| {' | '.join([*shown[sizes], *figures])} |")


if __name__ == "__main__":
    main()

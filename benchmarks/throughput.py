"""What dasksim costs over the bare code, as ratios measured in one run.

Each comparison runs its two sides in turn, several times, and gives the median of the ratios, so that it holds on a
machine whose speed drifts. Run it on a machine that does nothing else::

    python benchmarks/throughput.py
"""

import argparse
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

import dasksim

rng = np.random.default_rng(2025)


def prior() -> dict[str, float]:
    """Draw the two parameters, with a generator of the module."""
    return {"loc": rng.normal(), "scale": rng.uniform()}


def likelihood(loc: float, scale: float) -> dict[str, np.ndarray]:
    """Draw three observations."""
    return {"x": rng.normal(loc=loc, scale=scale, size=3)}


def seconds(run: Callable[[], object]) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Return the median ratio of times, ours to theirs, and both medians in seconds; a first round is not counted."""
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats + 1)][1:]
    ratio = statistics.median(a / b for a, b in pairs)
    return ratio, statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def row(what: str, ratio: float, ours: float, theirs: float, n: int, goal: str) -> None:
    """Print one line of the table."""
    print(f"| {what} | {ratio:.2f} | {goal} | {n / ours / 1e3:,.0f} | {n / theirs / 1e3:,.0f} |", flush=True)


def bare_loop(n: int) -> None:
    """Call the two functions, and keep nothing."""
    for _ in range(n):
        likelihood(**prior())


def unbatched(folder: Path, n: int, repeats: int) -> None:
    """Compare the unbatched simulator with the bare loop, and two workers with one."""
    simulator = dasksim.make_simulator([prior, likelihood])

    def generate(scheduler: object) -> Callable[[], object]:
        return lambda: dasksim.generate(
            simulator, folder / "loop.zarr", n, seed=2025, scheduler=scheduler, overwrite=True
        )

    lazy = simulator.sample(n, seed=2025)
    row(
        "unbatched, one worker, computed / bare loop",
        *compare(lambda: lazy.compute(scheduler="synchronous"), lambda: bare_loop(n), repeats),
        n,
        "<= 1.25",
    )
    row(
        "unbatched, one worker, into a store / bare loop",
        *compare(generate("synchronous"), lambda: bare_loop(n), repeats),
        n,
        "<= 1.25",
    )
    from distributed import Client

    with (
        Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as two,
        Client(n_workers=1, threads_per_worker=1, dashboard_address=None, set_as_default=False) as one,
    ):
        row("unbatched, one worker process / two", *compare(generate(one), generate(two), repeats), n, ">= 1.8")


def moons_numpy(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw two moons with NumPy alone."""
    half_root = math.sqrt(0.5)
    theta = -1 + 2 * generator.random((n, 2), dtype="float32")
    angle = math.pi * (generator.random(n, dtype="float32") - 0.5)
    radius = 0.1 + 0.01 * generator.standard_normal(n, dtype="float32")
    first, second = theta[:, 0], theta[:, 1]
    x = radius * np.cos(angle) + 0.25 - half_root * np.abs(first + second)
    y = radius * np.sin(angle) + half_root * (second - first)
    return theta, np.stack([x, y], axis=-1)


def moons_by_hand(folder: Path, n: int, like: Path) -> None:
    """Write two moons with NumPy and zarr-python in two threads, laid out as in a store of dasksim."""
    layout = zarr.open_array(like, path="parameters")
    size = layout.shards[0]
    group = zarr.create_group(folder / "hand.zarr", overwrite=True)
    arrays = [
        group.create_array(
            name,
            shape=(n, 2),
            dtype="float32",
            shards=(size, 2),
            chunks=layout.chunks,
            compressors=[Crc32cCodec()],
            fill_value=np.nan,
        )
        for name in ("parameters", "observables")
    ]

    def one(first: int) -> None:
        rows = min(size, n - first)
        generator = np.random.Generator(np.random.SFC64([2025, first]))
        for array, values in zip(arrays, moons_numpy(generator, rows), strict=True):
            array[first : first + rows] = values

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(0, n, size)))


def batched(folder: Path, n: int, repeats: int) -> None:
    """Compare two moons into a store with the same by hand."""
    simulator = dasksim.models.two_moons()
    store = folder / "moons.zarr"

    def generate() -> None:
        dasksim.generate(simulator, store, n, seed=2025, scheduler="threads", overwrite=True)

    generate()
    by_hand, ours, theirs = compare(lambda: moons_by_hand(folder, n, store), generate, repeats)
    row(f"two moons, {n:,} samples, by hand / into a store", by_hand, theirs, ours, n, ">= 0.9")


def writing(folder: Path, name: str, n: int, repeats: int) -> None:
    """Compare stores with the same samples in memory, and with bytes alone; and two processes with one."""
    simulator, store, raw = dasksim.models.MODELS[name](), folder / "written.zarr", folder / "raw"
    lazy = simulator.sample(n, seed=2025)

    def generate(scheduler: str | None) -> Callable[[], object]:
        return lambda: dasksim.generate(simulator, store, n, seed=2025, scheduler=scheduler, overwrite=True)

    here, two, by_default = generate("synchronous"), generate("processes"), generate(None)
    name = f"{name}, {n:,} samples"
    row(
        f"{name}, into a store / in memory",
        *compare(here, lambda: lazy.compute(scheduler="synchronous"), repeats),
        n,
        "<= 1.15",
    )
    row(f"{name}, one process / two", *compare(here, two, repeats), n, ">= 1.85")
    n_bytes = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    row(f"{name}, dd / by default", *compare(lambda: dd(raw, n_bytes), by_default, repeats), n, ">= 0.8")


def dd(file: Path, n_bytes: int) -> None:
    """Write as many bytes as a store has, without a simulation."""
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={file}", "bs=4M", f"count={-(-n_bytes // (1 << 22))}", "status=none"], check=True
    )


def little_work(folder: Path, repeats: int) -> None:
    """Time 100 samples of plain functions by default, and a first call of the command line."""
    simulator = dasksim.make_simulator([prior, likelihood])
    times = [
        seconds(lambda: dasksim.generate(simulator, folder / "little.zarr", 100, seed=1, overwrite=True))
        for _ in range(repeats + 1)
    ]
    again = statistics.median(times[1:])
    print(f"\n100 samples of plain functions: {times[0]:.2f} s, then {again:.2f} s (goal: 0.5, 0.2)")
    for command in ("--version", "--help", "models", f"status {folder / 'little.zarr'}"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "dasksim", *command.split()], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"dasksim {command.split()[0]}: {took:.2f} CPU-seconds (goal: 0.4)")


def graph() -> None:
    """Time building the graph of a dataset of 10**9 samples."""
    simulator = dasksim.models.two_moons()
    took = seconds(lambda: simulator.sample(10**9, seed=2025))
    many = seconds(lambda: simulator.sample(10**9, seed=2025, sub_batch_size=10_000, chunk_size=10_000))
    print(f"\ngraph of 10**9 samples: {took:.2f} s in default chunks, {many:.2f} s in 100 000 chunks (goal: under 5 s)")


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the numbers of samples")
    parser.add_argument("--folder", help="where stores are made, by default where temporary files are")
    options = parser.parse_args()
    print("| comparison | ratio | goal | dasksim, k samples/s | other, k samples/s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        unbatched(Path(folder), int(1_000_000 * options.scale), options.repeats)
        for n in (1_000_000, 10_000_000):
            batched(Path(folder), int(n * options.scale), options.repeats)
        for name, n in (("two_moons", 30_000_000), ("gaussian_linear", 10_000_000)):
            writing(Path(folder), name, int(n * options.scale), options.repeats)
        little_work(Path(folder), options.repeats)
    graph()


if __name__ == "__main__":
    main()

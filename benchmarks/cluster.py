"""What a cluster costs: many chunks, two workers against one, and a dataset larger than the cluster's memory.

The scheduler and the workers are processes of their own, so that their memory can be told apart from the client's. Run
it on a machine that does nothing else; the whole takes half an hour, with ``--quick`` two minutes::

    python benchmarks/cluster.py
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
from distributed import Client

import dasksim
from dasksim._execution.progress import Progress
from dasksim.store._locate import locate
from dasksim.store._receipts import open_receipts

MIB = 1 << 20


@contextmanager
def cluster(folder: Path, n_workers: int, memory: str = "0") -> Iterator[Client]:
    """Start a scheduler and workers, and give a client."""
    file = folder / f"scheduler-{time.time_ns()}.json"

    def start(what: str, *options: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", str(file), *options]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    worker = ("--nthreads", "1", "--no-dashboard", "--memory-limit", memory, "--local-directory", str(folder))
    processes = [start("scheduler", "--port", "0", "--dashboard-address", "127.0.0.1:0")]
    processes += [start("worker", *worker) for _ in range(n_workers)]
    try:
        while not file.exists() or not file.read_text():
            time.sleep(0.05)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(n_workers)
            yield client
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def n_tasks(dask_scheduler: Any) -> int:
    """Return how many tasks the scheduler knows."""
    return len(dask_scheduler.tasks)


def process_id() -> int:
    """Return the number of the process in which this runs."""
    return os.getpid()


@contextmanager
def sampled(measure: Any, seconds: float) -> Iterator[list[Any]]:
    """Measure again and again in a thread, while the block runs."""
    found: list[Any] = []
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(seconds):
            found.append(measure())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


def trivial(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw one number a sample."""
    return {"x": rng.normal(size=batch_shape)}


def many_chunks(folder: Path, n_chunks: int) -> None:
    """Print what a chunk costs, and the memory of scheduler and client, along a run of many chunks."""
    simulator = dasksim.make_simulator(trivial, is_batched=True)
    every = n_chunks // 20
    print(f"\n{n_chunks:,} chunks of a trivial simulator on two workers; CPU time in ms a chunk\n")
    print("| chunks | s / 1000 chunks | scheduler, CPU | client, CPU | scheduler, MiB | client, MiB | tasks known |")
    print("|---|---|---|---|---|---|---|")
    with cluster(folder, 2) as client:
        processes = [psutil.Process(client.run_on_scheduler(process_id)), psutil.Process()]
        advance = Progress.advance
        n_done = 0
        last = time.perf_counter(), *(sum(process.cpu_times()[:2]) for process in processes)

        def advance_and_report(self: Any, *counts: int) -> None:
            nonlocal n_done, last
            advance(self, *counts)
            n_done += 1
            if n_done % every == 0:
                now = time.perf_counter(), *(sum(process.cpu_times()[:2]) for process in processes)
                wall, *cpu = ((b - a) / every * 1000 for a, b in zip(last, now, strict=True))
                rss = [process.memory_info().rss // MIB for process in processes]
                cells = [f"{n_done:,}", f"{wall:.2f}", *(f"{ms:.2f}" for ms in cpu), *map(str, rss)]
                print(f"| {' | '.join(cells)} | {client.run_on_scheduler(n_tasks)} |", flush=True)
                last = now

        sizes = {"sub_batch_size": 10, "chunk_size": 10}
        with mock.patch.object(Progress, "advance", advance_and_report):
            path = folder / "many.zarr"
            dasksim.generate(simulator, path, 10 * n_chunks, seed=1, scheduler=client, progress=False, **sizes)
        time.sleep(1)
        print(f"\ntasks known a second after the end: {client.run_on_scheduler(n_tasks)}")


def prior(rng: np.random.Generator) -> dict[str, float]:
    """Draw the parameters."""
    return {"loc": rng.normal(), "scale": rng.uniform()}


def likelihood(loc: float, scale: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw the observations, with some work in pure Python."""
    return {"x": np.asarray([math.sin(loc + i) for i in range(100)]) + rng.normal(0, scale, size=100)}


def two_against_one(folder: Path, n_samples: int, repeats: int) -> None:
    """Print how much faster two workers are than one."""
    simulator = dasksim.make_simulator([prior, likelihood])

    def measure(scheduler: Any, n_workers: int) -> tuple[float, float]:
        """Return the wall time, and the share of the workers' time that is spent in chunks."""
        start = time.perf_counter()
        path = folder / "two.zarr"
        dasksim.generate(simulator, path, n_samples, seed=1, scheduler=scheduler, overwrite=True, progress=False)
        took = time.perf_counter() - start
        receipts = open_receipts(locate(path))
        return took, receipts.totals()["nanoseconds"] / 1e9 / took / n_workers

    def row(what: str, run: Callable[[int], tuple[float, float]]) -> None:
        pairs = [(run(1), run(2)) for _ in range(repeats + 1)][1:]
        ratio = statistics.median(one[0] / two[0] for one, two in pairs)
        medians = [statistics.median(pair[i][k] for pair in pairs) for k in (0, 1) for i in (0, 1)]
        print(f"| {what} | {' | '.join(f'{value:.2f}' for value in medians)} | {ratio:.2f} |", flush=True)

    def processes(n_workers: int) -> tuple[float, float]:
        with mock.patch("dasksim._execution.executors.CPU_COUNT", n_workers):
            return measure("processes", n_workers)

    print(f"\n{n_samples:,} samples of an unbatched simulator; medians of {repeats} pairs of runs, goal 1.8\n")
    print("| where | one worker, s | two, s | time in chunks, one | two | ratio |\n|---|---|---|---|---|---|")
    with cluster(folder, 1) as one, cluster(folder, 2) as two:
        row("cluster", lambda n: measure(one if n == 1 else two, n))
    row("worker processes", processes)


def wide(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw a thousand numbers a sample."""
    return {"x": rng.standard_normal(size=(*batch_shape, 1000), dtype="float32")}


def larger_than_memory(folder: Path, n_bytes: int) -> None:
    """Print the memory of two workers of 500 MB that write a dataset of many times that."""
    simulator = dasksim.make_simulator(wide, is_batched=True)
    with cluster(folder, 2, "500MB") as client:
        before = client.run(process_id)
        workers = [psutil.Process(pid) for pid in before.values()]

        def measure() -> tuple[list[int], int]:
            info = client.scheduler_info(n_workers=-1)["workers"].values()
            spilled = sum(worker["metrics"].get("spilled_bytes", {}).get("disk", 0) for worker in info)
            return [worker.memory_info().rss for worker in workers], spilled

        with sampled(measure, 0.2) as found:
            start = time.perf_counter()
            dasksim.generate(simulator, folder / "wide.zarr", n_bytes // 4000, seed=1, scheduler=client, progress=False)
            took = time.perf_counter() - start
        after = client.run(process_id)
    quarter = -(-len(found) // 4)
    peaks = [max(max(rss) for rss, _ in found[k * quarter : (k + 1) * quarter]) // MIB for k in range(4)]
    print(f"\n{n_bytes / 1e9:.1f} GB through two workers of 500 MB: {took:.1f} s, {n_bytes / took / 1e6:.0f} MB/s")
    print(f"largest worker in each quarter of the run, MiB: {', '.join(map(str, peaks))}")
    print(f"bytes spilled: {max(spilled for _, spilled in found)}; workers restarted: {len(after.keys() - before)}")


def main() -> None:
    """Run all measurements, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["two", "memory", "many"], help="of: two, memory, many")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if "two" in options.what:
            two_against_one(Path(folder), 50_000 if options.quick else 300_000, 3 if options.quick else 5)
        if "memory" in options.what:
            larger_than_memory(Path(folder), 10**9 if options.quick else 4 * 10**9)
        if "many" in options.what:
            many_chunks(Path(folder), 3_000 if options.quick else 100_000)


if __name__ == "__main__":
    main()

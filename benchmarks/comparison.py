"""Ways to a training set: how long, how much memory, and what is left of it after a kill.

One simulator, a loop in Python that takes one sample at a time, is run by each library that is installed, as its
documentation has it, each in a process of its own::

    python benchmarks/comparison.py

Everything is counted from when the library is imported, and of the process with its children, at which psutil looks
every 20 ms. Memory is their largest proportional set size (PSS, so Linux is needed), less what there was after the
import. Then the same is killed by SIGKILL halfway, with its children, and the samples are counted that can be read.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import dasksim

STEPS = 1000


def prior(rng: np.random.Generator) -> dict[str, Any]:
    """Return parameters."""
    return {"theta": rng.uniform(0, 1, size=2)}


def walk(theta: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Return a process that forgets, by a loop."""
    keep, scale = theta
    x, last = np.empty(STEPS, dtype=np.float32), 0.0
    for step, noise in enumerate((scale * rng.standard_normal(STEPS)).tolist()):
        x[step] = last = keep * last + noise
    return {"x": x}


def sample(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return one sample."""
    theta = prior(rng)["theta"]
    return theta, walk(theta, rng)["x"]


def samples(number: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one block of samples."""
    rng = np.random.default_rng([2025, number])
    theta, x = zip(*(sample(rng) for _ in range(n)))
    return np.stack(theta), np.stack(x)


def with_numpy(folder: Path, n: int) -> None:
    """Simulate in a loop."""
    theta, x = samples(0, n)
    np.savez(folder / "train.npz", theta=theta, x=x)


def with_joblib(folder: Path, n: int) -> None:
    """Simulate in two processes."""
    from joblib import Parallel, delayed

    blocks = Parallel(n_jobs=2)(delayed(samples)(number, 500) for number in range(n // 500))
    theta, x = map(np.concatenate, zip(*blocks))
    np.savez(folder / "train.npz", theta=theta, x=x)


def with_joblib_files(folder: Path, n: int) -> None:
    """Simulate in two processes, each of which writes what it has made."""
    from joblib import Parallel, delayed

    def write(number: int) -> None:
        theta, x = samples(number, 500)
        np.savez(folder / f"{number}.npz", theta=theta, x=x)

    Parallel(n_jobs=2)(delayed(write)(number) for number in range(n // 500))


def with_sbi(folder: Path, n: int) -> None:
    """Simulate by sbi, and save its tensors."""
    import torch
    from sbi.inference import simulate_for_sbi
    from sbi.utils import BoxUniform

    def simulator(theta: np.ndarray) -> Any:  # seeded by sbi
        rng = np.random.default_rng(np.random.randint(2**31))
        return torch.from_numpy(np.stack([walk(row, rng)["x"] for row in theta]))

    box = BoxUniform(torch.zeros(2), torch.ones(2))
    theta, x = simulate_for_sbi(
        simulator, box, n, num_workers=2, simulation_batch_size=500, seed=2025, show_progress_bar=False
    )
    torch.save((theta, x), folder / "train.pt")


def with_bayesflow(folder: Path, n: int) -> None:
    """Simulate by BayesFlow."""
    import bayesflow as bf

    rng = np.random.default_rng(2025)
    data = bf.make_simulator([lambda: prior(rng), lambda theta: walk(theta, rng)]).sample(n)
    np.savez(folder / "train.npz", **data)


def with_bayesflow_parallel(folder: Path, n: int) -> None:
    """Simulate by BayesFlow, one task for each sample."""
    import bayesflow as bf

    def draw() -> dict[str, Any]:  # generators that functions hold would repeat each other
        return prior(np.random.default_rng(np.random.randint(2**31)))

    def simulate(theta: np.ndarray) -> dict[str, Any]:
        return walk(theta, np.random.default_rng(np.random.randint(2**31)))

    data = bf.make_simulator([draw, simulate]).sample_parallel(n, n_jobs=2)
    np.savez(folder / "train.npz", **data)


def with_lampe(folder: Path, n: int) -> None:
    """Simulate in two processes of PyTorch's loader, into a file of HDF5."""
    import torch
    from lampe.data import H5Dataset, JointLoader

    def simulator(theta: np.ndarray) -> np.ndarray:
        return walk(theta, np.random.default_rng(torch.randint(2**31, ()).item()))["x"]

    box = torch.distributions.Independent(torch.distributions.Uniform(torch.zeros(2), torch.ones(2)), 1)
    loader = JointLoader(box, simulator, batch_size=500, numpy=True, num_workers=2)
    H5Dataset.store(loader, folder / "train.h5", n)


def with_swyft(folder: Path, n: int) -> None:
    """Simulate into a store of swyft."""
    import swyft

    class Walk(swyft.Simulator):
        def build(self, graph: Any) -> None:
            rng = np.random.default_rng()
            theta = graph.node("theta", lambda: prior(rng)["theta"])
            graph.node("x", lambda theta: walk(theta, rng)["x"], theta)

    simulator = Walk()
    store = swyft.ZarrStore(str(folder / "train.zarr"))
    store.init(n, 500, *simulator.get_shapes_and_dtypes())
    store.simulate(simulator, batch_size=500)


def with_dasksim(folder: Path, n: int) -> None:
    """Simulate into a store."""
    dasksim.generate(
        dasksim.make_simulator([prior, walk]), folder / "train.zarr", n, seed=2025, chunk_size=500, progress=False
    )


WAYS = {
    "NumPy, np.savez": ("numpy", with_numpy),
    "joblib, np.savez": ("joblib", with_joblib),
    "joblib, a file for each 500": ("joblib", with_joblib_files),
    "sbi": ("sbi", with_sbi),
    "BayesFlow, sample": ("bayesflow", with_bayesflow),
    "BayesFlow, sample_parallel": ("bayesflow", with_bayesflow_parallel),
    "lampe": ("lampe", with_lampe),
    "swyft": ("swyft", with_swyft),
    "dasksim": ("dasksim", with_dasksim),
}


#: What a script would have imported at its top.
IMPORTS = {
    "numpy": ["numpy"],
    "joblib": ["joblib"],
    "sbi": ["sbi.inference", "sbi.utils"],
    "bayesflow": ["bayesflow"],
    "lampe": ["lampe.data"],
    "swyft": ["swyft"],
    "dasksim": ["dasksim"],
}


def readable(folder: Path) -> str:
    """Return how many samples can be read."""
    try:
        if (folder / "train.zarr").exists() and (folder / "train.zarr" / "_dasksim").exists():
            return f"{dasksim.open_dataset(folder / 'train.zarr', partial=True).sizes['batch']:,}"
        if (folder / "train.h5").exists():
            import h5py

            with h5py.File(folder / "train.h5") as file:
                return f"{int(np.asarray(file['x']).any(axis=1).sum()):,}"
        if (folder / "train.zarr").exists():
            import swyft

            return f"{int((swyft.ZarrStore(str(folder / 'train.zarr'))['x'][:] != 0).any(axis=1).sum()):,}"
        return f"{sum(len(np.load(file)['x']) for file in folder.glob('*.npz')):,}"
    except Exception as error:  # noqa: BLE001 - whatever a damaged file raises is the result
        return f"none: {type(error).__name__}"


def own_memory(tree: psutil.Process) -> tuple[list[psutil.Process], float]:
    """Return a process with its children, and the MiB that they take."""
    members, total = [tree], 0.0
    with contextlib.suppress(psutil.Error):
        members += tree.children(recursive=True)
    for member in members:
        with contextlib.suppress(psutil.Error):
            total += member.memory_full_info().pss / 2**20  # what is shared is split
    return members, total


def run(way: str, n: int, folder: Path, kill_after: float | None = None) -> tuple[float, float, float]:
    """Run one way in a process of its own; return its seconds, those of its processors, and its memory in MiB."""
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "-n", str(n)]
    with (folder.parent / f"{folder.name}.log").open("w+") as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            process.stdout.readline()  # the library is imported
            tree, start = psutil.Process(process.pid), time.perf_counter()
            before = peak = own_memory(tree)[1]
            busy = {process.pid: 0.0}
            busy_before = sum(tree.cpu_times()[:2])
            while process.poll() is None:
                members, memory = own_memory(tree)
                peak = max(peak, memory)
                for member in members:
                    with contextlib.suppress(psutil.Error):
                        busy[member.pid] = sum(member.cpu_times()[:2])
                if kill_after is not None and time.perf_counter() - start > kill_after:
                    for member in members:
                        with contextlib.suppress(psutil.Error):
                            member.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.02)
            seconds = time.perf_counter() - start
        log.seek(0)
        if kill_after is None and process.returncode:
            raise RuntimeError(log.read())
    if kill_after is not None and process.returncode == 0:
        raise RuntimeError("it ended before it was killed")
    return seconds, sum(busy.values()) - busy_before, peak - before


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.way:
        for module in IMPORTS[WAYS[arguments.way][0]]:
            importlib.import_module(module)
        print("imported", flush=True)
        WAYS[arguments.way][1](arguments.folder, arguments.n)
        return
    n = arguments.n
    print(f"{n:,} samples of {STEPS} float32 values, {os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    print("| way | version | seconds | of processors | MiB | left after a kill halfway |\n|---|---|---|---|---|---|")
    for way, (package, _) in WAYS.items():
        if importlib.util.find_spec(package) is None:
            print(f"| {way} | not installed | | | | |")
            continue
        version = dasksim.__version__ if package == "dasksim" else importlib.metadata.version(package)
        with tempfile.TemporaryDirectory() as work:
            first, second = Path(work, "whole"), Path(work, "killed")
            first.mkdir(), second.mkdir()
            try:
                seconds, busy, peak = run(way, n, first)
            except RuntimeError as error:
                print(f"| {way} | {version} | failed: {str(error).strip().splitlines()[-1]} | | | |")
                continue
            try:
                run(way, n, second, kill_after=seconds / 2)
                left = readable(second)
            except RuntimeError as error:
                left = f"not known: {error}"
            print(f"| {way} | {version} | {seconds:.1f} | {busy:.1f} | {peak:,.0f} | {left} |", flush=True)


if __name__ == "__main__":
    main()

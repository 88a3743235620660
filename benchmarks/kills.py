"""Kill the client, workers and the scheduler of a run at random moments; compare the store with an undisturbed one.

Each kill is a SIGKILL. What was killed is started again, as a queueing system would; the client runs the same call.
Prints a line for each run, and ends with an exit code other than 0 if a store differs.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

import dasksim

CLIENT = """
import sys
import numpy as np
import dasksim

def prior(rng):
    return {"theta": rng.normal(size=2)}

def simulate(theta, rng):
    path = theta + np.cumsum(rng.normal(size=(50, 2)), axis=0)
    return {"x": path, "n": int(rng.poisson(3))}

path, n_samples, chunk_size, scheduler = sys.argv[1:]
simulator = dasksim.make_simulator([prior, simulate])
dasksim.generate(
    simulator, path, int(n_samples), seed=1, sub_batch_size=50, chunk_size=int(chunk_size),
    scheduler=scheduler, progress=False,
)
"""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Machines:
    """A scheduler, two workers with nannies, and a client, each started again when it is gone."""

    def __init__(self, store: Path, n_chunks: int, chunk_size: int) -> None:
        self.store = store
        self.arguments = [str(store), str(n_chunks * chunk_size), str(chunk_size)]
        self.port = free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.is_complete = False

    def start_what_is_gone(self) -> None:
        """Start what does not run."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if self._is_gone("scheduler"):
            command = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port)]
            self.running["scheduler"] = subprocess.Popen([sys.executable, "-m", *command, "--no-dashboard"], **quiet)
        for name in ("worker-1", "worker-2"):
            if self._is_gone(name):
                command = ["distributed.cli.dask_worker", self.address, "--nthreads", "1", "--no-dashboard"]
                command += ["--local-directory", str(self.store.parent), "--death-timeout", "60"]
                self.running[name] = subprocess.Popen([sys.executable, "-m", *command], **quiet)
        if self._is_gone("client") and not self.is_complete:
            before = self.running.get("client")
            if before is not None and before.returncode == 0:
                self.is_complete = True
                return
            command = [sys.executable, "-c", CLIENT, *self.arguments, self.address]
            self.running["client"] = subprocess.Popen(command, **quiet)

    def _is_gone(self, name: str) -> bool:
        return name not in self.running or self.running[name].poll() is not None

    def kill(self, role: str) -> bool:
        """Kill one, at once; a worker is the process that computes, below its nanny."""
        name = random.choice(["worker-1", "worker-2"]) if role == "worker" else role
        process = self.running.get(name)
        if process is None or process.poll() is not None:
            return False
        target = psutil.Process(process.pid)
        if name.startswith("worker"):
            computing = [child for child in target.children() if "resource_tracker" not in " ".join(child.cmdline())]
            if not computing:
                return False
            target = computing[0]
        target.send_signal(signal.SIGKILL)
        return True

    def stop(self) -> None:
        """End all."""
        for process in self.running.values():
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
            process.wait()


def disturbed(store: Path, n_chunks: int, chunk_size: int, n_kills: int) -> tuple[Counter[str], float]:
    """Make a store while killing; return how often what was killed, and the seconds it took."""
    start = time.perf_counter()
    machines = Machines(store, n_chunks, chunk_size)
    done: Counter[str] = Counter()
    began, next_kill = 0.0, float("inf")
    try:
        while not machines.is_complete:
            machines.start_what_is_gone()
            if not began and (store / "_dasksim" / "receipts" / "zarr.json").exists():
                began = time.perf_counter()
                next_kill = began + random.uniform(0, 2)
            if time.perf_counter() > next_kill and done.total() < n_kills:
                role = random.choice(["client", "worker", "scheduler"])
                if machines.kill(role):
                    done[role] += 1
                    next_kill = time.perf_counter() + random.uniform(0.1, 6)
            if time.perf_counter() - start > 600:
                raise TimeoutError(f"{store} is not complete after ten minutes")
            time.sleep(0.02)
    finally:
        machines.stop()
    return done, time.perf_counter() - start


def content(store: Path) -> dict[str, bytes]:
    """Return the bytes of all shards of a store, without files that a killed writer had not finished."""
    files = (file for name in ("theta", "x", "n") for file in (store / name / "c").rglob("*"))
    return {str(file.relative_to(store)): file.read_bytes() for file in files if _is_shard(file)}


def _is_shard(file: Path) -> bool:
    return file.is_file() and not file.name.endswith(".partial")


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-a-run", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--chunk-size", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="of the moments of the kills")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    total: Counter[str] = Counter()
    n_different = n_runs = 0
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "alone.zarr"
        start = time.perf_counter()
        command = [sys.executable, "-c", CLIENT, str(alone), str(arguments.chunks * arguments.chunk_size)]
        subprocess.run([*command, str(arguments.chunk_size), "processes"], check=True)
        print(f"undisturbed, 2 local processes: {time.perf_counter() - start:.1f} s, {arguments.chunks} chunks")
        expected = content(alone)
        while total.total() < arguments.kills:
            store = Path(folder) / f"run-{n_runs}.zarr"
            done, seconds = disturbed(store, arguments.chunks, arguments.chunk_size, arguments.kills_a_run)
            found, check = content(store), dasksim.verify(store, progress=False)
            is_same = found == expected and check.is_good
            n_different += not is_same
            if not is_same:
                names = sorted(found.keys() ^ expected.keys())
                print(
                    check, "other bytes:", [n for n in expected if found.get(n) != expected[n]], "other files:", names
                )
            n_runs += 1
            total += done
            print(f"run {n_runs}: {dict(done)}, {seconds:.1f} s, {'identical' if is_same else 'DIFFERENT'}", flush=True)
            for file in sorted(store.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
    print(
        f"{total.total()} kills ({dict(total)}) in {n_runs} runs: {n_different} stores differ from the undisturbed one"
    )
    return int(n_different > 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())

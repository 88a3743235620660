"""Do to a run what a night may do to it, and print a table: what the user saw, what was lost, and the time to recover.

Everything is done for real: processes are killed, files damaged, a small file system filled (as root; else a limit on
the size of files stands in). At the end of each line the store is compared with an undisturbed one, array by array.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from kills import Machines, content

import dasksim

N_CHUNKS, CHUNK = 60, 250
HOW: dict[str, Any] = {"seed": 1, "sub_batch_size": 50, "chunk_size": CHUNK, "progress": False}


def prior(rng: np.random.Generator) -> dict[str, Any]:
    """As in the client of kills.py."""
    return {"theta": rng.normal(size=2)}


def simulate(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
    """As in the client of kills.py."""
    path = theta + np.cumsum(rng.normal(size=(50, 2)), axis=0)
    return {"x": path, "n": int(rng.poisson(3))}


simulator = dasksim.make_simulator([prior, simulate])


def make(store: Path, **how: Any) -> Any:
    """Make or continue a store in this process."""
    return dasksim.generate(simulator, store, N_CHUNKS * CHUNK, **{**HOW, "scheduler": "synchronous", **how})


def n_complete(store: Path) -> int:
    """Return how many chunks are complete."""
    return dasksim.status(store).n_complete


def seen(action: Callable[[], Any]) -> str:
    """Return what the user sees of an action that should fail."""
    try:
        action()
    except BaseException as error:  # noqa: BLE001
        note = "; ".join(getattr(error, "__notes__", [])[-2:]).replace("\n", " ")
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}" + (
            f" [{note}]" if note else ""
        )
    return "nothing: the run went on by itself"


class Case:
    """One line of the table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "s.zarr"
        self.saw = self.lost = ""
        self.seconds = 0.0

    @contextlib.contextmanager
    def recovery(self) -> Iterator[None]:
        """Time how long it takes until the store is complete."""
        start = time.perf_counter()
        yield
        self.seconds = time.perf_counter() - start

    def resume(self, **how: Any) -> None:
        """Run the same call again."""
        with self.recovery():
            make(self.store, **how)


def killed(case: Case, roles: list[str]) -> None:
    """Kill parts of a cluster in the middle of a run; what was killed is started again."""
    machines = Machines(case.store, N_CHUNKS, CHUNK)
    try:
        while not (case.store / "_dasksim/receipts/zarr.json").exists() or n_complete(case.store) < N_CHUNKS // 3:
            machines.start_what_is_gone()
            time.sleep(0.02)
        before = n_complete(case.store)
        for role in roles:
            while not machines.kill(role):
                time.sleep(0.02)
        with case.recovery():
            after = n_complete(case.store)
            while not machines.is_complete:
                machines.start_what_is_gone()
                time.sleep(0.02)
    finally:
        machines.stop()
    case.saw = (
        "client starts again" if {"client", "scheduler"} & set(roles) else "a warning in the log; the run went on"
    )
    case.lost = f"chunks in flight ({before} complete before, {after} after)"


def worker_over_memory(case: Case) -> None:
    """Let a worker go over its memory limit, so that its nanny ends it."""
    from distributed import Client, LocalCluster

    def hungry(theta: Any) -> dict[str, Any]:
        block = np.ones((1, 200_000_000)) if theta[0] > 2 else np.zeros(1)
        time.sleep(0.5 * (theta[0] > 2))
        return {"y": float(block[0, 0]) if block.ndim == 2 else 0.0}

    bad = dasksim.make_simulator([prior, hungry])
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="600MB", dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        case.saw = seen(lambda: dasksim.generate(bad, case.store, 2000, **HOW, scheduler=client, retries=0))
    case.lost = f"nothing: {n_complete(case.store)} complete chunks stay"
    shutil.rmtree(case.store)
    case.resume()


def full_disk(case: Case) -> None:
    """Fill a file system of 6 MB, then make it larger."""
    disk = case.folder / "disk"
    disk.mkdir()
    case.store = disk / "s.zarr"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=False).returncode:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        case.saw = seen(lambda: make(case.store))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    else:
        case.saw = seen(lambda: make(case.store))
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
    case.lost = f"nothing: {n_complete(case.store)} complete chunks stay"
    case.resume()


def read_only(case: Case) -> None:
    """Continue a store that cannot be written to."""
    make(case.store, part=(0, 3))
    disk = case.folder / "mounted"
    disk.mkdir()
    done = subprocess.run(["mount", "--bind", case.store, disk], check=False).returncode == 0
    done = done and subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=False).returncode == 0
    if done:
        case.saw = seen(lambda: make(disk))
        subprocess.run(["umount", disk], check=True)
    else:
        case.saw = "not done: no file system could be mounted"
    case.lost = f"nothing: {n_complete(case.store)} complete chunks stay"
    case.resume()


def make_with(other: dasksim.Simulator, store: Path, **how: Any) -> Any:
    """Make a store with another simulator."""
    return dasksim.generate(other, store, N_CHUNKS * CHUNK, **{**HOW, "scheduler": "synchronous", **how})


def damaged(case: Case, damage: Callable[[Path], None], file: str) -> None:
    """Damage a file of a complete store, find it by verify, and mend it."""
    make(case.store)
    damage(case.store / file)
    if not (case.store / file).exists() and "receipts" in file:
        case.saw = seen(lambda: dasksim.open_dataset(case.store))
    else:
        case.saw = "verify: " + "; ".join(
            f"chunk {c}: {p[0][:110]}" for c, p in dasksim.verify(case.store).problems.items()
        )
    case.lost = "one chunk"
    case.resume(repair=True)


def flip(file: Path) -> None:
    """Flip one bit."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def newer_format(case: Case) -> None:
    """Open a store of a newer format."""
    make(case.store)
    root = (case.store / "zarr.json").read_text()
    (case.store / "zarr.json").write_text(root.replace('\\"format\\": 1', '\\"format\\": 2'))
    case.saw, case.lost = seen(lambda: dasksim.open_dataset(case.store)), "nothing; nothing is touched"
    (case.store / "zarr.json").write_text(root)
    case.resume()


def two_clients(case: Case) -> None:
    """Generate one store from two processes at once."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import bad_weather as b, pathlib; "
    code += f"b.make(pathlib.Path({str(case.store)!r}))"
    with case.recovery():
        both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
        codes = [process.wait() for process in both]
    case.saw, case.lost = f"nothing; both end with exit codes {codes}", "nothing: some chunks were made twice"


def one_in_ten_thousand(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Raise an exception at one sample in ten thousand."""
    if abs(theta[0]) > 3.89:
        raise RuntimeError("solver did not converge")
    return simulate(theta, rng)


def raises(case: Case) -> None:
    """Run a simulator that raises an exception at one sample in 10 000."""
    bad = dasksim.make_simulator({"prior": prior, "simulate": one_in_ten_thousand})
    case.saw = seen(lambda: make_with(bad, case.store))
    kept = n_complete(case.store)
    with case.recovery():
        ds = make_with(bad, case.store, on_error="mask")
    case.lost = f"nothing: {kept} chunks stay; with mask {int((~ds.valid).sum())} of {ds.sizes['batch']} samples"
    shutil.rmtree(case.store)
    make(case.store)


def hanging(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Hang at some samples."""
    if theta[0] > 3.7:
        time.sleep(1e9)
    return simulate(theta, rng)


def hangs(case: Case) -> None:
    """Run a simulator that hangs."""
    bad = dasksim.make_simulator({"prior": prior, "simulate": hanging})
    case.saw = seen(lambda: make_with(bad, case.store, timeout=1))
    with case.recovery():
        ds = make_with(bad, case.store, timeout=1, on_error="mask")
    case.lost = f"with mask {int((~ds.valid).sum())} of {ds.sizes['batch']} samples, in sub-batches of 50"
    shutil.rmtree(case.store)
    make(case.store)


def nan(case: Case) -> None:
    """Run a simulator that returns NaN."""

    def sometimes(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": float(np.sqrt(theta[0] + 2.5)) if theta[0] > -2.5 else float("nan")}

    bad = dasksim.make_simulator({"prior": prior, "simulate": sometimes})
    case.saw = seen(lambda: make_with(bad, case.store, on_nonfinite="raise"))
    with case.recovery():
        ds = make_with(bad, case.store, on_nonfinite="mask")
    case.lost = f"with mask {int((~ds.valid).sum())} of {ds.sizes['batch']} samples"
    shutil.rmtree(case.store)
    make(case.store)


def allocates(case: Case) -> None:
    """Run a simulator that allocates 10 GB, where there are 4."""

    def large(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        scratch = np.ones(1_250_000_000) if theta[0] > 3.5 else np.ones(1)
        return {"x": float(scratch[0] + rng.normal())}

    bad = dasksim.make_simulator({"prior": prior, "simulate": large})
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 4_000_000_000, limits[1]))
    try:
        case.saw = seen(lambda: make_with(bad, case.store))
        with case.recovery():
            ds = make_with(bad, case.store, on_error="mask")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    case.lost = f"with mask {int((~ds.valid).sum())} of {ds.sizes['batch']} samples"
    shutil.rmtree(case.store)
    make(case.store)


def clock(case: Case) -> None:
    """Have the clock jump a day forth and back while a run writes."""
    real, count = time.time, [0]

    def jumping() -> float:
        count[0] += 1
        return real() + (86_400 if count[0] % 2 else -86_400)

    time.time = jumping
    try:
        with case.recovery():
            make(case.store)
    finally:
        time.time = real
    case.saw, case.lost = f"nothing; time.time() was asked {count[0]} times", "nothing"


def odd_path(case: Case) -> None:
    """Use a path with spaces and letters that are not ASCII."""
    case.store = case.folder / "Läufe der Nacht, ночь 夜" / "train set.zarr"
    command = [sys.executable, "-m", "dasksim", "generate", f"{__file__}:simulator", str(case.store)]
    command += ["-n", str(N_CHUNKS * CHUNK), "--seed", "1", "--sub-batch-size", "50", "--chunk-size", str(CHUNK)]
    with case.recovery():
        done = subprocess.run([*command, "--no-progress"], capture_output=True, text=True, check=False)
    case.saw, case.lost = f"exit code {done.returncode}", "nothing"


CASES: dict[str, Callable[[Case], None]] = {
    "SIGKILL of the client": lambda case: killed(case, ["client"]),
    "SIGKILL of a worker": lambda case: killed(case, ["worker"]),
    "SIGKILL of all workers": lambda case: killed(case, ["worker-1", "worker-2"]),
    "SIGKILL of the scheduler": lambda case: killed(case, ["scheduler"]),
    "a worker over its memory limit": worker_over_memory,
    "a full disk": full_disk,
    "a read-only store": read_only,
    "a truncated shard": lambda case: damaged(case, lambda file: os.truncate(file, 1000), "x/c/7/0/0"),
    "a flipped bit": lambda case: damaged(case, flip, "x/c/7/0/0"),
    "a deleted receipt": lambda case: damaged(case, Path.unlink, "_dasksim/receipts/c.7.0"),
    "a deleted shard": lambda case: damaged(case, Path.unlink, "theta/c/7/0"),
    "a store of a newer format": newer_format,
    "two clients at once": two_clients,
    "an exception at 1 sample in 10 000": raises,
    "a simulator that hangs": hangs,
    "a simulator that returns NaN": nan,
    "a simulator that allocates 10 GB": allocates,
    "clock changes": clock,
    "spaces and non-ASCII in the path": odd_path,
}


def main() -> int:
    """Run and print."""
    only = sys.argv[1:]
    n_bad = 0
    with tempfile.TemporaryDirectory() as name:
        make(Path(name) / "alone.zarr")
        expected = content(Path(name) / "alone.zarr")
        print("| what | what the user saw | lost | recovered in | bits |\n|---|---|---|---|---|", flush=True)
        for what, do in CASES.items():
            if only and not any(word in what for word in only):
                continue
            folder = Path(name) / "case"
            folder.mkdir()
            case = Case(folder)
            try:
                do(case)
                bits = "identical" if content(case.store) == expected else "DIFFERENT"
            except Exception:  # noqa: BLE001
                traceback.print_exc()
                bits = "FAILED"
            n_bad += bits != "identical"
            print(f"| {what} | {case.saw} | {case.lost} | {case.seconds:.1f} s | {bits} |", flush=True)
            subprocess.run(["umount", folder / "disk"], check=False, capture_output=True)
            shutil.rmtree(folder)
    return int(n_bad > 0)


if __name__ == "__main__":
    sys.exit(main())

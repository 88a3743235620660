"""Worker processes that are kept for the next run, and started only where there is work for them."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask.system import CPU_COUNT

import dasksim
from dasksim._execution import processes
from dasksim._execution.processes import HereAtFirst, WorkerProcesses
from dasksim._execution.starting import starting

OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 2, "chunk_size": 2, "audit": False, "progress": False}


def who(rng: np.random.Generator) -> dict[str, int]:
    """Tell the process, after a while, so that all of them get something to do."""
    time.sleep(0.02)
    return {"pid": os.getpid()}


def pids(path: Path, simulator: Any = who, n: int = 16, **options: Any) -> set[int]:
    """Return which processes have made a store."""
    simulator = dasksim.make_simulator(simulator)
    options = {**OPTIONS, "scheduler": "processes", "overwrite": True, **options}
    return set(dasksim.generate(simulator, path, n, **options)["pid"].values.tolist())


def test_workers_serve_the_next_run(tmp_path: Path) -> None:
    first = pids(tmp_path / "a.zarr")
    assert os.getpid() not in first
    assert len(first) <= CPU_COUNT
    assert len(first | pids(tmp_path / "b.zarr")) <= CPU_COUNT


def test_workers_are_started_anew_in_other_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [pids(tmp_path / "s.zarr")]
    monkeypatch.setenv("DASKSIM_TEST", "1")
    found.append(pids(tmp_path / "s.zarr"))
    monkeypatch.chdir(tmp_path)
    found.append(pids(tmp_path / "s.zarr"))
    monkeypatch.syspath_prepend(str(tmp_path))
    found.append(pids(tmp_path / "s.zarr"))
    assert len(set.union(*found)) == sum(map(len, found))


def test_a_folder_that_was_removed_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert pids(tmp_path / "s.zarr", n=4, scheduler=None)


def test_a_module_that_was_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kept_workers_module.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for value in (1, 2):
        file.write_text(f"def draw(rng):\n    return {{'pid': {value}}}\n")
        os.utime(file, (value, value))
        sys.modules.pop("kept_workers_module", None)
        import kept_workers_module  # type: ignore[import-not-found]

        assert pids(tmp_path / "s.zarr", kept_workers_module.draw) == {value}
    del sys.modules["kept_workers_module"]


def test_workers_that_were_killed_while_nobody_used_them(tmp_path: Path) -> None:
    first = pids(tmp_path / "a.zarr")
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    second = pids(tmp_path / "b.zarr", retries=0)
    assert second
    assert not first & second


def test_a_failure_leaves_the_workers_and_nothing_that_writes(tmp_path: Path) -> None:
    def fails(rng: np.random.Generator) -> dict[str, int]:
        time.sleep(0.05)
        if rng.random() < 0.2:
            raise ValueError("now and then")
        return {"pid": os.getpid()}

    first = pids(tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="now and then"):
        pids(tmp_path / "b.zarr", fails, 64)
    before = dasksim.status(tmp_path / "b.zarr").n_complete
    assert len(first | pids(tmp_path / "a.zarr")) <= CPU_COUNT
    assert dasksim.status(tmp_path / "b.zarr").n_complete == before < 32


def test_runs_at_the_same_time_have_workers_of_their_own(tmp_path: Path) -> None:
    found: list[set[int]] = []
    threads = [threading.Thread(target=lambda i=i: found.append(pids(tmp_path / f"{i}.zarr"))) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert not found[0] & found[1]


def test_large_jobs_go_to_workers_of_their_own(tmp_path: Path) -> None:
    table = np.zeros(1 << 18)

    def large(rng: np.random.Generator) -> dict[str, Any]:
        return {"pid": os.getpid() + int(table[0])}

    kept = pids(tmp_path / "a.zarr")
    assert not kept & pids(tmp_path / "b.zarr", large)
    assert len(kept | pids(tmp_path / "a.zarr")) <= CPU_COUNT


def test_little_work_is_done_here(tmp_path: Path) -> None:
    def quick(rng: np.random.Generator) -> dict[str, Any]:
        return {"pid": os.getpid()}

    assert pids(tmp_path / "s.zarr", quick, 4, scheduler=None) == {os.getpid()}


def test_much_work_is_not(tmp_path: Path) -> None:
    def slow(rng: np.random.Generator) -> dict[str, Any]:
        time.sleep(0.2)
        return {"pid": os.getpid()}

    assert os.getpid() not in pids(tmp_path / "s.zarr", slow, 20, scheduler=None)


def test_a_batched_function_that_cannot_be_sent_runs_in_threads(tmp_path: Path) -> None:
    lock = threading.Lock()

    def draw(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
        with lock:
            return {"pid": np.full(batch_shape, os.getpid())}

    simulator = dasksim.make_simulator(draw, is_batched=True)
    assert pids(tmp_path / "s.zarr", simulator, scheduler=None) == {os.getpid()}


class Given:
    """Stands for worker processes, to see when they would be used."""

    def __init__(self, *, is_there: bool) -> None:
        self._is_there = is_there

    def is_there(self) -> bool:
        return self._is_there


@pytest.mark.parametrize(
    ("n_chunks", "seconds", "is_there", "is_here"),
    [
        (1, 1000.0, True, True),  # one chunk is not made sooner by two processes
        (1000, None, True, True),  # nothing is known before a first chunk
        (1000, 1e-6, True, True),
        (1000, 1.0, False, False),
        (4, 0.3, False, True),
        (4, 0.3, True, False),
    ],
)
def test_when_workers_are_worth_their_start(
    n_chunks: int, seconds: float | None, is_there: bool, is_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "CPU_COUNT", 2)
    given: Any = Given(is_there=is_there)

    def job(chunk: int, conditions: Any) -> int:
        return chunk

    pool = HereAtFirst(job, given, n_chunks, seconds)
    assert pool.is_here() == is_here
    if is_here:
        assert pool.submit(0, {}, 0).result() == 0


def test_a_fork_has_workers_of_its_own(tmp_path: Path) -> None:
    kept = pids(tmp_path / "a.zarr")
    child = os.fork()
    if child == 0:
        ours = not processes._kept.is_there()
        os._exit(0 if ours else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(kept | pids(tmp_path / "a.zarr")) <= CPU_COUNT


def test_nothing_is_started_before_a_chunk(tmp_path: Path) -> None:
    pool = WorkerProcesses(lambda chunk, conditions: chunk, is_kept=False)
    assert not pool.is_there()
    pool.shutdown()


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_waits_until_processes_are_started_or_comes_again(times: int) -> None:
    """Another thread takes the signal where this one waits with it, and Python handles it here all the same."""
    handler, done = signal.getsignal(signal.SIGINT), []

    def start() -> None:
        with starting():
            for _ in range(times):
                interrupting = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
                interrupting.start()
                interrupting.join()
                for _ in range(100):
                    time.sleep(0.001)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        start()
    assert len(done) == 2 - times
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with starting():
        pass

"""Clusters whose workers come, go and die, and worker processes that die."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import array_bytes
from distributed import Client, KilledWorker, LocalCluster

from dasksim import ArgumentError, ArgumentTypeError, Simulator, generate, make_simulator, status

# 40 sub-batches of 10 samples, one a chunk.
N = 400
SIZES: dict[str, Any] = {"seed": 1, "sub_batch_size": 10, "chunk_size": 10}
NUMBERS: dict[str, Any] = {"i": np.arange(float(N))}


def simulator_that(trouble: Callable[[int], Any], seconds: float = 0.0) -> Simulator:
    """A simulator that calls `trouble` with each sample's number, and takes its time for each chunk."""

    def prior(i: float, rng: np.random.Generator) -> dict[str, Any]:
        trouble(int(i))
        if i % 10 == 0:
            time.sleep(seconds)
        return {"theta": rng.normal()}

    def likelihood(theta: float, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(theta, size=3)}

    return make_simulator([prior, likelihood])


def nothing(i: int) -> None:
    """Do nothing."""


def same(path: Path, folder: Path) -> bool:
    """Whether a store has the bytes of an undisturbed run, but for its record, which has digests of functions."""
    well = folder / "undisturbed.zarr"
    generate(simulator_that(nothing), well, N, conditions=NUMBERS, scheduler="synchronous", **SIZES)
    return {**array_bytes(path), "zarr.json": b""} == {**array_bytes(well), "zarr.json": b""}


def killer(folder: Path, samples: list[int], n_times: int) -> Callable[[int], None]:
    """Return what kills its process at some samples, each some times."""

    def kill(i: int) -> None:
        if i in samples:
            for k in range(n_times):
                flag = str(folder / f"killed-{i}-{k}")
                if not os.path.exists(flag):  # noqa: PTH110
                    os.close(os.open(flag, os.O_CREAT))
                    os.kill(os.getpid(), signal.SIGKILL)

    return kill


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


@contextmanager
def local_cluster(n_workers: int, **options: Any) -> Iterator[Client]:
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0", **options}
    with LocalCluster(n_workers=n_workers, **options) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


class Processes:
    """A scheduler and workers as processes of their own, without nannies."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / f"scheduler-{time.time_ns()}.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--no-dashboard", "--no-show")
        self.workers: list[subprocess.Popen[bytes]] = []
        while not self.file.exists() or not self.file.read_text():
            time.sleep(0.05)

    def _start(self, what: str, *options: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "distributed.cli.dask_" + what, "--scheduler-file", str(self.file), *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)

    def add_worker(self) -> None:
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.file.parent))
        self.workers.append(self._start("worker", *options))

    def client(self) -> Client:
        return Client(scheduler_file=str(self.file), set_as_default=False)

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    started.close()


def wait_for(what: Callable[[], Any]) -> None:
    for _ in range(6000):  # so that a test that fails ends
        if what():
            return
        time.sleep(0.01)


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def n_receipts(path: Path) -> int:
    return len(list((path / "_dasksim" / "receipts").glob("c.*.0")))


# worker processes


def test_killed_worker_processes_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "s.zarr"
    simulator = simulator_that(killer(tmp_path, [5, 200, 395], 1))
    generate(simulator, path, N, conditions=NUMBERS, scheduler="processes", **SIZES)
    assert len(list(tmp_path.glob("killed-*"))) == 3
    assert same(path, tmp_path)
    assert "chunk 20 was lost with a worker; try 2 of 4" in caplog.text


def test_chunk_that_kills_each_of_its_processes_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    simulator = simulator_that(killer(tmp_path, [200], 100))
    with pytest.raises(BrokenProcessPool, match="terminated") as caught:
        generate(simulator, path, N, conditions=NUMBERS, scheduler="processes", retries=1, **SIZES)
    assert len(list(tmp_path.glob("killed-*"))) == 2
    assert "20" in notes(caught.value).partition(" in flight, 2 of 2 times")[0]
    assert "memory ran out. A chunk_size below 10 needs less" in notes(caught.value)
    assert f"{n_receipts(path)} chunks are complete and kept; run generate again" in notes(caught.value)


def test_pool_of_a_function_that_breaks_is_not_tried_again(tmp_path: Path) -> None:
    def trouble(i: int) -> None:
        if i == 200:
            raise BrokenProcessPool("a pool of my own")

    for scheduler in ("threads", "processes"):
        with pytest.raises(BrokenProcessPool, match="of my own") as caught:
            generate(simulator_that(trouble), tmp_path / scheduler, N, conditions=NUMBERS, scheduler=scheduler, **SIZES)
        assert "raised by stage 'prior' at sample 200" in notes(caught.value)
        assert "A worker process died" not in notes(caught.value)


@pytest.mark.parametrize("retries", [-1, 1.5, True, None])
def test_wrong_retries_are_refused(retries: Any, tmp_path: Path) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=r"retries must be .*>= 0; got"):
        generate(simulator_that(nothing), tmp_path / "s.zarr", N, conditions=NUMBERS, retries=retries, **SIZES)


# clusters


def test_killed_workers_of_a_cluster_are_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    simulator = simulator_that(killer(tmp_path, [5, 200, 395], 1))
    with local_cluster(2) as client:
        generate(simulator, path, N, conditions=NUMBERS, scheduler=client, **SIZES)
    assert len(list(tmp_path.glob("killed-*"))) == 3
    assert same(path, tmp_path)


def test_all_workers_killed_at_once_are_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with local_cluster(2) as client:

        def kill() -> None:
            wait_for(lambda: n_receipts(path) > 10)
            for pid in client.run(os.getpid).values():
                os.kill(pid, signal.SIGKILL)

        with meanwhile(kill):
            generate(simulator_that(nothing, 0.1), path, N, conditions=NUMBERS, scheduler=client, **SIZES)
    assert same(path, tmp_path)


def test_chunk_that_kills_each_of_its_workers_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    simulator = simulator_that(killer(tmp_path, [200], 100))
    with local_cluster(2) as client, pytest.raises(KilledWorker, match="all those workers died") as caught:
        generate(simulator, path, N, conditions=NUMBERS, scheduler=client, **SIZES)
    assert "in flight, 4 of 4 times" in notes(caught.value)
    assert f"{n_receipts(path)} chunks are complete and kept; run generate again" in notes(caught.value)


def test_cluster_may_begin_and_go_on_without_workers(
    processes: Processes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.zarr"

    def workers() -> None:
        wait_for(lambda: "the cluster has no worker; waiting for one" in caplog.text)
        caplog.clear()
        processes.add_worker()
        wait_for(lambda: n_receipts(path) > 10)
        processes.workers[0].kill()
        wait_for(lambda: "the cluster has no worker; waiting for one" in caplog.text)
        processes.add_worker()

    with processes.client() as client, meanwhile(workers), caplog.at_level(logging.WARNING, "dasksim"):
        generate(simulator_that(nothing, 0.1), path, N, conditions=NUMBERS, scheduler=client, **SIZES)
    assert same(path, tmp_path)


def test_killed_scheduler_is_an_error_and_another_cluster_resumes(processes: Processes, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    processes.add_worker()

    def kill() -> None:
        wait_for(lambda: n_receipts(path) > 10)
        processes.scheduler.kill()

    with (
        processes.client() as client,
        meanwhile(kill),
        pytest.raises(ConnectionError, match="the connection to the cluster's scheduler is lost") as caught,
    ):
        generate(simulator_that(nothing, 0.1), path, N, conditions=NUMBERS, scheduler=client, **SIZES)
    assert "chunks are complete and kept; run generate again with the same arguments" in notes(caught.value)
    assert not status(path).is_complete
    with local_cluster(1) as client:
        generate(simulator_that(nothing, 0.1), path, N, conditions=NUMBERS, scheduler=client, **SIZES)
    assert same(path, tmp_path)

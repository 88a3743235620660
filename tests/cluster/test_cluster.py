"""Clusters whose workers come, go and die, and worker processes that die."""

import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bits import array_bytes
from dask.utils import key_split
from distributed import Client, KilledWorker, LocalCluster
from processes import ended, wait_for

from dasksim import ArgumentError, ArgumentTypeError, Simulator, generate, make_simulator, open_dataset, status
from dasksim._core.telling import counted
from dasksim._execution.jobs import SentJob
from dasksim._execution.run import _task_name
from dasksim.cli import FAILED, OK, main
from dasksim.cluster import gpu_cluster

pytestmark = pytest.mark.slow  # clusters are started and killed; test_generate runs on one in every case

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
        self.scheduler = self._start("scheduler", "--port", "0", "--no-dashboard")
        self.workers: list[subprocess.Popen[bytes]] = []
        while not self.file.exists() or not self.file.read_text():
            time.sleep(0.05)

    def _start(self, what: str, *options: str, path: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "distributed.cli.dask_" + what, "--scheduler-file", str(self.file), *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [*path, *sys.path]))}
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, cwd=self.file.parent)

    def add_worker(self, first_on_path: Sequence[str] = ()) -> None:
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.file.parent))
        self.workers.append(self._start("worker", *options, path=first_on_path))

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


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do some work in a thread, whose error is raised when the block ends."""
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(work)
        try:
            yield
        finally:
            done.result()


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
    assert f"kept {counted(n_receipts(path), 'complete chunk')};" in notes(caught.value)


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
    simulator = simulator_that(killer(tmp_path, [5, 200], 1))
    with local_cluster(2) as client:
        generate(simulator, path, N, conditions=NUMBERS, scheduler=client, **SIZES)
    assert len(list(tmp_path.glob("killed-*"))) == 2
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
    assert f"kept {counted(n_receipts(path), 'complete chunk')};" in notes(caught.value)


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


def test_adaptive_cluster_starts_workers(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with local_cluster(0) as client:
        assert client.cluster is not None
        client.cluster.adapt(minimum=0, maximum=2, interval="100ms")
        generate(simulator_that(nothing, 0.2), path, N, conditions=NUMBERS, scheduler=client, **SIZES)
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
        generate(simulator_that(nothing, 0.3), path, N, conditions=NUMBERS, scheduler=client, **SIZES)
    assert "run generate again with the same arguments" in notes(caught.value)
    assert not status(path).is_complete
    with local_cluster(1) as client:
        generate(simulator_that(nothing, 0.3), path, N, conditions=NUMBERS, scheduler=client, **SIZES)
    assert same(path, tmp_path)


def test_poisoned_memory_names_the_chunk_size(tmp_path: Path) -> None:
    def hoard(i: int) -> None:
        if i == 200:
            hoarded = [np.ones(1 << 20) for _ in range(60)]  # 480 MiB
            time.sleep(5)
            assert hoarded

    path = tmp_path / "s.zarr"
    with local_cluster(1, memory_limit="400MB") as client, pytest.raises(KilledWorker, match="died") as caught:
        generate(simulator_that(hoard), path, N, conditions=NUMBERS, scheduler=client, **SIZES)
    assert "memory ran out. A chunk_size below 10 needs less" in notes(caught.value)


def test_chunk_beyond_the_memory_of_a_worker_is_refused_before_work(tmp_path: Path) -> None:
    def wide(batch_shape: tuple[int, ...]) -> dict[str, Any]:
        return {"x": np.zeros((*batch_shape, 1000))}

    path = tmp_path / "s.zarr"
    message = (
        "chunk_size=1000000 needs about 32.0 GB in each thread of a worker, but the smallest worker of the cluster has "
        "0.2 GB for each; give a chunk_size of at most 6200"
    )
    with local_cluster(1, memory_limit="400MB", threads_per_worker=2) as client:
        with pytest.raises(ArgumentError, match=message):
            generate(
                make_simulator(wide, is_batched=True),
                path,
                10**6,
                sub_batch_size=100,
                chunk_size=10**6,
                scheduler=client,
            )
        assert not path.exists()


def tasks_of(client: Client) -> list[Any]:
    """Return the keys of the tasks that a scheduler knows."""

    def keys(dask_scheduler: Any) -> list[Any]:
        return list(dask_scheduler.tasks)

    return client.run_on_scheduler(keys)  # type: ignore[no-any-return]


def test_window_is_bounded_and_tasks_tell_stages_and_chunks(two_workers: Client, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    found: list[list[Any]] = []

    def watch() -> None:
        while not found or n_receipts(path) < N // 10:
            found.append(tasks_of(two_workers))
            time.sleep(0.01)

    with meanwhile(watch):
        generate(simulator_that(nothing, 0.2), path, N, conditions=NUMBERS, scheduler=two_workers, **SIZES)
    # an audit has tasks of its own
    chunks = [[key for key in keys if isinstance(key, tuple) and key_split(key) != "audit"] for keys in found]
    # a receipt that is in is no longer in flight, but its task may be known a little longer
    assert 4 <= max(map(len, chunks)) <= 12
    assert {key_split(key) for keys in chunks for key in keys} == {"prior+likelihood"}
    assert len({key[1] for keys in chunks for key in keys} - set(range(N // 10))) == 0
    assert len({key[1] for keys in chunks for key in keys}) > N // 20
    wait_for(lambda: not tasks_of(two_workers))


def test_lazy_tasks_are_named_after_stages(two_workers: Client) -> None:
    def prefixes(dask_scheduler: Any) -> set[str]:
        return set(dask_scheduler.task_prefixes)

    lazy = simulator_that(nothing).sample(N, i=NUMBERS["i"])
    two_workers.gather(two_workers.compute(lazy))
    # Dask joins the name of a stage to that of a variable which it fuses with
    assert {name.partition("-")[0] for name in two_workers.run_on_scheduler(prefixes)} >= {"prior", "likelihood"}


def test_name_of_a_task_stays_short() -> None:
    names = ["_first", "<lambda>", "third-part", "fourth", "fifth"]
    steps = [SimpleNamespace(is_run=True, stage=SimpleNamespace(name=name)) for name in names]

    def name_of(n: int) -> str:
        return _task_name(SimpleNamespace(steps=steps[:n]))  # type: ignore[arg-type]

    assert name_of(4) == "first+lambda+third_part+fourth"
    assert name_of(5) == "first+lambda+third_part+2 more"
    assert [key_split((f"{name_of(n)}-0123abcd", 7, 0)) for n in (4, 5)] == [name_of(4), name_of(5)]


SCRIPT = """
import sys, time
import numpy as np
from distributed import Client, LocalCluster
import dasksim

def prior(rng):
    return {"theta": rng.normal()}

def likelihood(theta, rng):
    time.sleep(0.03)
    return {"x": rng.normal(theta)}

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        try:
            dasksim.generate(dasksim.make_simulator([prior, likelihood]), "s.zarr", 400, seed=1, chunk_size=10,
                             sub_batch_size=10)
        except KeyboardInterrupt as error:
            print(*error.__notes__)
            for _ in range(300):  # a worker finishes the chunk that it has begun
                n_tasks = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
                if n_tasks == 0:
                    break
                time.sleep(0.1)
            print("tasks:", n_tasks)
"""


def test_interrupted_run_on_a_cluster_drops_its_tasks_and_is_resumed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(path: Path, interrupt: bool) -> str:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True
        )
        with ended([process]):
            if interrupt:
                wait_for(lambda: n_receipts(path) > 10)
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does, workers included
            out = process.communicate(timeout=120)[0].decode()
        assert process.returncode == 0
        return out

    path = tmp_path / "s.zarr"
    out = run(path, interrupt=True)
    assert "run generate again" in out
    assert "tasks: 0" in out
    assert 10 < n_receipts(path) < 40
    run(path, interrupt=False)
    assert status(path).is_complete


# workers that do not fit


def test_other_versions_on_a_worker_are_refused() -> None:
    sent = SentJob.of(lambda chunk, conditions: None)
    sent = SentJob(sent.packed, {**sent.versions, "NumPy": "1.26.4"})
    raised = sent(0, {})  # comes back as data
    with pytest.raises(ArgumentError, match=r"a worker of the cluster has NumPy 2.* instead of 1\.26\.4, and might"):
        raise raised.error()


def test_module_that_a_worker_lacks_is_explained(processes: Processes, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "only_here.py").write_text("def prior(rng):\n    return {'theta': rng.normal()}\n")
    sys.path.insert(0, str(folder))
    try:
        prior = importlib.import_module("only_here").prior
        sys.path.remove(str(folder))
        processes.add_worker()
        with processes.client() as client, pytest.raises(ModuleNotFoundError, match="only_here") as caught:
            generate(make_simulator(prior), tmp_path / "s.zarr", 100, scheduler=client)
    finally:
        sys.modules.pop("only_here", None)
    assert "cannot import a module that the simulator uses: make it importable there" in notes(caught.value)


def test_worker_without_dasksim_is_explained(processes: Processes, tmp_path: Path) -> None:
    lacking = tmp_path / "lacking" / "dasksim.py"
    lacking.parent.mkdir()
    lacking.write_text("raise ModuleNotFoundError('No module named dasksim', name='dasksim')")
    processes.add_worker([str(lacking.parent)])
    processes.add_worker()
    simulator = simulator_that(nothing, 0.1)
    with processes.client() as client:
        client.wait_for_workers(2)
        with pytest.raises(ArgumentError, match="a worker of the cluster cannot import dasksim"):
            generate(simulator, tmp_path / "s.zarr", N, conditions=NUMBERS, scheduler=client, **SIZES)


def test_asynchronous_client_is_refused(tmp_path: Path) -> None:
    client = SimpleNamespace(get_executor=None, asynchronous=True)
    with pytest.raises(ArgumentTypeError, match=r"a distributed\.Client that is not asynchronous"):
        generate(simulator_that(nothing), tmp_path / "s.zarr", N, conditions=NUMBERS, scheduler=client, **SIZES)


def test_threads_of_this_process_may_be_the_workers(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with local_cluster(1, processes=False, threads_per_worker=4) as client:
        generate(simulator_that(nothing), path, N, conditions=NUMBERS, scheduler=client, **SIZES)
    assert same(path, tmp_path)


# the command line, and GPUs


def test_command_line_starts_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.zarr"
    options = ["-n", "400", "--seed", "1", "--workers", "2", "--retries", "0"]
    assert main(["generate", "two_moons", str(path), *options]) == OK
    assert "dashboard: http://127.0.0.1:" in capsys.readouterr().err
    assert status(path).is_complete


def test_workers_of_the_command_line_keep_freed_memory(tmp_path: Path) -> None:
    model = "import os\ndef model():\n    return {'x': 'MALLOC_TRIM_THRESHOLD_' in os.environ}\n"
    (tmp_path / "model.py").write_text(model)
    command = [sys.executable, "-m", "dasksim", "generate", "model.py:model", "s.zarr", "-n", "4", "--workers", "1"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    subprocess.run(command, cwd=tmp_path, env=environ, check=True, capture_output=True)
    assert not open_dataset(tmp_path / "s.zarr").x.values.any()


@pytest.mark.parametrize("options", [["--workers", "0"], ["--workers", "2", "--scheduler", "threads"]])
def test_wrong_workers_are_refused(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "two_moons", str(tmp_path / "s.zarr"), "-n", "40", *options]) == FAILED
    assert "--workers" in capsys.readouterr().err


def test_gpu_cluster_gives_each_worker_a_device() -> None:
    with gpu_cluster([0, "GPU-8f2c"], dashboard_address=":0") as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        devices = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
        assert sorted(devices.values()) == ["0", "GPU-8f2c"]
        assert set(client.nthreads().values()) == {1}
        futures = client.map(abs, range(4), resources={"GPU": 1})
        assert client.gather(futures) == [0, 1, 2, 3]


def test_gpu_cluster_takes_the_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ArgumentError, match="needs at least one device"):
        gpu_cluster()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ArgumentError, match="cannot ask nvidia-smi for this machine's GPUs"):
        gpu_cluster()

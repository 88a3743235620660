"""Samples and sub-batches that take too long are ended whatever they do, and nothing is left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from bits import bits
from distributed import Client, KilledWorker, LocalCluster
from processes import ended, wait_for
from streams import seeds_of
from variants import quick
from zoo.classes import KINDS
from zoo.failing import FAILING, MASK, REDRAW, HasALockError, chain, made, simulated

import dasksim
from dasksim import ArgumentError, ArgumentTypeError, Simulator, make_simulator

Rng = np.random.Generator

# Long enough for a machine that is busy; each test waits for it once or twice.
SECONDS = 3.0

THETA = {"theta": np.arange(16.0)}
CUT: dict[str, Any] = {"sub_batch_size": 4, "chunk_size": 8}

HANGS: dict[str, Callable[[], object]] = {
    "sleep": lambda: time.sleep(1e6),
    "loop": lambda: all(iter(int, 1)) or all(iter(lambda: 1, 0)),
    "holds_the_interpreter": lambda: ctypes.PyDLL(None).pause(),
}


def hanging(hang: Callable[[], object]) -> Simulator:
    """Return a simulator that hangs at sample 6 of :data:`THETA`."""

    def observe(theta: float, rng: Rng) -> dict[str, Any]:
        if theta == 6.0:
            hang()
        return {"x": theta + rng.normal()}

    return make_simulator(observe)


def own_children() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "LokyProcess" in " ".join(child.cmdline())]


@pytest.mark.parametrize("name", quick(HANGS, "sleep", "holds_the_interpreter"))
def test_sample_that_hangs_is_masked(name: str, tmp_path: Path) -> None:
    before = own_children()
    store = tmp_path / "s.zarr"
    found = made(hanging(HANGS[name]), store, 16, conditions=THETA, on_error="mask", timeout=SECONDS, **CUT).compute()
    np.testing.assert_array_equal(found.valid, np.arange(16) != 6)
    np.testing.assert_array_equal(np.isnan(found.x), ~found.valid)
    np.testing.assert_array_equal(found.theta, THETA["theta"])
    assert [str(failure) for failure in dasksim.status(store).failures] == [
        "1 x TimeoutError: no result within 3 s (stage 'observe', first at sample 6)"
    ]
    assert own_children() == before


def test_batched_sub_batch_that_hangs_is_masked_as_a_whole(tmp_path: Path) -> None:
    def observe(theta: Any) -> dict[str, Any]:
        if 6.0 in theta:
            HANGS["sleep"]()
        return {"x": 2 * theta}

    store, simulator = tmp_path / "s.zarr", make_simulator(observe, is_batched=True)
    found = made(simulator, store, 16, conditions=THETA, on_error="mask", timeout=SECONDS, **CUT)
    np.testing.assert_array_equal(found.valid, np.arange(16) // 4 != 1)
    assert [str(failure) for failure in dasksim.status(store).failures] == [
        "4 x TimeoutError: no result within 3 s (first at sample 4)"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["threads", "processes", "cluster"])
def test_sample_that_hangs_is_masked_on_every_scheduler(scheduler: Any, two_workers: Client, tmp_path: Path) -> None:
    simulator = hanging(HANGS["holds_the_interpreter"])
    where = two_workers if scheduler == "cluster" else scheduler
    options: dict[str, Any] = {"conditions": THETA, "on_error": "mask", "timeout": SECONDS, **CUT}
    found = made(simulator, tmp_path / "s.zarr", 16, scheduler=where, **options).compute()
    np.testing.assert_array_equal(found.valid, np.arange(16) != 6)


def test_sub_batch_that_hangs_is_drawn_again(tmp_path: Path) -> None:
    def observe(level: int, seed: int) -> dict[str, Any]:
        if seed in hangs:
            time.sleep(1e6)
        return {"x": level}

    hangs = seeds_of("observe", range(4, 5))

    def draw(rng: Rng) -> dict[str, Any]:
        return {"level": int(rng.integers(1, 10**9))}

    simulator = make_simulator(observe, meta_fn=draw)
    found = made(simulator, tmp_path / "s.zarr", 16, on_error="redraw", timeout=SECONDS, **CUT).compute()
    never = make_simulator(lambda level: {"x": level}, meta_fn=draw).sample(16, seed=1, **CUT)
    np.testing.assert_array_equal(found.level, never.level)
    np.testing.assert_array_equal(found.x, found.level)
    assert dasksim.status(tmp_path / "s.zarr").n_failed == 4


def test_sample_that_hangs_stops_the_run(tmp_path: Path) -> None:
    conditions = {"theta": THETA["theta"][::-1]}
    with pytest.raises(TimeoutError, match="no result within 3 s") as found:
        made(hanging(HANGS["sleep"]), tmp_path / "s.zarr", 16, conditions=conditions, timeout=SECONDS, **CUT)
    assert "at sample 9; run it alone with" in found.value.__notes__[-1]
    assert "sample=9, conditions=conditions)" in found.value.__notes__[-1]
    assert dasksim.status(tmp_path / "s.zarr").n_complete == 1


@pytest.mark.parametrize("name", quick(["rejection_by_rows", "mixed", "graph"], "mixed"))
def test_timeout_changes_no_bit_where_nothing_hangs(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    found = made(kind.make(), tmp_path / "s.zarr", (21, *kind.further), timeout=600)
    assert bits(found) == bits(simulated(kind.make(), (21, *kind.further)))


@pytest.mark.parametrize("policy", [pytest.param(MASK, marks=pytest.mark.slow), REDRAW], ids=["mask", "redraw"])
@pytest.mark.parametrize("name", quick(["mixed_chain", "unmixed"], "mixed_chain"))
def test_timeout_changes_no_bit_where_samples_fail(name: str, policy: dict[str, str], tmp_path: Path) -> None:
    kind = FAILING[name]
    found = made(kind.make(), tmp_path / "s.zarr", 21, timeout=600, **policy)
    wanted = simulated(kind.make(), 21, **policy)
    assert bits(found) == bits(wanted)
    assert dasksim.status(tmp_path / "s.zarr").failures == wanted.attrs["failures"]


@pytest.mark.parametrize("kind", [KeyError, HasALockError])
def test_exceptions_keep_what_they_say(kind: type[Exception], tmp_path: Path) -> None:
    def stop() -> None:
        raise kind("theta is six")

    with pytest.raises(kind, match="theta is six") as found:
        made(hanging(stop), tmp_path / "s.zarr", 16, conditions=THETA, timeout=600, **CUT)
    notes = "\n".join(found.value.__notes__)
    assert "raised by stage 'observe' at sample 6, whose inputs are theta=6.0" in notes
    assert [frame.name for frame in traceback.extract_tb(found.value.__traceback__)[-2:]] == ["observe", "stop"]
    assert {frame.filename for frame in traceback.extract_tb(found.value.__traceback__)[-2:]} == {__file__}
    assert "simulator, sample=6, conditions=conditions)" in notes


def test_process_that_is_killed_stops_the_run_and_says_where(tmp_path: Path) -> None:
    def stop() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match="unexpectedly terminated") as found:
        made(hanging(stop), tmp_path / "s.zarr", 16, conditions=THETA, timeout=600, **CUT)
    assert "in sub-batch 1 (samples 4 to 7)" in found.value.__notes__[0]


def processes_of(client: Client) -> list[psutil.Process]:
    """Return the processes for calls that the workers of a cluster have started; loky's tracker is none of them."""
    workers = [psutil.Process(info["pid"]) for info in client.run(lambda: {"pid": os.getpid()}).values()]
    children = [child for worker in workers for child in worker.children(recursive=True)]
    return [child for child in children if "LokyProcess" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_no_process_is_left_on_a_cluster(tmp_path: Path) -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):

        def observe(theta: float) -> dict[str, Any]:
            if theta == 6.0:
                found.touch()
            return {"x": theta}

        found = tmp_path / "found"
        options: dict[str, Any] = {"conditions": THETA, "scheduler": client, "timeout": 600, **CUT}
        made(make_simulator(observe), tmp_path / "s.zarr", 16, **options)
        assert found.exists()
        _, alive = psutil.wait_procs(processes_of(client), timeout=30)
        assert not alive

        def kill() -> None:
            found.write_text(str(os.getpid()))
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(1e6)

        with pytest.raises(KilledWorker, match="killed") as raised:
            made(hanging(kill), tmp_path / "killed.zarr", 16, retries=0, **options)
        assert "A worker process died with chunk" in "\n".join(raised.value.__notes__)
        wait_for(lambda: not psutil.pid_exists(int(found.read_text())))


def test_timeout_is_checked(tmp_path: Path) -> None:
    for wrong in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ArgumentError, match="timeout must be a finite number of seconds greater than 0"):
            made(chain(), tmp_path / "s.zarr", 8, timeout=wrong)
    for wrong_type in ("3", True, [1]):
        with pytest.raises(ArgumentTypeError, match="timeout must be a number of seconds, or None; got"):
            made(chain(), tmp_path / "s.zarr", 8, timeout=wrong_type)


SCRIPT = """
import ctypes, sys
import dasksim

def observe(theta):
    if theta == 6.0:
        open(sys.argv[1] + ".hangs", "w").close()
        ctypes.PyDLL(None).pause()
    return {"x": theta}

simulator = dasksim.make_simulator(observe)
theta = [float(i) for i in range(16)]
dasksim.generate(simulator, sys.argv[1], 16, conditions={"theta": theta}, seed=1, sub_batch_size=4, chunk_size=8,
                 scheduler=sys.argv[2], timeout=1000)
"""


@pytest.mark.parametrize(
    ("scheduler", "how"),
    [
        ("threads", signal.SIGINT),
        pytest.param("processes", signal.SIGINT, marks=pytest.mark.slow),
        ("synchronous", signal.SIGKILL),
        pytest.param("processes", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_of_a_run_that_is_stopped(scheduler: str, how: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "s.zarr"), scheduler]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    with ended([process]):
        while not (tmp_path / "s.zarr.hangs").exists():
            assert process.poll() is None
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(how)
        assert process.wait(60) != 0
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive

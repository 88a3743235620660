"""What a function raises comes back as itself from wherever it ran, with its own frames and few others."""

import itertools
import pickle
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import numpy as np
import pytest
from distributed import Client
from processes import run_python
from variants import quick

import dasksim
from dasksim import StoreError, generate, make_simulator, replay
from dasksim._execution._raised import Raised
from dasksim._execution.jobs import SentJob
from dasksim._execution.run import _Lost, _windowed
from dasksim._execution.transport import Cache
from dasksim.cli import main
from dasksim.store import ChunkWriter

Rng = np.random.Generator
E = TypeVar("E", bound=BaseException)

HOW: dict[str, Any] = {"seed": 1, "sub_batch_size": 10, "chunk_size": 20, "progress": False}

SCHEDULERS = ["synchronous", "threads", "processes", "timeout", "cluster"]
EVERYWHERE = pytest.mark.parametrize("scheduler", SCHEDULERS)

pytestmark = pytest.mark.usefixtures("one_process")


def raised(function: Callable[..., Any], scheduler: str, client: Client, path: Path) -> BaseException:
    """Return what generate raises on a scheduler."""
    options: dict[str, Any] = {"scheduler": client if scheduler == "cluster" else scheduler}
    if scheduler == "timeout":
        options = {"scheduler": "synchronous", "timeout": 600}
    with pytest.raises(BaseException, match=r".") as found:
        generate(make_simulator(function), path / "s.zarr", 200, **options, **HOW)
    return found.value


def frames(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(error.__traceback__))


def lines(error: BaseException) -> list[str]:
    return "".join(traceback.format_exception(error)).splitlines()


# Exceptions as data.


class TwoArgumentsError(Exception):
    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what} has code {code}")
        self.code = code


class AgainError(Exception):
    """Says more at each call of its class, as pickle makes one."""

    def __init__(self, what: str) -> None:
        super().__init__(f"failed: {what}")


class HoldsError(Exception):
    def __init__(self, text: str, held: object) -> None:
        super().__init__(text)
        self.code, self.held = 7, held


class UnmadeError(Exception):
    """Cannot be made of what it holds."""

    def __new__(cls, *arguments: object, key: str = "") -> "UnmadeError":
        if not key:
            raise TypeError("no key")
        return super().__new__(cls, *arguments)

    def __init__(self, *arguments: object, key: str = "") -> None:
        super().__init__(*arguments)

    def __reduce__(self) -> Any:
        return make_nothing, ()


def make_nothing() -> object:
    raise ValueError("no exception is made of this")


class LiesError(Exception):
    def __reduce__(self) -> Any:
        return str, ("not an exception",)


class SilentError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


def caught(error: E) -> E:
    try:
        raise error
    except type(error) as found:
        return found


def there_and_back(error: BaseException) -> BaseException:
    found: Raised = pickle.loads(pickle.dumps(Raised.of(caught(error))))
    return found.error()


KEPT = {
    "plain": ZeroDivisionError("division by zero"),
    "key": KeyError("unknown", 3),
    "unicode": UnicodeDecodeError("utf8", b"x", 0, 1, "wrong"),
    "two_arguments": TwoArgumentsError("solver", 7),
    "again": AgainError("solver"),
    "lock": HoldsError("held", threading.Lock()),
    "generator": HoldsError("held", (i for i in range(3))),
    "address": HoldsError(f"at {object()!r}", None),
    "lies": LiesError("of its making"),
    "silent": SilentError(),
    "frozen": FrozenError(7),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt("by hand"),
}


@pytest.mark.parametrize("error", KEPT.values(), ids=KEPT)
def test_exceptions_are_themselves_again(error: BaseException) -> None:
    found = there_and_back(error)

    assert type(found) is type(error)
    if not isinstance(error, SilentError):
        assert str(found) == str(error)
    assert getattr(found, "code", None) == getattr(error, "code", None)
    assert [frame.name for frame in frames(found)] == ["caught"]


def test_exception_that_cannot_be_made_again_is_told_of() -> None:
    error = UnmadeError("of no kind", key="k")
    error.add_note("and a note")
    found = there_and_back(error)

    assert type(found) is RuntimeError
    assert str(found) == "UnmadeError: of no kind"
    assert found.__notes__ == ["and a note"]
    assert frames(found)[-1].line == "raise error"


def test_class_of_a_function_is_kept() -> None:
    class LocalError(Exception):
        pass

    assert type(there_and_back(LocalError("here"))) is LocalError


def test_parts_of_a_group_and_causes_come_along() -> None:
    inner = ValueError("of a cause")
    inner.__cause__ = caught(KeyError("the first"))
    group = ExceptionGroup("two", [caught(inner), caught(HoldsError("a lock", threading.Lock()))])
    unmade = ExceptionGroup("two", [caught(inner), UnmadeError("of no kind", key="k")])

    for error, second in ((group, HoldsError), (unmade, RuntimeError)):
        found = there_and_back(error)
        assert isinstance(found, ExceptionGroup)
        assert found.message == "two"
        assert [type(part) for part in found.exceptions] == [ValueError, second]
        assert isinstance(found.exceptions[0].__cause__, KeyError)
        assert frames(found.exceptions[0])[-1].name == "caught"


def test_exceptions_that_lead_to_each_other_in_a_circle_end() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__context__, other.__context__ = other, one

    assert isinstance(there_and_back(one).__context__, KeyError)


# On every scheduler.


def solve(k: int) -> Any:
    return solve(k - 1) if k else 1 / 0


def deep(rng: Rng) -> dict[str, Any]:
    x = rng.normal()
    return {"x": x} if x < 2 else solve(400)


@EVERYWHERE
def test_deep_traceback_is_no_fault_of_the_workers(scheduler: str, two_workers: Client, tmp_path: Path) -> None:
    error = raised(deep, scheduler, two_workers, tmp_path)

    assert type(error) is ZeroDivisionError
    assert error.__notes__[0].startswith("raised by stage 'deep' at sample ")
    assert [frame.name for frame in frames(error)][:2] == ["raised", "deep"]
    assert frames(error)[-1].name == "solve"
    assert len(lines(error)) <= 25


@pytest.mark.slow
def test_deep_traceback_of_lazy_samples_ends_on_a_cluster(two_workers: Client) -> None:
    future = two_workers.compute(make_simulator(deep).sample(200, seed=1, sub_batch_size=10, chunk_size=20).x)

    with pytest.raises(ZeroDivisionError, match="division by zero"):
        future.result(timeout=100)


def failing(rng: Rng) -> dict[str, Any]:
    x = rng.normal()
    return {"x": 1 / (x < 2)}


@pytest.mark.parametrize("scheduler", quick(SCHEDULERS, "synchronous", "threads", "timeout", "cluster"))
def test_traceback_holds_the_users_frames_alone(scheduler: str, two_workers: Client, tmp_path: Path) -> None:
    here = make_simulator(failing)  # functions of __main__ and notebooks go by value, as this one does
    function = by_value(failing) if scheduler in ("processes", "timeout", "cluster") else failing
    error = raised(function, scheduler, two_workers, tmp_path)

    last = frames(error)[-1]
    assert [frame.name for frame in frames(error)] == ["raised", "failing"]
    assert (last.filename, last.line) == (__file__, 'return {"x": 1 / (x < 2)}')
    assert len(lines(error)) <= 13
    assert type(error) is ZeroDivisionError
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        replay(tmp_path / "s.zarr", here, int(error.__notes__[0].rpartition(" ")[2]))


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that no name leads to."""
    scope = {**function.__globals__, "__name__": "__main__"}
    made = FunctionType(function.__code__, scope, function.__name__)
    made.__annotations__ = function.__annotations__
    return made


@pytest.mark.parametrize("scheduler", quick(["threads", "processes"], "threads"))
def test_all_frames_are_shown_on_demand(
    scheduler: str, two_workers: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASKSIM_FULL_TRACEBACK", "1")
    error = raised(failing, scheduler, two_workers, tmp_path)

    assert {"generate", "simulate_chunk", "failing"} <= {frame.name for frame in frames(error)}


def test_frames_of_this_process_keep_their_values(two_workers: Client, tmp_path: Path) -> None:
    error = raised(failing, "threads", two_workers, tmp_path)

    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    assert frame.f_locals["x"] > 2


@pytest.mark.parametrize("scheduler", quick(SCHEDULERS, "synchronous", "threads", "timeout", "cluster"))
def test_function_that_ends_the_process_is_an_error(scheduler: str, two_workers: Client, tmp_path: Path) -> None:
    def leave(rng: Rng) -> dict[str, Any]:
        if rng.normal() > 2:
            sys.exit(0)
        return {"x": 1.0}

    error = raised(leave, scheduler, two_workers, tmp_path)
    assert str(error) == "a function raised SystemExit(0), which would have ended this process"
    assert "stage 'leave'" in "\n".join(error.__notes__)


@EVERYWHERE
def test_types_that_cannot_be_imported_are_kept(scheduler: str, two_workers: Client, tmp_path: Path) -> None:
    class SolverError(Exception):
        def __init__(self, code: int, lock: object) -> None:
            super().__init__(f"code {code}")
            self.lock = lock

    def fail(rng: Rng) -> dict[str, Any]:
        if rng.normal() > 2:
            raise SolverError(3, threading.Lock())
        return {"x": 1.0}

    error = raised(fail, scheduler, two_workers, tmp_path)
    assert type(error) is SolverError
    assert str(error) == "code 3"


TARGET = """
def solve(k): return solve(k - 1) if k else 1 / 0

def failing(rng):
    x = rng.normal()
    return {"x": x} if x < 2 else solve(400)
"""


@pytest.mark.parametrize("scheduler", ["synchronous", "processes"])
def test_command_line_shows_few_lines(scheduler: str, tmp_path: Path) -> None:
    (tmp_path / "target.py").write_text(TARGET)
    options = ["-n", "200", "--seed", "1", "--scheduler", scheduler, "--no-progress"]
    run = run_python("-m", "dasksim", "generate", "target.py:failing", "s.zarr", *options, cwd=tmp_path)

    assert run.returncode == 1
    shown = run.stderr.splitlines()
    assert len(shown) <= 25
    assert "ZeroDivisionError: division by zero" in shown
    assert any('target.py", line 6, in failing' in line for line in shown)
    assert not any("/dasksim/" in line for line in shown)


def test_command_line_in_this_process_returns_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "failing_target.py").write_text(TARGET)

    assert main(["generate", "failing_target.py:failing", "s.zarr", "-n", "200", "--scheduler", "threads"]) == 1
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().err


# What a pool raises, and what is said of a run that was stopped.


class LosesOnce:
    """A pool that loses each chunk once, with an exception that has a note."""

    def __init__(self) -> None:
        self.tries: list[tuple[int, int]] = []

    def submit(self, chunk: int, conditions: Any, n_tries: int) -> "Future[Any]":
        self.tries.append((chunk, n_tries))
        future: Future[Any] = Future()
        if n_tries:
            future.set_result(chunk)
        else:
            error = OSError("lost")
            error.add_note("a note of distributed's")
            future.set_exception(error)
        return future

    def n_workers(self) -> int:
        return 1

    def window(self) -> int:
        return 2

    def n_failed(self, error: BaseException) -> int:
        return int(isinstance(error, OSError))


def test_note_on_what_a_pool_raises_does_not_stop_the_run() -> None:
    pipeline, plan = make_simulator(failing).plan((40,), seed=1, sub_batch_size=10, chunk_size=20, conditions={})
    pool = LosesOnce()
    made: list[Any] = list(_windowed(pool, pipeline, plan, [0, 1], _Lost(1, 20), []))

    assert sorted(made) == [0, 1]
    assert sorted(pool.tries) == list(itertools.product((0, 1), (0, 1)))


def test_loss_that_is_no_death_is_not_put_down_to_memory() -> None:
    error = OSError("lost")
    with pytest.raises(OSError, match="lost"):
        _Lost(0, 20).count(error, 3, 1, ())

    assert error.__notes__ == ["The workers have lost chunk 3, 1 of 1 times."]


def test_interrupt_is_not_lost_where_the_store_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(rng: Rng) -> dict[str, Any]:
        if rng.normal() > 2:
            monkeypatch.setattr(ChunkWriter, "complete_chunks", unreadable)
            raise KeyboardInterrupt("by hand")
        return {"x": 1.0}

    def unreadable(*arguments: object) -> None:
        raise StoreError("no such disk")

    with pytest.raises(KeyboardInterrupt, match="by hand") as found:
        generate(make_simulator(interrupted), tmp_path / "s.zarr", 200, scheduler="synchronous", **HOW)

    assert "the store cannot be read now (no such disk); run generate again" in found.value.__notes__[-1]


def test_jobs_return_what_they_raise() -> None:
    sent = SentJob.of(fail_job)

    assert isinstance(sent(0, {}), Raised)


def fail_job(chunk: int, conditions: Any) -> Any:
    raise KeyboardInterrupt


def test_cache_keeps_the_latest_for_several_threads() -> None:
    cache: Cache[int] = Cache(2)

    def fill(start: int) -> bool:
        return all(cache.get(i, lambda i=i: i) == i for i in range(start, start + 3000))  # type: ignore[misc]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(fill, range(8)))
    assert cache.get("new", lambda: 3) == cache.get("new", lambda: 4) == 3
    assert cache.pop("new") == 3
    assert cache.pop("new") is None


def test_a_function_that_exits_at_the_probe_does_not_end_the_script() -> None:
    def leave(rng: np.random.Generator) -> dict[str, float]:
        sys.exit(3)

    with pytest.raises(RuntimeError, match=r"SystemExit\(3\), which would have ended this process") as caught:
        dasksim.make_simulator(leave).sample(10)

    assert "while stage 'leave' was probed" in caught.value.__notes__[-1]

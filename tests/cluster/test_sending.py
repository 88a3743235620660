"""What functions hold goes to other processes, or is named with the path that leads to it."""

import functools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from distributed import Client

from dasksim import ArgumentError, Simulator, generate, make_simulator
from dasksim._execution._unsendable import pack
from dasksim._execution.pickling import dumps, loads

Rng = np.random.Generator

HOW: dict[str, Any] = {"seed": 1, "sub_batch_size": 10, "chunk_size": 20, "progress": False}

lock = threading.Lock()

pytestmark = pytest.mark.usefixtures("one_process")


class Solver:
    def __init__(self, handle: object) -> None:
        self.handle = handle

    def simulate(self, rng: Rng) -> dict[str, Any]:
        return {"x": rng.normal()}


def numbers() -> Iterator[int]:
    yield 1


def by_global() -> Callable[..., Any]:
    scope: dict[str, Any] = {"lock": lock, "__name__": "__main__"}
    exec("def simulate(rng):\n    with lock: return {'x': rng.normal()}", scope)
    return scope["simulate"]  # type: ignore[no-any-return]


def by_closure(held: object) -> Callable[..., Any]:
    solver = Solver(held)

    def simulate(rng: Rng) -> dict[str, Any]:
        return {"x": rng.normal() + (solver is None)}

    return simulate


def by_default() -> Callable[..., Any]:
    def simulate(rng: Rng, held: Any = threading.Event()) -> dict[str, Any]:  # noqa: B008
        return {"x": rng.normal()}

    return simulate


def by_helper() -> Callable[..., Any]:
    def helper() -> bool:
        return simulate is held.get(1)  # in a circle with the function that calls it

    held: dict[int, Any] = {0: lock}

    def simulate(rng: Rng) -> dict[str, Any]:
        return {"x": rng.normal() + helper()}

    return simulate


HOLDERS: dict[str, tuple[Callable[[], Callable[..., Any]], str]] = {
    "global": (by_global, r"simulate -> global 'lock' is of type _thread\.lock \(cannot pickle"),
    "closure": (lambda: by_closure(lock), "simulate -> closure 'solver' -> attribute 'handle' is of type _thread.lock"),
    "socket": (lambda: by_closure(socket.socket()), "attribute 'handle' is of type socket.socket"),
    "generator": (lambda: by_closure(numbers()), "attribute 'handle' is of type generator"),
    "file": (
        lambda: by_closure(os.fdopen(os.open(os.devnull, os.O_RDONLY), "rb")),
        "attribute 'handle' is of type _io.BufferedReader",
    ),
    "default": (by_default, "simulate -> a default -> attribute '_cond' -> "),
    "helper": (by_helper, "simulate -> closure 'helper' -> closure 'held' -> key 0 is of type _thread.lock"),
    "method": (lambda: Solver(lock).simulate, "simulate -> its object -> attribute 'handle' is of type _thread.lock"),
    "partial": (
        lambda: functools.partial(by_closure(lock), 3),
        "partial -> its function -> closure 'solver' -> attribute 'handle' is of type _thread.lock",
    ),
}


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize(("make", "path"), HOLDERS.values(), ids=HOLDERS)
def test_what_cannot_be_sent_is_named(make: Callable[[], Callable[..., Any]], path: str) -> None:
    with pytest.raises(ArgumentError, match=f"{path}.*; make it within the function, or use scheduler='threads'"):
        pack(make())


def holding_a_lock() -> Simulator:
    def prior(rng: Rng) -> dict[str, Any]:
        return {"theta": rng.normal()}

    def simulate(theta: float, rng: Rng) -> dict[str, Any]:
        with lock:
            return {"x": rng.normal()}

    scope = {"lock": lock, "__name__": "__main__"}
    return make_simulator([prior, FunctionType(simulate.__code__, scope, "simulate")])


MESSAGE = "stage 'simulate' cannot be sent to another process: simulate -> global 'lock' is of type _thread.lock"


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"scheduler": "processes"}, "use scheduler='threads', which sends nothing"),
        ({"scheduler": "threads", "timeout": 60}, "leave timeout= out"),
        ({"scheduler": "cluster"}, "use scheduler='threads', which sends nothing"),
    ],
    ids=["processes", "timeout", "cluster"],
)
def test_stage_that_cannot_be_sent_is_named(
    options: dict[str, Any], advice: str, two_workers: Client, tmp_path: Path
) -> None:
    if options["scheduler"] == "cluster":
        options = {"scheduler": two_workers}
    with pytest.raises(ArgumentError, match=f"{MESSAGE}.*{advice}"):
        generate(holding_a_lock(), tmp_path / "s.zarr", 40, **options, **HOW)


@pytest.mark.parametrize("how", ["processes", "cluster"])
def test_stage_of_lazy_samples_that_cannot_be_sent_is_named(how: str, two_workers: Client) -> None:
    dataset = holding_a_lock().sample(40, seed=1, sub_batch_size=10, chunk_size=20)
    assert dataset.compute(scheduler="threads").x.shape == (40, 1)
    with pytest.raises(ArgumentError, match=MESSAGE):
        dataset.compute(scheduler=two_workers if how == "cluster" else how, num_workers=1)


def test_stage_of_parallel_samples_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(ArgumentError, match=MESSAGE):
        holding_a_lock().sample_parallel(40, 2, seed=1)


def test_what_cannot_be_made_again_says_what_to_do(tmp_path: Path) -> None:
    solver = Unmade()

    def simulate(rng: Rng) -> dict[str, Any]:
        return {"x": rng.normal() + (solver is None)}

    with pytest.raises(ValueError, match="not here") as found:
        generate(make_simulator(simulate), tmp_path / "s.zarr", 40, scheduler="processes", retries=0, **HOW)
    assert "use scheduler='threads'" in "\n".join(found.value.__notes__)
    with pytest.raises(ValueError, match="not here") as found:
        generate(make_simulator(simulate), tmp_path / "s.zarr", 40, scheduler="threads", timeout=60, **HOW)


class Unmade:
    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> object:
    raise ValueError("not here")


# What goes by name.


@pytest.mark.parametrize("base", ["object", "types.ModuleType"])
def test_what_stands_for_a_module_is_imported_on_the_other_side(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "facade_of_tests", raising=False)
    (tmp_path / "facade_of_tests.py").write_text(
        "import sys, threading, types\n"
        f"class Facade({base}):\n"
        "    def __init__(self, name): self.__name__, self.lock = name, threading.Lock()\n"
        "    def draw(self, rng):\n"
        "        with self.lock: return rng.normal()\n"
        "sys.modules[__name__] = Facade(__name__)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    import facade_of_tests as facade  # type: ignore[import-not-found]

    draw = facade.draw

    def simulate(rng: Rng) -> dict[str, Any]:
        return {"x": facade.draw(rng), "y": draw(rng)}

    values = [
        generate(make_simulator(simulate), tmp_path / scheduler, 40, scheduler=scheduler, **HOW).compute()
        for scheduler in ("threads", "processes")
    ]
    assert values[0].equals(values[1])
    assert loads(dumps(facade)) is facade


def cached_functions() -> Callable[..., Any]:
    scope: dict[str, Any] = {"functools": functools, "np": np, "__name__": "__main__"}
    exec(
        "@functools.cache\n"
        "def grid(): return np.linspace(0, 1, 5)\n"
        "@functools.lru_cache(maxsize=7, typed=True)\n"
        "def sums(k): return k + sums(k - 1) if k else 0\n"
        "def simulate(rng): return {'x': grid() + rng.normal(), 'y': sums(20)}\n",
        scope,
    )
    return scope["simulate"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("scheduler", ["processes", "timeout", "cluster"])
def test_cached_functions_go_by_value_with_an_empty_cache(scheduler: str, two_workers: Client, tmp_path: Path) -> None:
    options: dict[str, Any] = {"scheduler": two_workers if scheduler == "cluster" else scheduler}
    if scheduler == "timeout":
        options = {"scheduler": "threads", "timeout": 600}
    found = generate(make_simulator(cached_functions()), tmp_path / "there", 40, **options, **HOW)
    here = generate(make_simulator(cached_functions()), tmp_path / "here", 40, scheduler="threads", **HOW)
    assert found.compute().equals(here.compute())
    assert (found.y.values == 210).all()


def test_cached_functions_keep_what_they_were_made_with() -> None:
    function = cached_functions().__globals__["sums"]
    function(3)
    again = loads(dumps(function))

    assert again.cache_parameters() == {"maxsize": 7, "typed": True}
    assert again.cache_info().currsize == 0
    assert again(3) == 6
    assert again.__wrapped__.__globals__["sums"].__name__ == "sums"
    assert loads(dumps(importable)) is importable


@functools.cache
def importable() -> int:
    return 3


# Where processes cannot be started.

DAEMON = """
import multiprocessing, sys
import dasksim

def prior(rng):
    return {"theta": rng.normal()}

def run(scheduler):
    try:
        found = dasksim.generate(dasksim.make_simulator(prior), sys.argv[1], 2000, seed=1, scheduler=scheduler,
                                 sub_batch_size=100, progress=False)
        return found.sizes["batch"]
    except dasksim.ArgumentError as error:
        return str(error)

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(pool.apply(run, ("processes",)))
        print(pool.apply(run, (None,)))
"""


def test_daemonic_process_runs_chunks_in_threads(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(DAEMON)
    command = [sys.executable, "script.py", "s.zarr"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)

    first, second = run.stdout.splitlines()
    assert first.startswith("scheduler='processes' cannot be used in a daemonic process")
    assert second == "2000"


def test_lack_of_certificates_is_told(tmp_path: Path) -> None:
    message = "without certificates: set distributed.comm.tls.ca-file"
    with pytest.raises(ArgumentError, match=message):
        generate(make_simulator(importable_simulator), tmp_path / "s", 40, scheduler="tls://127.0.0.1:9", **HOW)


def importable_simulator(rng: Rng) -> dict[str, Any]:
    return {"x": rng.normal()}

"""Promise 5, durable, and what generate says when something goes wrong."""

import contextlib
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any
from unittest import mock

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from bits import array_bytes, bits, chunk_files, file_bytes, receipt_files
from calls import Calls, counted_simulator
from distributed import Client
from processes import run_at_once, run_python
from variants import quick

from dasksim import (
    ArgumentError,
    OutputError,
    Simulator,
    StoreError,
    StoreMismatchError,
    generate,
    make_simulator,
    open_dataset,
    status,
)
from dasksim._core.telling import counted
from dasksim.store._location import Location

# 10 sub-batches of 100 samples, two a chunk: 5 chunks.
N = 1000
SIZES: dict[str, Any] = {"seed": 1, "sub_batch_size": 100, "chunk_size": 200}
OPTIONS: dict[str, Any] = {**SIZES, "scheduler": "synchronous"}


def row_simulator() -> Simulator:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal()}

    def likelihood(theta: float, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(theta, size=3)}

    return make_simulator([prior, likelihood])


def failing(trouble: Callable[[], Any], sample: int = 777) -> Simulator:
    """A simulator for which `trouble` is called at one sample: the one whose number the condition `i` gives."""

    def prior(i: float, rng: np.random.Generator) -> dict[str, Any]:
        if i == sample:
            trouble()
        return {"theta": rng.normal()}

    return make_simulator(prior)


NUMBERS: dict[str, Any] = {"i": np.arange(float(N))}


def test_resume_simulates_only_missing_chunks(tmp_path: Path) -> None:
    calls, path = Calls(tmp_path), tmp_path / "s.zarr"
    simulator = counted_simulator(calls)
    generate(simulator, path, N, **OPTIONS)
    before = array_bytes(path)
    receipts = {chunk: file.read_bytes() for chunk, file in receipt_files(path).items()}
    assert sorted(receipts) == [0, 1, 2, 3, 4]
    for chunk in (1, 3):
        receipt_files(path)[chunk].unlink()
    chunk_files(path, "x")[3].unlink()
    calls.take()
    generate(simulator, path, N, audit=False, **OPTIONS)
    assert calls.take() == {"prior": 4, "likelihood": 4, "noise": 400}
    assert array_bytes(path) == before
    after = {chunk: file.read_bytes() for chunk, file in receipt_files(path).items()}
    assert {chunk for chunk in after if after[chunk] == receipts[chunk]} == {0, 2, 4}


def test_complete_store_is_only_opened(tmp_path: Path) -> None:
    calls, path = Calls(tmp_path), tmp_path / "s.zarr"
    simulator = counted_simulator(calls)
    wanted = bits(generate(simulator, path, N, **OPTIONS))
    before = file_bytes(path)
    calls.take()
    assert bits(generate(simulator, path, N, **OPTIONS)) == wanted
    assert bits(generate(simulator, path, N, scheduler="synchronous")) == wanted  # seed and sizes of the store
    assert calls.take() == {}
    assert file_bytes(path) == before


def _changed() -> Simulator:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal()}

    def likelihood(theta: float, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(theta + 1, size=3)}

    return make_simulator([prior, likelihood])


def _longer() -> Simulator:
    def tail(rng: np.random.Generator) -> dict[str, Any]:
        return {"tail": rng.normal()}

    return make_simulator([row_simulator(), tail])


OTHERS: dict[str, tuple[Callable[[], Simulator], dict[str, Any], list[str]]] = {
    "n_samples": (row_simulator, {"n_samples": 2 * N}, ["n_samples: 1000 in the store, 2000 asked for"]),
    "seed": (row_simulator, {"seed": 2}, ["seed: 1 in the store, 2 asked for"]),
    "sub_batch_size": (row_simulator, {"sub_batch_size": 200}, ["sub_batch_size: 100 in the store, 200 asked for"]),
    "odd sub_batch_size": (
        row_simulator,
        {"sub_batch_size": 64, "chunk_size": None},
        ["sub_batch_size: 100 in the store, 64 asked for"],
    ),
    "chunk_size": (row_simulator, {"chunk_size": 400}, ["chunk_size: 200 in the store, 400 asked for"]),
    "dtype": (row_simulator, {"dtypes": "float32"}, ["variables: .*float64.* in the store, .*float32.* asked for"]),
    "condition": (
        row_simulator,
        {"conditions": {"theta": 1.0}},
        [r"conditions: 'theta' is asked for, and not in the store"],
    ),
    "further axes": (row_simulator, {"n_samples": (N, 2)}, [r"further: \[\] in the store, \[2\] asked for"]),
    "source": (_changed, {}, ["stage 'likelihood': its source, its arguments or what it captures have changed"]),
    "stages": (_longer, {}, [r"stages: \['prior', 'likelihood'\] in the store, \['prior', 'likelihood', 'tail'\]"]),
    "two things": (
        row_simulator,
        {"seed": 2, "chunk_size": 400},
        ["seed: 1 in the store, 2 asked for", "chunk_size: 200 in the store, 400 asked for"],
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_store_of_other_arguments_is_left_untouched(other: str, tmp_path: Path) -> None:
    simulator, changes, lines = OTHERS[other]
    path = tmp_path / "s.zarr"
    generate(row_simulator(), path, N, **OPTIONS)
    receipt_files(path)[2].unlink()
    before = file_bytes(path)
    with pytest.raises(StoreMismatchError, match="was made by other arguments") as caught:
        generate(simulator(), path, **{"n_samples": N, **OPTIONS, **changes})
    assert all(re.search(line, str(caught.value)) for line in lines), caught.value
    assert "overwrite=True" in str(caught.value)
    assert len([line for line in str(caught.value).splitlines() if line.startswith("  ")]) >= len(lines)
    assert file_bytes(path) == before


def test_other_condition_values_are_a_mismatch(tmp_path: Path) -> None:
    path, rows = tmp_path / "s.zarr", np.arange(float(N))
    generate(row_simulator(), path, N, conditions={"theta": rows}, **OPTIONS)
    before = file_bytes(path)
    with pytest.raises(StoreMismatchError, match=r"conditions: .*theta.* in the store"):
        generate(row_simulator(), path, N, conditions={"theta": rows + 1}, **OPTIONS)
    assert file_bytes(path) == before
    generate(row_simulator(), path, N, conditions={"theta": rows.copy()}, **OPTIONS)


def test_changed_comment_is_no_mismatch(tmp_path: Path) -> None:
    files = {
        "one": "def f(rng):\n    return {'x': rng.normal()}\n",
        "two": "def f(rng):\n    '''Say more.'''\n    # and more\n    return {'x':\n            rng.normal()}\n",
    }
    for name, source in files.items():
        (tmp_path / f"{name}.py").write_text(source)
        code = f"import dasksim, sys; sys.path.insert(0, {str(tmp_path)!r}); from {name} import f; "
        code += f"dasksim.generate(dasksim.make_simulator(f), {str(tmp_path / 's.zarr')!r}, 10, seed=1)"
        assert run_python("-c", code, cwd=tmp_path).returncode == 0


def test_overwrite_makes_the_store_anew(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(row_simulator(), path, N, **OPTIONS)
    dataset = generate(_longer(), path, 300, overwrite=True, **{**OPTIONS, "seed": 9})
    assert bits(dataset) == bits(_longer().sample(300, seed=9, sub_batch_size=100))
    generate(_longer(), tmp_path / "fresh.zarr", 300, **{**OPTIONS, "seed": 9})
    assert array_bytes(path) == array_bytes(tmp_path / "fresh.zarr")


def test_overwrite_of_nothing_is_a_new_store(tmp_path: Path) -> None:
    generate(row_simulator(), tmp_path / "s.zarr", N, overwrite=True, **OPTIONS)
    assert status(tmp_path / "s.zarr").is_complete


def test_wrong_call_with_overwrite_removes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(row_simulator(), path, N, **OPTIONS)
    before = file_bytes(path)
    with pytest.raises(ArgumentError, match="chunk_size=150 is not a multiple of sub_batch_size=100"):
        generate(row_simulator(), path, N, overwrite=True, **{**OPTIONS, "chunk_size": 150})
    with pytest.raises(ArgumentError, match="dtypes names 'tehta'"):
        generate(row_simulator(), path, N, overwrite=True, dtypes={"tehta": "float32"}, **OPTIONS)
    with pytest.raises(TypeError, match="no variable or argument 'tehta'"):
        generate(row_simulator(), path, N, overwrite=True, conditions={"tehta": 1.0}, **OPTIONS)
    assert file_bytes(path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_store_is_left_untouched(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.jpg").write_text("hello")
    xr.Dataset({"x": ("batch", np.arange(3))}).to_zarr(tmp_path / "foreign", consolidated=False, zarr_format=3)
    row_simulator().sample(4, seed=1).to_zarr(tmp_path / "sampled", consolidated=False, zarr_format=3)
    before = file_bytes(tmp_path)
    for name, message in {
        "file": "is a file, not a store",
        "folder": "is not empty and is no store made by dasksim",
        "foreign": "is not empty and is no store made by dasksim",
        "sampled": r"is no store made by dasksim\.generate",
    }.items():
        with pytest.raises(StoreError, match=message):
            generate(row_simulator(), tmp_path / name, N, overwrite=overwrite, **OPTIONS)
    assert file_bytes(tmp_path) == before


def test_empty_folder_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "s.zarr").mkdir()
    generate(row_simulator(), tmp_path / "s.zarr", N, **OPTIONS)
    assert status(tmp_path / "s.zarr").is_complete


def test_path_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    with pytest.raises(StoreError, match=r"cannot write a store at '.*s\.zarr'.*Not a directory"):
        generate(row_simulator(), tmp_path / "file" / "s.zarr", N, **OPTIONS)
    assert file_bytes(tmp_path) == {"file": b"hello"}


def test_path_where_nobody_can_write() -> None:
    with pytest.raises(StoreError, match=r"cannot write a store at '/proc/s\.zarr'"):
        generate(row_simulator(), "/proc/s.zarr", N, **OPTIONS)


def test_failed_write_says_so_and_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    blocked = path / "x" / "c" / "3"  # a file where Zarr needs a folder: writing chunk 3 fails
    simulator = failing(lambda: blocked.write_text("") if status(path).n_complete == 3 else None)

    def likelihood(theta: float, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(theta, size=3)}

    both = make_simulator([simulator, likelihood])
    with pytest.raises(StoreError, match=r"writing to '.*s\.zarr' failed") as caught:
        generate(both, path, N, conditions=NUMBERS, **OPTIONS)
    assert "kept 3 complete chunks; run generate again" in "\n".join([str(caught.value), *_notes(caught.value)])
    assert status(path).n_complete == 3
    blocked.unlink()
    unblocked = make_simulator([failing(lambda: None), likelihood])
    wanted = bits(unblocked.sample(N, seed=1, sub_batch_size=100, **NUMBERS))
    assert bits(generate(unblocked, path, N, conditions=NUMBERS, **OPTIONS)) == wanted


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


class TroubleError(Exception):
    """What a user's function raises."""


class UnpicklableError(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.lock = threading.Lock()


def _raise_trouble() -> None:
    raise TroubleError("the solver did not converge")


def _raise_unpicklable() -> None:
    raise UnpicklableError(1, 2)


def _raise_from_unpicklable() -> None:
    try:
        _raise_unpicklable()
    except UnpicklableError as error:
        raise TroubleError("the solver did not converge") from error


def _raise_missing_file() -> None:
    Path("/no/such/table.csv").read_text()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes", "cluster"])
def test_exception_of_a_function_keeps_finished_chunks(scheduler: str, tmp_path: Path, request: Any) -> None:
    path = tmp_path / "s.zarr"
    where = request.getfixturevalue("two_workers") if scheduler == "cluster" else scheduler
    with pytest.raises(TroubleError, match="did not converge") as caught:
        generate(failing(_raise_trouble), path, N, conditions=NUMBERS, scheduler=where, **SIZES)
    notes = "\n".join(_notes(caught.value))
    assert "raised by stage 'prior' at sample 777" in notes
    assert "sub-batch 7 (samples 700 to 799)" in notes
    found = status(path)
    assert found.n_complete == len(receipt_files(path))
    assert 3 not in receipt_files(path)
    if scheduler == "synchronous":
        assert sorted(receipt_files(path)) == [0, 1, 2]
    generate(failing(_raise_trouble, sample=-1), tmp_path / "well.zarr", N, conditions=NUMBERS, **OPTIONS)
    for chunk in receipt_files(path):
        assert (
            chunk_files(path, "theta")[chunk].read_bytes()
            == chunk_files(tmp_path / "well.zarr", "theta")[chunk].read_bytes()
        )
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, TroubleError)


def test_line_in_the_note_reproduces_the_exception() -> None:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        value = rng.uniform()
        if value > 0.999:
            raise TroubleError(f"at {value}")
        return {"theta": value}

    def likelihood(theta: float) -> dict[str, Any]:
        return {"x": theta}

    simulator = make_simulator([prior, likelihood])
    with pytest.raises(TroubleError, match=r"at 0\.999") as caught:
        simulator.sample(5000, seed=1, sub_batch_size=100).compute(scheduler="threads")
    (line,) = re.findall(r"simulator\.sample\(.*", "\n".join(_notes(caught.value)))
    with pytest.raises(TroubleError, match=re.escape(str(caught.value))) as reproduced:
        eval(line, {"simulator": simulator})
    assert _notes(reproduced.value) == _notes(caught.value)


def test_line_in_the_note_reproduces_the_exception_with_further_axes_and_conditions() -> None:
    def prior(i: float, rng: np.random.Generator) -> dict[str, Any]:
        if i == 777:
            raise TroubleError(f"at {rng.uniform()}")
        return {"theta": rng.uniform()}

    simulator = make_simulator(prior)
    conditions: dict[str, Any] = {"i": np.stack([np.arange(float(N))] * 2, axis=1)}
    with pytest.raises(TroubleError, match="at ") as caught:
        simulator.sample((N, 2), seed=1, sub_batch_size=100, **conditions).compute(scheduler="synchronous")
    notes = "\n".join(_notes(caught.value))
    assert "at sample 777" in notes
    (line,) = re.findall(r"simulator\.sample\(.*", notes)
    with pytest.raises(TroubleError, match=re.escape(str(caught.value))):
        eval(line, {"simulator": simulator, "conditions": conditions})


@pytest.mark.parametrize("scheduler", quick(["processes", "cluster"], "cluster"))
def test_exception_that_cannot_be_pickled_comes_back_as_itself(scheduler: str, tmp_path: Path, request: Any) -> None:
    where = request.getfixturevalue("two_workers") if scheduler == "cluster" else scheduler
    with pytest.raises(UnpicklableError, match="1 and 2") as caught:
        generate(failing(_raise_unpicklable), tmp_path / "s.zarr", N, conditions=NUMBERS, scheduler=where, **SIZES)
    assert "raised by stage 'prior' at sample 777" in "\n".join(_notes(caught.value))


@pytest.mark.parametrize("scheduler", quick(["processes", "cluster"], "cluster"))
def test_exception_whose_cause_cannot_be_pickled_stays_itself(scheduler: str, tmp_path: Path, request: Any) -> None:
    where = request.getfixturevalue("two_workers") if scheduler == "cluster" else scheduler
    simulator = failing(_raise_from_unpicklable)
    with pytest.raises(TroubleError, match="did not converge") as caught:
        generate(simulator, tmp_path / "s.zarr", N, conditions=NUMBERS, scheduler=where, **SIZES)
    assert "raised by stage 'prior' at sample 777" in "\n".join(_notes(caught.value))


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_missing_file_of_a_function_is_not_taken_for_the_store(scheduler: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"/no/such/table\.csv") as caught:
        generate(failing(_raise_missing_file), tmp_path / "s.zarr", N, conditions=NUMBERS, scheduler=scheduler, **SIZES)
    assert "raised by stage 'prior' at sample 777" in "\n".join(_notes(caught.value))


def test_keyboard_interrupt_that_is_swallowed_is_raised_again(tmp_path: Path) -> None:
    """As in callbacks of garbage collection, where Python ignores exceptions."""
    path = tmp_path / "s.zarr"

    def swallow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        generate(failing(swallow, sample=250), path, N, conditions=NUMBERS, audit=False, **OPTIONS)
    assert "kept 2 complete chunks" in "\n".join(_notes(caught.value))
    assert len(receipt_files(path)) == 2
    assert signal.getsignal(signal.SIGINT) is handler

    mine: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: mine.append(number))
    try:
        ds = generate(failing(swallow, sample=250), path, N, conditions=NUMBERS, overwrite=True, **OPTIONS)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert ds.sizes["batch"] == N  # who has a handler decides
    assert mine


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_keyboard_interrupt_leaves_a_resumable_store(scheduler: str, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    is_on = [True]

    def interrupt() -> None:
        if is_on[0]:
            raise KeyboardInterrupt("pressed")

    simulator = failing(interrupt)
    with pytest.raises(KeyboardInterrupt, match="pressed") as caught:
        generate(simulator, path, N, conditions=NUMBERS, scheduler=scheduler, **SIZES)
    n_complete = len(receipt_files(path))
    assert any(f"kept {counted(n_complete, 'complete chunk')};" in note for note in _notes(caught.value))
    assert n_complete >= 1
    assert 3 not in receipt_files(path)
    is_on[0] = False
    dataset = generate(simulator, path, N, conditions=NUMBERS, scheduler=scheduler, **SIZES)
    assert bits(dataset) == bits(simulator.sample(N, seed=1, sub_batch_size=100, **NUMBERS))


def _kill_this_process_once(flag: str) -> Callable[[], None]:
    def kill() -> None:
        if not os.path.exists(flag):  # noqa: PTH110
            os.close(os.open(flag, os.O_CREAT))
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def test_killed_worker_process_is_explained_and_resumed(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    simulator = failing(_kill_this_process_once(str(tmp_path / "killed")))
    with pytest.raises(BrokenProcessPool, match="terminated") as caught:
        generate(simulator, path, N, conditions=NUMBERS, scheduler="processes", retries=0, **SIZES)
    notes = "\n".join(_notes(caught.value))
    died = r"A worker process died with chunks? .*\b3\b.* in flight, 1 of 1 times: most often because memory"
    assert re.search(died, notes)
    assert "A chunk_size below 200 needs less" in notes
    assert f"kept {counted(status(path).n_complete, 'complete chunk')};" in notes
    dataset = generate(simulator, path, N, conditions=NUMBERS, scheduler="threads", **SIZES)
    assert bits(dataset) == bits(simulator.sample(N, seed=1, sub_batch_size=100, **NUMBERS), scheduler="synchronous")


def test_cluster_survives_a_killed_worker(tmp_path: Path) -> None:
    from distributed import LocalCluster

    simulator = failing(_kill_this_process_once(str(tmp_path / "killed")))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        dataset = generate(simulator, tmp_path / "s.zarr", N, conditions=NUMBERS, scheduler=client, **SIZES)
    assert (tmp_path / "killed").exists()
    assert bits(dataset, scheduler="synchronous") == bits(
        simulator.sample(N, seed=1, sub_batch_size=100, **NUMBERS), scheduler="synchronous"
    )


def test_floats_are_stored_in_the_dtype_asked_for(tmp_path: Path) -> None:
    dataset = generate(counted_simulator(Calls(tmp_path)), tmp_path / "s.zarr", N, dtypes="float32", **OPTIONS)
    exact = counted_simulator(Calls(tmp_path)).sample(N, seed=1, sub_batch_size=100).compute()
    for name in exact.data_vars:
        assert dataset[name].dtype == "float32"
        np.testing.assert_array_equal(dataset[name].values, exact[name].values.astype("float32"))


def test_one_dtype_for_all_leaves_integers_alone(tmp_path: Path) -> None:
    simulator = make_simulator(lambda rng: {"k": int(rng.integers(2**40)), "f": rng.normal()})
    dataset = generate(simulator, tmp_path / "s.zarr", N, dtypes="float32", **OPTIONS)
    assert dataset.k.dtype == "int64"
    assert dataset.f.dtype == "float32"


@pytest.mark.parametrize("scheduler", quick(["synchronous", "processes"], "synchronous"))
@pytest.mark.parametrize(
    ("value", "dtype"), [(1e300, "float32"), (300, "int8"), (1e39, np.float32)], ids=["float", "int", "type"]
)
def test_overflow_of_the_stored_dtype_is_an_error(value: Any, dtype: Any, scheduler: str, tmp_path: Path) -> None:
    def prior(i: float) -> dict[str, Any]:
        return {"theta": value if i == 777 else type(value)(1)}

    with pytest.raises(OutputError, match=r"a value of 'theta' does not fit into (float32|int8)"):
        generate(
            make_simulator(prior),
            tmp_path / "s.zarr",
            N,
            dtypes={"theta": dtype},
            conditions=NUMBERS,
            **{**OPTIONS, "scheduler": scheduler},
        )
    assert 3 not in receipt_files(tmp_path / "s.zarr")


def test_infinities_and_nans_fit_into_every_float(tmp_path: Path) -> None:
    def prior(i: float) -> dict[str, Any]:
        return {"theta": (np.inf, -np.inf, np.nan)[int(i) % 3]}

    simulator = make_simulator(prior)
    dataset = generate(simulator, tmp_path / "s.zarr", N, dtypes="float32", conditions=NUMBERS, **OPTIONS)
    np.testing.assert_array_equal(dataset.theta, np.resize([np.inf, -np.inf, np.nan], N))


def test_two_processes_generate_one_store_at_once(tmp_path: Path) -> None:
    (tmp_path / "simulator.py").write_text(
        "import dasksim, sys\n"
        "def prior(rng):\n"
        "    return {'theta': rng.normal()}\n"
        "def likelihood(theta, rng):\n"
        "    return {'x': rng.normal(theta, size=(3, 2))}\n"
        "simulator = dasksim.make_simulator([prior, likelihood], dims={'x': ['time', 'channel']},\n"
        "    coords={'time': [0.5, 1.0, 2.0], 'channel': ['a', 'b']})\n"
        "if __name__ == '__main__':\n"
        "    dasksim.generate(simulator, sys.argv[1], 250, seed=1, sub_batch_size=5, chunk_size=5,\n"
        "                     scheduler='synchronous')\n"
    )
    command: list[str | Path] = ["-W", "error", tmp_path / "simulator.py"]
    run_at_once([[*command, tmp_path / "alone.zarr"]], cwd=tmp_path)
    run_at_once([[*command, tmp_path / "s.zarr"]] * 3, cwd=tmp_path)
    assert array_bytes(tmp_path / "s.zarr") == array_bytes(tmp_path / "alone.zarr")
    assert status(tmp_path / "s.zarr").is_complete


def test_two_threads_generate_one_store_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(generate, row_simulator(), tmp_path / "s.zarr", N, **OPTIONS) for _ in range(4)]
    found = [bits(run.result()) for run in runs]
    assert all(one == found[0] for one in found)


def test_store_made_between_two_looks_is_not_taken_for_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root that is not there at first may be there when the location is no longer empty."""
    path = tmp_path / "s.zarr"
    others = [True]
    read = Location.read

    def read_before_another_writes(self: Location, key: str) -> bytes | None:
        content = read(self, key)
        if others and key == "zarr.json":
            others.clear()
            assert content is None
            generate(row_simulator(), path, N, **OPTIONS)
        return content

    monkeypatch.setattr(Location, "read", read_before_another_writes)
    dataset = generate(row_simulator(), path, N, **OPTIONS)
    assert not others
    assert bits(dataset) == bits(row_simulator().sample(N, seed=1, sub_batch_size=100))


def test_second_writer_with_another_seed_is_refused(tmp_path: Path) -> None:
    """The one who comes later, while the first is at work, must not mix its samples in."""
    path = tmp_path / "s.zarr"
    caught = []

    def other() -> None:
        with pytest.raises(StoreMismatchError, match="seed: 1 in the store, 2 asked for"):
            generate(row_simulator(), path, N, **{**OPTIONS, "seed": 2})
        caught.append(True)

    simulator = failing(other, sample=500)
    dataset = generate(simulator, path, N, conditions=NUMBERS, **OPTIONS)
    assert caught
    assert bits(dataset) == bits(failing(other, -1).sample(N, seed=1, sub_batch_size=100, **NUMBERS))


def test_run_whose_store_is_made_anew_stops(tmp_path: Path) -> None:
    """Or else it would put its own samples among those of the other run."""
    path = tmp_path / "s.zarr"
    made = []

    def other() -> None:
        options = {**OPTIONS, "seed": 2}
        made.append(bits(generate(failing(other, -1), path, N, conditions=NUMBERS, overwrite=True, **options)))

    with pytest.raises(StoreMismatchError, match="was removed, made anew or changed by another run"):
        generate(failing(other, sample=500), path, N, conditions=NUMBERS, **OPTIONS)
    assert [bits(open_dataset(path))] == made


def test_nothing_is_written_after_a_failed_run_on_a_cluster(two_workers: Client, tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def prior(i: float, rng: np.random.Generator) -> dict[str, Any]:
        if i == 500:
            begun.touch()
        if i == 5:
            deadline = time.monotonic() + 30
            while not begun.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            raise TroubleError("at once")
        if i == N - 1:
            time.sleep(1)  # the last chunk is under way when the first fails
        return {"theta": rng.normal()}

    path = tmp_path / "s.zarr"
    options = {**SIZES, "chunk_size": 500}
    with pytest.raises(TroubleError, match="at once"):
        generate(make_simulator(prior), path, N, conditions=NUMBERS, scheduler=two_workers, **options)
    assert status(path).n_complete == 1


def test_lazy_conditions_are_computed_chunk_by_chunk(tmp_path: Path) -> None:
    largest = []

    def row(block: Any) -> Any:
        largest.append(block.shape[0])
        return block + 1.0

    lazy = da.zeros(N, chunks=100).map_blocks(row, dtype=float, meta=np.empty(0))
    dataset = generate(row_simulator(), tmp_path / "s.zarr", N, conditions={"theta": lazy}, **OPTIONS)
    assert (dataset.theta == 1.0).all()
    assert max(largest) == 100


def test_old_leftovers_are_removed_and_young_ones_kept(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(row_simulator(), path, N, **OPTIONS)
    receipt_files(path)[0].unlink()
    old, young = path / "theta" / "c" / "0" / "0.abc.partial", path / "theta" / "c" / "0" / "0.def.partial"
    old.write_bytes(b"cut off")
    young.write_bytes(b"being written")
    an_hour_ago = time.time() - 3600
    os.utime(old, (an_hour_ago, an_hour_ago))
    generate(row_simulator(), path, N, **OPTIONS)
    assert not old.exists()
    assert young.exists()


def test_store_of_a_kill_before_its_first_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    path.mkdir()
    (path / "zarr.0123.partial").write_bytes(b"{")
    generate(row_simulator(), path, N, **OPTIONS)
    assert bits(open_dataset(path)) == bits(row_simulator().sample(N, seed=1, sub_batch_size=100))


def test_progress_counts_samples_of_earlier_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.zarr"
    generate(row_simulator(), path, N, progress=True, **OPTIONS)
    assert "1.00k of 1.00k samples (100%)" in capsys.readouterr().err
    receipt_files(path)[4].unlink()
    with mock.patch("dasksim._execution.progress._LINE_SECONDS", 0.0):
        generate(row_simulator(), path, N, progress=True, **OPTIONS)
    shares = [int(share) for share in re.findall(r"\((\d+)%\)", capsys.readouterr().err)]
    assert shares
    assert min(shares) > 80
    generate(row_simulator(), path, N, overwrite=True, **OPTIONS)
    assert capsys.readouterr().err == ""


def test_change_of_what_a_function_captures_is_refused(tmp_path: Path) -> None:
    def with_noise(scale: float) -> Simulator:
        return make_simulator(lambda rng: {"x": rng.normal(scale=scale)})

    generate(with_noise(1.0), tmp_path / "s.zarr", 100, seed=1, scheduler="synchronous")
    before = file_bytes(tmp_path)
    with pytest.raises(StoreMismatchError, match="stage '<lambda>': its source, its arguments or what it captures"):
        generate(with_noise(2.0), tmp_path / "s.zarr", 100, seed=1, scheduler="synchronous")

    assert file_bytes(tmp_path) == before
    generate(with_noise(1.0), tmp_path / "s.zarr", 100, seed=1, scheduler="synchronous")

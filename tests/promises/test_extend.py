"""A store made longer has the bits of one made at once, whatever came between."""

import contextlib
import itertools
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from bits import array_bytes, as_if_older, bits, file_bytes, finished_bytes, prefix_of, receipt_files
from calls import Calls, counted_simulator
from killing import RUNS, SIMULATOR, kill_at
from processes import run_at_once
from variants import quick_where
from zoo.plain import ALONE, OPTIONS, fails_sometimes, prior, simulator

from dasksim import (
    ArgumentError,
    ArgumentTypeError,
    IncompleteStoreError,
    Simulator,
    StoreError,
    StoreMismatchError,
    extend,
    generate,
    make_simulator,
    open_dataset,
    status,
    verify,
)
from dasksim._execution.run import check_memory


def prior_of_many(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal(size=(*batch_shape, 2))}


def at_once(simulator: Simulator, path: Path, n: Any, **options: Any) -> dict[str, bytes]:
    """Return the bytes of a store made at once with the sizes of the one that is at a path."""
    found, where = status(path), path.with_name("at_once.zarr")
    sizes = {"sub_batch_size": found.sub_batch_size, "chunk_size": found.chunk_size}
    generate(simulator, where, n, seed=found.seed, **{**sizes, **ALONE, **options})
    return array_bytes(where)


LENGTHS: list[tuple[int, int, dict[str, Any]]] = [
    (8, 16, {}),
    (8, 9, {}),
    (10, 11, {}),
    (10, 12, {}),
    (9, 30, {}),
    (11, 12, {}),
    (1, 2, {"sub_batch_size": None, "chunk_size": None}),
    (3, 50, {"sub_batch_size": 8, "chunk_size": 8}),
    (5, 13, {"sub_batch_size": 2, "chunk_size": 100}),
    (10, 10, {}),
]
QUICK = [(8, 16), (10, 11), (10, 12), (9, 30), (1, 2), (5, 13), (10, 10)]


@pytest.mark.parametrize(
    ("kind", "lengths"),
    quick_where(
        lambda kind, lengths: lengths[:2] in ([(9, 30)] if kind == "batched" else QUICK),
        itertools.product(["rows", "batched"], LENGTHS),
    ),
)
def test_longer_store_has_the_bytes_of_one_made_at_once(
    kind: str, lengths: tuple[int, int, dict[str, Any]], tmp_path: Path
) -> None:
    n_before, n, sizes = lengths
    simulated = simulator() if kind == "rows" else make_simulator(prior_of_many, is_batched=True)
    path = tmp_path / "s.zarr"
    before = generate(simulated, path, n_before, **{**OPTIONS, **sizes}).compute()
    dataset = extend(path, simulated, n, **ALONE)
    assert dataset.sizes["batch"] == n
    assert prefix_of(dataset, n_before) == bits(before)
    assert array_bytes(path) == at_once(simulated, path, n)
    assert verify(path, simulated, resimulate=2).is_good
    with xr.open_zarr(path) as plain:
        assert bits(plain) == bits(dataset)


def test_only_what_is_new_or_was_cut_short_is_simulated(tmp_path: Path) -> None:
    calls, path = Calls(tmp_path), tmp_path / "s.zarr"
    counted = counted_simulator(calls)
    generate(counted, path, 10, **OPTIONS)
    complete = {chunk: receipt_files(path)[chunk].read_bytes() for chunk in (0, 1)}
    calls.take()
    extend(path, counted, 16, audit=False, **ALONE)
    assert calls.take()["noise"] == 8
    assert {chunk: receipt_files(path)[chunk].read_bytes() for chunk in (0, 1)} == complete
    extend(path, counted, 16, **ALONE)
    assert calls.take() == {}


def test_store_is_extended_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 1, **{**OPTIONS, "sub_batch_size": 1, "chunk_size": 1})
    for n in (2, 3, 7):
        extend(path, simulator(), n, **ALONE)
    assert array_bytes(path) == at_once(simulator(), path, 7)
    path = tmp_path / "t.zarr"
    generate(simulator(), path, 3, **OPTIONS)
    for n in (4, 5, 6, 11, 13):
        extend(path, simulator(), n, **ALONE)
        assert status(path).is_complete
    assert array_bytes(path) == at_once_other(simulator(), path, 13)
    assert json.loads(open_dataset(path).attrs["dasksim"])["extended_from"] == [3, 4, 5, 6, 11]


def at_once_other(simulated: Simulator, path: Path, n: int) -> dict[str, bytes]:
    (path.parent / "other").mkdir()
    where = path.parent / "other" / "at_once.zarr"
    found = status(path)
    generate(simulated, where, n, seed=1, sub_batch_size=found.sub_batch_size, chunk_size=found.chunk_size, **ALONE)
    return array_bytes(where)


def test_incomplete_store_is_extended_and_finished(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 10, **OPTIONS)
    receipt_files(path)[0].unlink()
    receipt_files(path)[2].unlink()
    extend(path, simulator(), 14, **ALONE)
    assert array_bytes(path) == at_once(simulator(), path, 14)


def test_stopped_extension_is_gone_on_with_by_extend_and_by_generate(tmp_path: Path) -> None:
    by_extend: Callable[[Path], Any] = lambda path: extend(path, simulator(), 20, **ALONE)  # noqa: E731
    by_generate: Callable[[Path], Any] = lambda path: generate(simulator(), path, 20, **ALONE)  # noqa: E731
    for name, go_on in (("a", by_extend), ("b", by_generate)):
        path = tmp_path / name / "s.zarr"
        generate(simulator(), path, 10, **OPTIONS)
        extend(path, simulator(), 20, part=(1, 2), **ALONE)
        receipt_files(path)[4].unlink()
        with pytest.raises(IncompleteStoreError, match="of 5 chunks"):
            open_dataset(path)
        go_on(path)
        assert array_bytes(path) == at_once(simulator(), path, 20)


def test_totals_do_not_count_a_chunk_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 10, **OPTIONS)
    extend(path, simulator(), 16, part=(0, 2), **ALONE)  # the second half has the chunk that was the last, short one
    found = status(path)
    assert (found.n_complete, found.n_complete_samples, found.n_proposals) == (2, 8, 8)
    assert found.missing == ((2, 3),)


def test_parts_of_an_extension_do_not_undo_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One part reads what the store says, the other then makes the last, short chunk longer, the first goes on."""
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 10, **OPTIONS)
    overtake(monkeypatch, lambda: extend(path, simulator(), 16, part=(1, 2), **ALONE))
    extend(path, simulator(), 16, part=(0, 2), **ALONE)
    assert status(path).missing == ()
    assert array_bytes(path) == at_once(simulator(), path, 16)


def overtake(monkeypatch: pytest.MonkeyPatch, then: Callable[[], Any]) -> None:
    """Have something happen once between what a call reads of a store and what it does to it."""
    from dasksim._operations import _request

    is_first = [True]

    def overtaken(*arguments: Any) -> None:
        check_memory(*arguments)
        if is_first:
            is_first.clear()
            then()

    monkeypatch.setattr(_request, "check_memory", overtaken)


def pause_after_check(monkeypatch: pytest.MonkeyPatch, number: int, then: Callable[[], Any]) -> None:
    """Have something happen just after a writer has seen, for the `number`-th time, that the store is still its own."""
    from dasksim.store import ChunkWriter

    check, count = ChunkWriter.check_record, [0]

    def checked(self: Any, location: Any) -> None:
        check(self, location)
        count[0] += 1
        if count[0] == number:
            then()

    monkeypatch.setattr(ChunkWriter, "check_record", checked)


@pytest.mark.parametrize(
    ("check", "n_before"),
    quick_where(lambda check, n_before: n_before == 10 or check == 3, itertools.product(range(1, 7), [10, 12])),
)
def test_extension_overtakes_a_writer_of_the_shorter_store(
    check: int, n_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.zarr"
    pause_after_check(monkeypatch, check, lambda: extend(path, simulator(), 17, **ALONE))
    with contextlib.suppress(StoreMismatchError, IncompleteStoreError):
        generate(simulator(), path, n_before, **OPTIONS)
    expected = at_once(simulator(), path, 17)
    found = status(path)
    if n_before == 10 and check in (5, 6):
        assert found.missing == ((2, 2),), "the last, short chunk lay over the whole one"
    else:
        assert found.is_complete
        assert verify(path).is_good
        assert array_bytes(path) == expected
    extend(path, simulator(), 17, **ALONE)
    assert array_bytes(path) == expected
    assert verify(path).is_good


def test_extension_overtaken_by_the_end_of_the_shorter_run_can_be_repeated(tmp_path: Path) -> None:
    """The end of a run may write the root of before; where the record stands there only, that must be seen."""
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 10, **OPTIONS)
    root = (path / "zarr.json").read_bytes()
    extend(path, simulator(), 17, **ALONE)
    (path / "zarr.json").write_bytes(root)
    assert status(path).n_samples == 17
    assert bits(open_dataset(path)) == bits(simulator().sample(17, seed=1, sub_batch_size=2))
    as_if_older(path)
    assert status(path).n_samples == 10
    assert status(path).n_complete <= status(path).n_chunks
    assert bits(open_dataset(path)) == bits(simulator().sample(10, seed=1, sub_batch_size=2))
    generate(simulator(), path, 10, repair=True, **OPTIONS)
    assert bits(open_dataset(path)) == bits(simulator().sample(10, seed=1, sub_batch_size=2))
    assert verify(path).is_good
    extend(path, simulator(), 17, **ALONE)
    assert array_bytes(path) == at_once(simulator(), path, 17)
    assert verify(path).is_good


def test_two_extensions_at_once_to_different_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 10, **OPTIONS)
    pause_after_check(monkeypatch, 1, lambda: extend(path, simulator(), 20, **ALONE))
    with pytest.raises(StoreMismatchError, match="changed by another run"):
        extend(path, simulator(), 15, **ALONE)
    monkeypatch.undo()
    extend(path, simulator(), 20, **ALONE)
    assert array_bytes(path) == at_once(simulator(), path, 20)


def test_extension_that_is_overtaken_before_it_begins_makes_nothing_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 10, **OPTIONS)
    overtake(monkeypatch, lambda: extend(path, simulator(), 20, **ALONE))
    with pytest.raises(StoreMismatchError, match="changed by another run just now"):
        extend(path, simulator(), 15, **ALONE)
    assert array_bytes(path) == at_once(simulator(), path, 20)


CONDITIONS: dict[str, Callable[[int], Any]] = {
    "array": lambda n: np.arange(float(n)),
    "lazy": lambda n: da.arange(float(n), chunks=3),
    "scalar": lambda n: 2.5,
    "labelled": lambda n: xr.DataArray(np.arange(float(n)), dims="batch"),
}


def conditioned() -> Simulator:
    return make_simulator(lambda c, rng: {"y": rng.normal(c)})


@pytest.mark.parametrize("kind", CONDITIONS)
def test_conditions_are_extended_with_the_store(kind: str, tmp_path: Path) -> None:
    path, values = tmp_path / "s.zarr", CONDITIONS[kind]
    generate(conditioned(), path, 10, conditions={"c": values(10)}, **OPTIONS)
    extend(path, conditioned(), 15, conditions={"c": values(15)}, **ALONE)
    extend(path, conditioned(), 15, conditions={"c": values(15)}, **ALONE)
    generate(conditioned(), path, 15, conditions={"c": values(15)}, **ALONE)
    assert array_bytes(path) == at_once(conditioned(), path, 15, conditions={"c": values(15)})


WRONG: dict[str, Any] = {
    "other values": np.arange(15.0) + 1,
    "one other value": np.where(np.arange(15) == 9, 0, np.arange(15.0)),
    "too few": np.arange(10.0),
    "another dtype": np.arange(15),
    "a scalar": 1.0,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_conditions_must_begin_with_the_former_ones(wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(conditioned(), path, 10, conditions={"c": np.arange(10.0)}, **OPTIONS)
    before = file_bytes(path)
    message = "does not begin with the batch axes" if wrong == "too few" else r"conditions: .* in the store"
    with pytest.raises((StoreMismatchError, ArgumentError), match=message):
        extend(path, conditioned(), 15, conditions={"c": WRONG[wrong]}, **ALONE)
    assert file_bytes(path) == before


def test_further_axes_coords_and_dtypes_are_the_stores(tmp_path: Path) -> None:
    simulated = simulator(dims={"x": ["time", "channel"]}, coords={"time": [0.5, 1.0, 2.0], "channel": ["a", "b"]})
    path = tmp_path / "s.zarr"
    generate(simulated, path, (10, 3), dtypes="float16", **OPTIONS)
    dataset = extend(path, simulated, 15, **ALONE)
    assert dataset.theta.shape[:2] == (15, 3)
    assert dataset.theta.dtype == "float16"
    assert array_bytes(path) == at_once(simulated, path, (15, 3), dtypes="float16")
    with pytest.raises(ArgumentTypeError, match="n_samples must be an integer, the length of the batch axis"):
        extend(path, simulated, (20, 3), **ALONE)  # type: ignore[arg-type]


def test_contexts_and_ragged_variables_are_extended(tmp_path: Path) -> None:
    def meta(rng: np.random.Generator) -> dict[str, Any]:
        return {"n_obs": int(rng.integers(1, 6))}

    def observe(theta: Any, n_obs: int, rng: np.random.Generator) -> dict[str, Any]:
        return {"y": rng.normal(theta[0], size=n_obs)}

    simulated = make_simulator([prior, observe], meta_fn=meta, max_sizes={"y_dim_0": 5})
    path = tmp_path / "s.zarr"
    generate(simulated, path, 9, **OPTIONS)
    extend(path, simulated, 21, **ALONE)
    assert array_bytes(path) == at_once(simulated, path, 21)


def test_rejection_is_extended(tmp_path: Path) -> None:
    from dasksim import RejectionSimulator

    simulated = RejectionSimulator(simulator(), predicate=lambda k: k > 4)
    path = tmp_path / "s.zarr"
    generate(simulated, path, 10, **OPTIONS)
    dataset = extend(path, simulated, 21, **ALONE)
    assert array_bytes(path) == at_once(simulated, path, 21)
    found, whole = status(path), status(tmp_path / "at_once.zarr")
    assert (found.n_proposals, found.n_accepted) == (whole.n_proposals, whole.n_accepted)
    assert dataset.attrs["acceptance_rate"] == found.acceptance_rate


@pytest.mark.parametrize("on_error", ["mask", "redraw"])
def test_failures_are_extended(on_error: Any, tmp_path: Path) -> None:
    simulated, path = make_simulator(fails_sometimes), tmp_path / "s.zarr"
    generate(simulated, path, 10, on_error=on_error, **OPTIONS)
    extend(path, simulated, 21, **ALONE)
    assert array_bytes(path) == at_once(simulated, path, 21, on_error=on_error)
    assert status(path).failures == status(tmp_path / "at_once.zarr").failures
    assert verify(path, simulated, resimulate=6).is_good


def _other_simulator() -> Simulator:
    return make_simulator(lambda rng: {"theta": rng.normal(size=2), "k": 1})


def test_what_cannot_be_extended_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with pytest.raises(StoreError, match=r"there is no store at .* to extend; make one with dasksim\.generate"):
        extend(path, simulator(), 20)
    assert not path.exists()
    generate(simulator(), path, 10, **OPTIONS)
    before = file_bytes(path)
    with pytest.raises(ArgumentError, match=r"n_samples=9 is less than the 10 samples .* cannot be made shorter"):
        extend(path, simulator(), 9)
    with pytest.raises(ArgumentError, match="n_samples must be >= 1"):
        extend(path, simulator(), 0)
    with pytest.raises(StoreError, match=r"variables: .* in the store"):
        extend(path, _other_simulator(), 20)
    with pytest.raises(StoreMismatchError, match=r"conditions: .* in the store"):
        extend(path, simulator(), 20, conditions={"k": 3})
    with pytest.raises(ArgumentTypeError, match="part must be a pair"):
        extend(path, simulator(), 20, part=3)  # type: ignore[arg-type]
    assert file_bytes(path) == before
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious.txt").write_text("!")
    with pytest.raises(StoreError, match="is not empty and is no store made by dasksim"):
        extend(tmp_path / "folder", simulator(), 20)
    assert file_bytes(tmp_path / "folder") == {"precious.txt": b"!"}


def check_killed_extensions(folder: Path, scheduler: str, n_kills: int, seed: int) -> None:
    (folder / "simulators.py").write_text(SIMULATOR)
    name, options, n = RUNS[scheduler]
    target, expected = f"{folder / 'simulators.py'}:{name}", folder / "at_once.zarr"
    start = [sys.executable, "-m", "dasksim"]
    more = ["--scheduler", scheduler, "--no-progress"]
    for n_samples, where in ((n, expected), (n // 3 + 1, folder / "short.zarr")):
        run = [*start, "generate", target, str(where), "-n", str(n_samples), "--seed", "1", *options, *more]
        subprocess.run(run, check=True, stderr=subprocess.DEVNULL)
    moments, content, cut = random.Random(seed), array_bytes(expected), []
    for i in range(n_kills):
        path = Path(shutil.copytree(folder / "short.zarr", folder / f"killed-{i}.zarr"))
        run = [*start, "extend", target, str(path), "-n", str(n), *more]
        kill_at(moments.uniform(0.34, 1), moments.uniform(0, 0.02), run, path, status(expected).n_chunks)
        cut.append(status(path).n_complete)
        assert verify(path).is_good
        subprocess.run(run, check=True, stderr=subprocess.DEVNULL)
        assert finished_bytes(path) == content
        shutil.rmtree(path)
    print(f"{scheduler}: killed with {cut} of {status(expected).n_chunks} chunks complete")
    assert any(n_complete < status(expected).n_chunks for n_complete in cut)


@pytest.mark.slow
def test_killed_extension_is_gone_on_with_to_the_same_bytes(tmp_path: Path) -> None:
    check_killed_extensions(tmp_path, "threads", n_kills=2, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", RUNS)
def test_extensions_killed_at_many_moments_are_gone_on_with(scheduler: str, tmp_path: Path) -> None:
    check_killed_extensions(tmp_path, scheduler, n_kills=15, seed=2025)


def test_several_processes_extend_by_parts_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    (tmp_path / "extended_by_parts.py").write_text(
        "import dasksim, sys\n"
        "def prior(rng):\n"
        "    return {'theta': rng.normal(size=2)}\n"
        "simulator = dasksim.make_simulator(prior)\n"
        "if __name__ == '__main__':\n"
        "    dasksim.extend(sys.argv[1], simulator, 201, part=(int(sys.argv[2]), 3), scheduler='synchronous')\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import extended_by_parts  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("extended_by_parts", None)
    sizes = {"sub_batch_size": 5, "chunk_size": 10}
    generate(extended_by_parts.simulator, path, 33, **{**OPTIONS, **sizes})
    expected = generate(extended_by_parts.simulator, tmp_path / "at_once.zarr", 201, **{**OPTIONS, **sizes})
    command: list[str | Path] = ["-W", "error", tmp_path / "extended_by_parts.py", path]
    run_at_once([[*command, str(i)] for i in (0, 1, 2, 0, 1)], cwd=tmp_path)
    assert status(path).is_complete
    assert array_bytes(path) == array_bytes(tmp_path / "at_once.zarr")
    assert bits(open_dataset(path)) == bits(expected)

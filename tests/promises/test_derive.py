"""Variables that are computed from those of a store, beside them."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from bits import array_bytes, change_record, chunk_files, file_bytes, finished_bytes
from distributed import Client
from processes import ended

import dasksim
from dasksim import (
    ArgumentError,
    ArgumentTypeError,
    IncompleteStoreError,
    OutputError,
    SimulatorError,
    StoreError,
    StoreMismatchError,
    derive,
    extend,
    generate,
    make_simulator,
    open_dataset,
    status,
    verify,
)
from dasksim.cli import main

N = 50
ALONE: dict[str, Any] = {"scheduler": "synchronous", "progress": False}
SIZES: dict[str, Any] = {"seed": 1, "sub_batch_size": 4, "chunk_size": 12, **ALONE}


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal(size=2)}


def observe(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"x": (theta[0] + rng.normal(size=5)).astype("float32"), "n": int(rng.poisson(3.0))}


def simulator() -> dasksim.Simulator:
    dims, coords = {"x": ["time"], "theta": ["parameter"]}, {"time": [0.0, 0.5, 1.0, 1.5, 2.0]}
    return make_simulator([prior, observe], dims=dims, coords=coords, expand_outputs=False)


def summaries(x: Any) -> dict[str, Any]:
    return {"mean": x.mean(axis=-1), "sd": x.std(axis=-1)}


def noisy(x: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"y": x + rng.normal(size=x.shape)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("derive") / "s.zarr"
    generate(simulator(), path, N, **SIZES)
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "s.zarr"))


def test_variables_are_those_of_the_function(store: Path) -> None:
    dataset = derive(store, summaries, **ALONE)
    assert list(dataset) == ["theta", "x", "n", "mean", "sd"]
    np.testing.assert_array_equal(dataset["mean"], [row.mean() for row in dataset.x.values])
    np.testing.assert_array_equal(dataset.sd, [row.std() for row in dataset.x.values])
    assert dataset["mean"].dtype == "float32"
    assert dataset["mean"].chunks == dataset.theta.chunks[:1]


def test_batched_functions_have_whole_sub_batches(store: Path) -> None:
    shapes = set()

    def sizes(x: Any, theta: Any) -> dict[str, Any]:
        shapes.add((x.shape, theta.shape))
        return {"product": x[:, :2] * theta}

    dataset = derive(store, sizes, is_batched=True, **ALONE)
    assert shapes == {((2, 5), (2, 2)), ((4, 5), (4, 2))}  # the probe's, and those of sub-batches
    np.testing.assert_array_equal(dataset["product"], dataset.x.values[:, :2] * dataset.theta.values)


def test_plain_xarray_and_zarr_see_them(store: Path) -> None:
    derive(store, noisy, dims={"y": ["time"]}, dtypes="float16", **ALONE)
    found = xr.open_zarr(store)
    assert found.y.dims == ("batch", "time")
    assert found.y.dtype == "float16"
    assert "time" in found.y.coords
    array = zarr.open_group(store, mode="r")["y"]
    assert isinstance(array, zarr.Array)
    assert array.shards == (12, 5)
    xr.testing.assert_equal(found.compute(), open_dataset(store).compute())


def test_streams_are_reproducible_and_no_simulated_stages(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    shutil.copytree(store, other)
    derive(store, noisy, **ALONE)
    derive(other, noisy, scheduler="threads", progress=False)
    assert array_bytes(store) == array_bytes(other)
    noise = open_dataset(store)
    differences = (noise.y - noise.x.values).values
    assert abs(differences.std() - 1) < 0.2

    def observe(theta: Any, rng: np.random.Generator) -> dict[str, Any]:  # the name of a simulated stage
        return {"again": theta[0] + rng.normal(size=5)}

    named = derive(store, observe, **ALONE)
    assert not np.isclose(named.again, named.x.values).any()
    changed = derive(other, noisy, seed=2, overwrite=True, **ALONE)
    assert not np.isclose(changed.y, noise.y).any()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_schedulers_change_no_byte(scheduler: str, store: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other.zarr"))
    derive(store, summaries, is_batched=True, **ALONE)
    derive(other, summaries, is_batched=True, scheduler=scheduler, progress=False)
    assert array_bytes(store) == array_bytes(other)


def test_workers_of_a_cluster_read_for_themselves(store: Path, tmp_path: Path, two_workers: Client) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other.zarr"))
    derive(store, noisy, **ALONE)
    derive(other, noisy, scheduler=two_workers, progress=False)
    assert array_bytes(store) == array_bytes(other)


def test_simulators_of_several_stages_derive_too(store: Path) -> None:
    chain = make_simulator([summaries, lambda mean, sd: {"ratio": mean / sd}], expand_outputs=False)
    dataset = derive(store, chain, **ALONE)
    np.testing.assert_allclose(dataset.ratio, dataset["mean"] / dataset.sd)


def test_derived_variables_may_be_taken_again(store: Path) -> None:
    derive(store, summaries, **ALONE)
    dataset = derive(store, lambda mean, sd: {"z": mean / sd}, **ALONE)
    np.testing.assert_array_equal(dataset.z, dataset["mean"] / dataset.sd)
    assert list(status(store).derived.items()) == [("mean, sd", 5), ("z", 5)]


def test_functions_that_take_all_are_given_all(store: Path) -> None:
    derive(store, summaries, **ALONE)
    for _ in range(2):
        dataset = derive(store, lambda **variables: {"n_variables": len(variables)}, **ALONE)
        assert (dataset.n_variables == 3).all()  # what was simulated


def test_further_batch_axes_are_axes_of_a_sample(tmp_path: Path) -> None:
    generate(make_simulator(prior), tmp_path / "s.zarr", (10, 3), **SIZES)
    dataset = derive(tmp_path / "s.zarr", lambda theta: {"total": theta.sum(axis=0)}, **ALONE)
    np.testing.assert_allclose(dataset.total, dataset.theta.sum("batch_1"))


def test_the_same_call_again_does_nothing(store: Path) -> None:
    derive(store, summaries, **ALONE)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    derive(store, summaries, **ALONE)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_an_exception_leaves_what_is_complete(store: Path) -> None:
    is_fixed: list[bool] = []

    def sometimes(x: Any, theta: Any) -> dict[str, Any]:
        if not is_fixed and theta[0] == last:
            raise ValueError("not this one")
        return {"mean": x.mean()}

    last = float(open_dataset(store).theta[30, 0])
    with pytest.raises(ValueError, match="not this one") as found:
        derive(store, sometimes, **ALONE)
    notes = "".join(found.value.__notes__)
    assert "raised by stage 'derive/mean/sometimes' at sample 30" in notes
    assert f"its inputs are\n    dasksim.open_dataset({str(store)!r}).isel(batch=slice(28, 32))" in notes
    assert status(store).derived == {"mean": 2}
    assert "derived  mean: 2 of 5 chunks; derive again" in str(status(store))
    assert list(open_dataset(store)) == ["theta", "x", "n"]
    is_fixed.append(True)
    assert list(derive(store, sometimes, allow_changed=True, **ALONE)) == ["theta", "x", "n", "mean"]


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "unknown": (
        lambda thete: {"a": thete},
        ArgumentError,
        "takes 'thete', which is no variable .*; did you mean 'theta'",
    ),
    "taken": (lambda theta: {"x": theta}, ArgumentError, "returns 'x', a name that the store has already"),
    "itself": (lambda x: {"x": x}, ArgumentError, "returns 'x', a name that the store has already"),
    "itself in another shape": (
        lambda x: {"x": x[:2]},
        ArgumentError,
        "returns 'x', a name that the store has already",
    ),
    "mask": (
        lambda x: {"valid": x[0] > 0},
        OutputError,
        "returned the variable 'valid', the name of the mask that stores have",
    ),
    "dim": (lambda x: {"time": x}, ArgumentError, "returns 'time', a name that the store has already"),
    "no function": (3, ArgumentTypeError, "fn must be a function or a Simulator; got 3"),
    "no dict": (lambda x: x, OutputError, "must return a dict"),
    "text": (lambda x: {"a": "b"}, OutputError, "must be boolean or numeric"),
    "name": (lambda x: {"a/b": x}, OutputError, "cannot be empty, contain '/'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_and_leaves_no_trace(name: str, store: Path) -> None:
    function, error, message = REFUSED[name]
    before = file_bytes(store)
    with pytest.raises(error, match=message):
        derive(store, function, **ALONE)
    assert file_bytes(store) == before


def test_dims_that_do_not_fit_are_refused(store: Path) -> None:
    before = file_bytes(store)
    with pytest.raises(ArgumentError, match="'y' has size 3 along 'time', but the store has 5"):
        derive(store, lambda x: {"y": x[:3]}, dims={"y": ["time"]}, **ALONE)
    with pytest.raises(ArgumentError, match="'n' is a variable of the store, and cannot name a dim of 'y'"):
        derive(store, lambda x: {"y": x}, dims={"y": ["n"]}, **ALONE)
    with pytest.raises(SimulatorError, match="dims names 'z', which is no variable"):
        derive(store, lambda x: {"y": x}, dims={"z": ["time"]}, **ALONE)
    assert file_bytes(store) == before


def test_incomplete_and_missing_stores_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        derive(tmp_path / "none.zarr", summaries, **ALONE)
    generate(simulator(), tmp_path / "half.zarr", N, part=(0, 2), **SIZES)
    with pytest.raises(IncompleteStoreError, match="run generate again with the same arguments to finish it"):
        derive(tmp_path / "half.zarr", summaries, **ALONE)


def test_other_functions_of_the_same_names_are_refused(store: Path) -> None:
    derive(store, summaries, **ALONE)
    before = file_bytes(store)

    def summaries_changed(x: Any) -> dict[str, Any]:
        return {"mean": x.mean(axis=-1), "sd": x.var(axis=-1)}

    summaries_changed.__name__ = "summaries"
    with pytest.raises(StoreMismatchError, match="stage 'derive/mean/summaries': its source"):
        derive(store, summaries_changed, **ALONE)
    with pytest.raises(StoreMismatchError, match="seed: 1 in the store, 2 asked for"):
        derive(store, summaries, seed=2, **ALONE)
    with pytest.raises(StoreMismatchError, match="were derived otherwise"):
        derive(store, lambda x: {"sd": x.std()}, **ALONE)
    assert file_bytes(store) == before
    dataset = derive(store, summaries_changed, overwrite=True, **ALONE)
    np.testing.assert_allclose(dataset.sd, dataset.x.var("time"), rtol=1e-5)
    dataset = derive(store, lambda x: {"sd": x.std()}, overwrite=True, **ALONE)
    assert list(dataset) == ["theta", "x", "n", "sd"]
    assert not (store / "mean").exists()


def test_stores_are_extended_with_what_was_derived(store: Path, tmp_path: Path) -> None:
    derive(store, summaries, **ALONE)
    extend(store, simulator(), 70, **ALONE)
    assert list(open_dataset(store)) == ["theta", "x", "n"]
    assert zarr.open_group(store, use_consolidated=False)["mean"].shape == (70,)  # type: ignore[union-attr]
    assert status(store).derived == {"mean, sd": 4}
    derive(store, summaries, **ALONE)
    whole = tmp_path / "whole.zarr"
    generate(simulator(), whole, 70, **SIZES)
    derive(whole, summaries, **ALONE)
    assert array_bytes(store) == array_bytes(whole)


def test_runs_of_generate_leave_them_alone(store: Path) -> None:
    derive(store, summaries, **ALONE)
    before = array_bytes(store)
    generate(simulator(), store, N, **SIZES)
    next(iter((store / "_dasksim" / "receipts").glob("c.1.0"))).unlink()
    generate(simulator(), store, N, **SIZES)
    assert array_bytes(store) == before
    assert dasksim.replay(store, simulator(), 17).is_stored
    generate(simulator(), store, N, overwrite=True, **{**SIZES, "seed": 2})
    assert not (store / "mean").exists()
    assert status(store).derived == {}


def test_lost_shards_of_what_is_taken_are_noticed(store: Path) -> None:
    chunk_files(store, "x")[2].unlink()
    with pytest.raises(StoreError, match=r"chunk 2: 'x' has no shard; .*repair=True"):
        derive(store, summaries, **ALONE)


def test_plain_xarray_sees_nothing_incomplete(store: Path) -> None:
    derive(store, summaries, **ALONE)
    extend(store, simulator(), 70, **ALONE)
    assert set(xr.open_zarr(store)) == {"theta", "x", "n"}
    with pytest.raises(ValueError, match="stop"):
        derive(store, lambda theta: {"z": stop(theta)}, **ALONE)
    assert set(xr.open_zarr(store)) == {"theta", "x", "n"}
    assert verify(store).is_good
    derive(store, summaries, **ALONE)
    assert set(xr.open_zarr(store)) == {"theta", "x", "n", "mean", "sd"}


def stop(theta: Any) -> Any:
    if theta[1] > 2:
        raise ValueError("stop")
    return theta


def test_what_was_derived_from_replaced_variables_goes_with_them(store: Path) -> None:
    derive(store, summaries, **ALONE)
    derive(store, lambda mean: {"square": mean**2}, **ALONE)
    derive(store, lambda square: {"fourth": square**2}, **ALONE)
    derive(store, lambda theta: {"apart": theta.sum()}, **ALONE)
    dataset = derive(store, lambda x: {"mean": x.max()}, overwrite=True, **ALONE)
    assert set(dataset) == {"theta", "x", "n", "apart", "mean"}


def test_derivations_have_streams_of_their_own(store: Path) -> None:
    derive(store, lambda x, rng: {"a": rng.normal()}, **ALONE)
    dataset = derive(store, lambda x, rng: {"b": rng.normal()}, **ALONE)
    assert not (dataset.a == dataset.b).any()


def test_arrays_of_others_are_left_alone(store: Path) -> None:
    zarr.create_array(store / "mean", shape=(3,), dtype="int8", dimension_names=("q",))[:] = 7
    before = file_bytes(store)
    with pytest.raises(StoreError, match="holds a 'mean' that is none of its variables; remove it"):
        derive(store, summaries, **ALONE)
    assert file_bytes(store) == before


def test_damage_is_found_and_repaired(store: Path) -> None:
    derive(store, summaries, **ALONE)
    before = array_bytes(store)
    shard = chunk_files(store, "mean")[2]
    content = bytearray(shard.read_bytes())
    content[5] ^= 1
    shard.write_bytes(bytes(content))
    found = verify(store)
    assert list(found.problems) == [2]
    assert found.problems[2][0].startswith("derived 'mean' cannot be read")
    derive(store, summaries, repair=True, **ALONE)
    assert verify(store).is_good
    assert array_bytes(store) == before


def test_loaders_batch_them(store: Path) -> None:
    derive(store, summaries, **ALONE)
    batches = list(dasksim.loaders.batches(store, 10, variables=["theta", "mean"], seed=1))
    assert sum(len(batch["mean"]) for batch in batches) == N
    dataset = open_dataset(store)
    expected = dict(zip(dataset.theta.values[:, 0].tolist(), dataset["mean"].values.tolist(), strict=True))
    assert all(
        expected[t] == m
        for batch in batches
        for t, m in zip(batch["theta"][:, 0].tolist(), batch["mean"].tolist(), strict=True)
    )


def test_masked_samples_are_given_as_they_are(tmp_path: Path) -> None:
    def sometimes(theta: Any) -> dict[str, Any]:
        if theta[0] > 1:
            raise ValueError("no")
        return {"x": theta[0]}

    generate(make_simulator([prior, sometimes]), tmp_path / "s.zarr", N, on_error="mask", **SIZES)
    dataset = derive(tmp_path / "s.zarr", lambda x, valid: {"y": x * 2, "was_valid": valid}, **ALONE).compute()
    np.testing.assert_array_equal(np.isnan(dataset.y[:, 0]), ~dataset.valid)
    np.testing.assert_array_equal(dataset.was_valid, dataset.valid)


@pytest.mark.parametrize("kind", ["memory", "icechunk"])
def test_other_locations(kind: str, tmp_path: Path) -> None:
    where: Any = zarr.storage.MemoryStore()
    if kind == "icechunk":
        icechunk = pytest.importorskip("icechunk")
        where = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repository")))
    sizes = {**SIZES, "scheduler": "threads"}
    generate(simulator(), where, N, **sizes)
    dataset = derive(where, summaries, scheduler="threads", progress=False)
    np.testing.assert_allclose(dataset["mean"], dataset.x.mean("time"), rtol=1e-5)
    extend(where, simulator(), 70, scheduler="threads", progress=False)
    assert "mean" not in open_dataset(where)
    assert derive(where, summaries, scheduler="threads", progress=False)["mean"].shape == (70,)


FUNCTION = """
import numpy as np

def noisy(x, rng):
    return {"y": x + rng.normal(size=x.shape)}
"""


def test_command_line(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "functions.py").write_text(FUNCTION)
    target = f"{tmp_path / 'functions.py'}:noisy"
    assert main(["derive", target, str(store), "--dtype", "float32", "--scheduler", "threads"]) == 0
    assert "derived  y" in capsys.readouterr().err
    assert open_dataset(store).y.dtype == "float32"
    assert main(["derive", target, str(store), "--seed", "9"]) == 2
    assert "seed: 1 in the store, 9 asked for" in capsys.readouterr().err
    assert main(["derive", target, str(store), "--seed", "9", "--overwrite", "--batched"]) == 0


@pytest.mark.slow  # test_derived_at_once has several in every case
def test_two_processes_at_once(store: Path, tmp_path: Path) -> None:
    (tmp_path / "functions.py").write_text(FUNCTION)
    other = Path(shutil.copytree(store, tmp_path / "other.zarr"))
    command = [sys.executable, "-m", "dasksim", "derive", f"{tmp_path / 'functions.py'}:noisy"]
    runs = [subprocess.Popen([*command, str(store)], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    with ended(runs):
        errors = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert subprocess.run([*command, str(other)], capture_output=True).returncode == 0
    assert array_bytes(store) == array_bytes(other)


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "functions.py").write_text(FUNCTION)
    store = tmp_path / "s.zarr"
    many = make_simulator(lambda batch_shape, rng: {"x": rng.normal(size=(*batch_shape, 4))}, is_batched=True)
    generate(many, store, 100_000, seed=1, chunk_size=1000, sub_batch_size=1000, progress=False)
    other = Path(shutil.copytree(store, tmp_path / "other.zarr"))
    command = [sys.executable, "-m", "dasksim", "derive", f"{tmp_path / 'functions.py'}:noisy"]
    cut = []
    for n_receipts in (1, 30, 60, 90, 101):  # the last of the runs is not killed
        run = subprocess.Popen([*command, str(store)], stderr=subprocess.DEVNULL)
        try:
            while run.poll() is None and len(list(store.glob("_dasksim/derived/y/receipts/c.*.0"))) < n_receipts:
                time.sleep(0.001)
        finally:
            run.kill()
            cut.append(run.wait() < 0)
    assert run.returncode == 0
    assert subprocess.run([*command, str(other)], capture_output=True).returncode == 0
    assert finished_bytes(store) == array_bytes(other)
    assert sum(cut) > 1


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no mapping": lambda record: record.update(derived=[1]),
    "no entry": lambda record: record.update(derived={"mean": 1}),
    "no variables": lambda record: record.update(derived={"mean": {"n_samples": 50, "variables": {}}}),
    "path": lambda record: record["derived"].update(
        {"mean": {**record["derived"]["mean"], "variables": {"../../etc": {}}}}
    ),
    "count": lambda record: record["derived"]["mean"].update(n_samples=-1),
    "twice": lambda record: record["derived"].update(other=record["derived"]["mean"]),
    "simulated": lambda record: record["derived"]["mean"]["variables"].update(x=record["variables"]["x"]),
    "shape": lambda record: record["derived"]["mean"]["variables"]["mean"].update(shape=[10**30]),
    "longer": lambda record: record["derived"]["mean"]["variables"]["mean"].update(shape=[7], dims=["batch", "q"]),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_crafted_entries_are_refused(case: str, store: Path) -> None:
    derive(store, summaries, **ALONE)
    change_record(store, HOSTILE[case])
    with pytest.raises(StoreError, match="the store at"):
        open_dataset(store)
    with pytest.raises((StoreError, StoreMismatchError), match="the store at"):
        derive(store, summaries, **ALONE)

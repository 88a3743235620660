"""Loaders, plots, reports and ArviZ take whatever holds samples: datasets, Zarr groups of others, several stores."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import dask
import dask.local
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
import zarr
from bits import receipt_files
from loading import HOW, SIMULATOR, Array, N, meta, original, prior, samples, simulate, theta

import dasksim
from dasksim import ArgumentError, ArgumentTypeError, StoreError, loaders, plots
from dasksim.loaders._rows import Rows

mpl.use("agg")

__all__ = ["original", "theta"]  # fixtures


@pytest.fixture(scope="module")
def dataset(original: Path) -> xr.Dataset:
    return dasksim.open_dataset(original)


def in_memory(dataset: xr.Dataset, path: Path) -> Any:
    return dataset.load()


def in_dask(dataset: xr.Dataset, path: Path) -> Any:
    return dataset.chunk(batch=(100, 1, 0, 399, 500))


def of_two_chunkings(dataset: xr.Dataset, path: Path) -> Any:
    return dataset.assign(theta=dataset.theta.chunk(batch=300), x=dataset.x.load())


def transposed(dataset: xr.Dataset, path: Path) -> Any:
    return dataset.transpose(..., "batch").assign(one=3.0)  # not of samples


def copied(dataset: xr.Dataset, path: Path) -> Any:
    dataset.to_zarr(path, zarr_format=3, consolidated=False)
    return path


def of_format_2(dataset: xr.Dataset, path: Path) -> Any:
    dataset.to_zarr(path, zarr_format=2)
    return str(path)


def by_xarray(dataset: xr.Dataset, path: Path) -> Any:
    return xr.open_zarr(copied(dataset, path), consolidated=False)


def without_dask(dataset: xr.Dataset, path: Path) -> Any:
    return xr.open_zarr(copied(dataset, path), consolidated=False, chunks=None)


WAYS = [in_memory, in_dask, of_two_chunkings, transposed, copied, of_format_2, by_xarray, without_dask]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def source(request: pytest.FixtureRequest, dataset: xr.Dataset, tmp_path: Path) -> Any:
    return request.param(dataset.copy(), tmp_path / "copy.zarr")


def test_batches_hold_the_rows_of_anything(source: Any, dataset: xr.Dataset, theta: Array) -> None:
    whole, seen = dataset.compute(), []
    loader = loaders.batches(source, 64, seed=3)

    for batch in loader:
        rows = samples([batch], theta)
        seen += rows
        assert batch.keys() >= set(map(str, whole))
        for name in whole:
            assert batch[str(name)].dtype == whole[name].dtype
            np.testing.assert_array_equal(batch[str(name)], whole[name].values[rows])

    assert len(loader) == 16
    assert sorted(seen) == list(range(N))
    assert seen != sorted(seen)
    assert samples(loader, theta) != seen
    assert samples(loaders.batches(source, 64, seed=3), theta) == seen
    assert samples(loaders.batches(source, 64, shuffle=False), theta) == list(range(N))


def test_ranks_and_splits_share_out_anything(source: Any, theta: Array) -> None:
    fractions = {"train": 0.7, "test": 0.3}
    seen: list[int] = []
    for name in fractions:
        for rank in range(2):
            loader = loaders.batches(source, 20, split=(name, fractions), shard=(rank, 2), within="n_obs")
            batches = list(loader)
            assert len(batches) == len(loader)
            assert all(len(np.unique(batch["n_obs"])) == 1 for batch in batches)
            seen += samples(batches, theta)

    assert sorted(seen) == list(range(N))


def test_a_split_of_a_dataset_is_that_of_its_store(original: Path, dataset: xr.Dataset, theta: Array) -> None:
    split = "test", {"train": 0.7, "test": 0.3}
    assert N // 16 < 64

    found = [sorted(samples(loaders.batches(each, 20, split=split), theta)) for each in (original, dataset.compute())]

    assert found[0] == found[1]


def test_plots_report_and_arviz_take_anything(source: Any, dataset: xr.Dataset, tmp_path: Path) -> None:
    names = ["theta", "x[1]"]
    assert plots.pairs(source, names).shape == (2, 2)
    assert len(plots.marginals(source, names)) == 2
    assert plots.predictive_bands(source, "x").lines
    page = dasksim.report(source, tmp_path / "report.html").read_text()
    assert "1,000" in page
    assert "does not say how it was made" in page
    assert "image/png" in page
    plt.close("all")
    tree = dasksim.to_arviz(source, ["theta", "kind"])
    np.testing.assert_array_equal(tree["prior"].theta.values[0], dataset.theta.values)


def test_samples_by_number_are_those_of_anything(source: Any, original: Path, dataset: xr.Dataset) -> None:
    both = Rows(loaders.batches([source, original], 64).source(), buffer_bytes=1 << 20)

    taken = both.take([0, 999, 131, 1999, 1000])

    expected = dataset.x.values[[0, 999, 131, 999, 0]]
    assert len(both) == 2 * N
    np.testing.assert_array_equal(taken["x"], expected)


def test_a_filtered_dataset_is_loaded(dataset: xr.Dataset, theta: Array) -> None:
    wanted = np.flatnonzero(dataset.flag.values)

    found = samples(loaders.batches(dataset.isel(batch=wanted), 64, variables=["theta"]), theta)

    assert sorted(found) == wanted.tolist()


def test_each_chunk_is_computed_once_an_epoch_for_all_variables() -> None:
    calls = []

    def noted(block: Array) -> Array:
        calls.append(len(block))
        return block

    lazy = xr.DataArray(np.arange(100.0), dims="batch").chunk(batch=25)
    lazy = lazy.copy(data=lazy.data.map_blocks(noted, dtype=float, meta=np.empty(0)))
    loader = loaders.batches(xr.Dataset({"a": lazy, "b": lazy + 1, "c": 2 * lazy}), 10)
    calls.clear()

    assert len(list(loader)) == 10
    assert calls == [25] * 4


def test_the_scheduler_of_the_user_computes(dataset: xr.Dataset) -> None:
    seen = []

    def get(graph: Any, keys: Any, **how: Any) -> Any:
        seen.append(keys)
        return dask.local.get_sync(graph, keys, **how)

    with dask.config.set(scheduler=get):
        list(loaders.batches(dataset, 64))

    assert len(seen) == len(dataset.chunksizes["batch"])


def test_a_pickled_loader_of_a_dataset_reads_the_same(source: Any, theta: Array) -> None:
    loader = loaders.batches(source, 64)

    copy = pickle.loads(pickle.dumps(loader))

    assert samples(copy, theta) == samples(loader, theta)


def often_fails(theta: float, rng: np.random.Generator) -> dict[str, Any]:
    if rng.random() < 0.2:
        raise ValueError("no")
    return {"x": (theta + rng.normal(size=3)).astype("float32"), "flag": bool(theta > 0.5)}


FAILS = dasksim.make_simulator([prior, often_fails], meta_fn=meta)


def test_masked_samples_of_datasets_are_refused_dropped_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "masked.zarr"
    dataset = dasksim.generate(FAILS, path, N, on_error="mask", **HOW)
    n_valid = int(dataset.valid.sum())

    for source in (dataset, dataset.compute(), copied(dataset, tmp_path / "copy.zarr"), [path, dataset]):
        times = 2 if isinstance(source, list) else 1
        with pytest.raises(ArgumentError, match=r"samples of the (dataset|store at .*) failed and are masked; give"):
            loaders.batches(source, 64)
        batches = list(loaders.batches(source, 64, masked="drop"))
        assert sum(len(batch["x"]) for batch in batches) == times * n_valid
        assert not any(np.isnan(batch["x"]).any() for batch in batches)
        assert loaders.batches(source, 64, masked="keep").n_samples == times * N
    valid = dataset.isel(batch=np.flatnonzero(dataset.valid.values))
    assert loaders.batches(valid, 64).n_samples == n_valid


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (xr.Dataset({"x": ("row", np.arange(3))}), "the dataset must have the dim 'batch'; it has 'row'"),
        (xr.Dataset({"x": ("batch", np.zeros(0))}), r"must have samples, along the dim 'batch'; got \{'batch': 0\}"),
        (
            xr.Dataset({"x": ("batch", np.array([None, 1]))}),
            "variables of Python objects cannot be loaded; leave out x",
        ),
    ],
)
def test_datasets_that_cannot_be_loaded_are_refused(dataset: xr.Dataset, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        loaders.batches(dataset, 2)


def test_chunks_that_do_not_fit_into_the_buffer_are_refused(dataset: xr.Dataset) -> None:
    with pytest.raises(
        ArgumentError, match=r"out of chunks of 1,000 samples, .*give at least .*, smaller chunks, or a"
    ):
        loaders.batches(dataset.chunk(batch=-1), 10, buffer_bytes=100_000)


def test_what_does_not_grow_is_not_partial(dataset: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"partial=True is for stores of dasksim, .*; got a Dataset"):
        loaders.batches(dataset, 10, partial=True)
    with pytest.raises(ArgumentError, match=r"; got the Zarr group at '.*copy'"):
        loaders.batches(copied(dataset, tmp_path / "copy"), 10, partial=True)
    with pytest.raises(ArgumentTypeError, match="store must be one store, which is being generated; got <xarray"):
        loaders.follow(dataset, 10)


def test_a_store_that_lost_its_receipts_is_no_group_of_others(original: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(original, tmp_path / "s.zarr"))
    shutil.rmtree(path / "_dasksim")
    (path / "x" / "c" / "3" / "0").unlink()

    for read in (plots.marginals, dasksim.report, lambda path: loaders.batches(path, 10)):
        with pytest.raises(StoreError, match=r"has no receipts, so that nobody knows which of its samples are there"):
            read(path)


def test_a_group_of_pickles_is_not_read(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "evil.zarr", mode="w", zarr_format=2)
    array = group.create_array("x", shape=(3,), dtype=str, compressors=None)
    array.attrs["_ARRAY_DIMENSIONS"] = ["batch"]
    document = tmp_path / "evil.zarr" / "x" / ".zarray"
    document.write_text(document.read_text().replace('"compressor": null', '"compressor": {"id": "pickle"}'))

    with pytest.raises(StoreError, match="holds pickles, which may run any code"):
        plots.marginals(tmp_path / "evil.zarr")


def test_groups_without_names_of_dims_are_refused(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "g.zarr", mode="w").create_array("x", shape=(3,), dtype="f8")

    with pytest.raises(StoreError, match=r"cannot open the Zarr group at '.*g\.zarr' as a dataset"):
        loaders.batches(tmp_path / "g.zarr", 2)


# Several as one


@pytest.fixture
def rounds(original: Path, tmp_path: Path) -> list[Path]:
    dasksim.generate(SIMULATOR, tmp_path / "two.zarr", 300, **{**HOW, "seed": 2, "chunk_size": 40})
    return [original, tmp_path / "two.zarr"]


def test_stores_are_opened_as_one(rounds: list[Path]) -> None:
    first, second = map(dasksim.open_dataset, rounds)

    both = dasksim.open_dataset(rounds)

    assert both["round"].dtype == np.int64
    assert both["round"].values.tolist() == [0] * N + [1] * 300
    assert both["round"].chunksizes == both.drop_dims(["x_dim_0", "scalar"]).chunksizes
    assert both.drop_vars("round").equals(xr.concat([first, second], "batch"))
    assert "dasksim" not in both.attrs
    assert dasksim.open_dataset(rounds[:1]).sizes["batch"] == N


def test_partial_stores_are_opened_as_one(rounds: list[Path]) -> None:
    receipt_files(rounds[1])[0].unlink()
    with pytest.raises(dasksim.IncompleteStoreError, match=r"two\.zarr' has 7 of 8 chunks"):
        dasksim.open_dataset(rounds)

    both = dasksim.open_dataset(rounds, partial=True)

    assert both.sizes["batch"] == N + 260
    assert both.sample.values[N - 1 :].tolist()[:1] == [N - 1]
    assert set(both.sample.values[N:].tolist()) < set(range(300))
    loader = loaders.batches(rounds, 50, partial=True)
    assert sum(len(batch["x"]) for batch in loader) == N + 260
    dasksim.generate(SIMULATOR, rounds[1], 300, **{**HOW, "seed": 2, "chunk_size": 40})
    assert sum(len(batch["x"]) for batch in loader) == N + 300


@pytest.mark.parametrize("how", [{}, {"within": "n_obs"}, {"split": ("a", {"a": 0.5, "b": 0.5})}, {"shuffle": False}])
def test_stores_are_loaded_as_one(rounds: list[Path], how: dict[str, Any]) -> None:
    numbers = dasksim.open_dataset(rounds).theta.values[:, 0]
    mixed = [rounds[0], dasksim.open_dataset(rounds[1])]
    others = [("b", how["split"][1])] if "split" in how else []

    for sources in (rounds, tuple(rounds), mixed):
        seen: list[int] = []
        for options in (how, *({**how, "split": other} for other in others)):
            for rank in range(2):
                batches = list(loaders.batches(sources, 64, shard=(rank, 2), **options))
                assert "within" not in how or all(len(np.unique(batch["n_obs"])) == 1 for batch in batches)
                seen += samples(batches, numbers)
        assert sorted(seen) == list(range(N + 300))
    if not how:
        batch = samples([next(iter(loaders.batches(rounds, 200)))], numbers)
        assert min(batch) < N <= max(batch)


def test_stores_of_other_variables_are_not_one(original: Path, tmp_path: Path) -> None:
    other = dasksim.make_simulator([prior, lambda theta: {"y": theta}], meta_fn=meta)
    dasksim.generate(other, tmp_path / "other.zarr", 20, **HOW)
    paths = [original, tmp_path / "other.zarr"]

    message = (
        r"must have the same variables; .*x: .*float32.* in number 0, nothing in number 1; .*y: nothing in number 0"
    )
    for read in (dasksim.open_dataset, lambda paths: loaders.batches(paths, 10), plots.marginals, dasksim.report):
        with pytest.raises(ArgumentError, match=message):
            read(paths)
    assert loaders.batches(paths, 10, variables=["theta"]).n_samples == N + 20
    with pytest.raises(ArgumentError, match=r"a list of stores must have one at least; got \[\]"):
        dasksim.open_dataset([])
    with pytest.raises(ArgumentError, match=r"a list of stores must have one at least; got \[\]"):
        loaders.batches([], 10)


def test_stores_of_other_labels_are_not_one(tmp_path: Path) -> None:
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    for path, labels in zip(paths, ([0, 1, 2], [0, 1, 3]), strict=True):
        sim = dasksim.make_simulator(simulate, dims={"x": ["t"]}, coords={"t": np.array(labels)})
        dasksim.generate(sim, path, 20, conditions={"theta": np.zeros(20)}, **HOW)

    with pytest.raises(ArgumentError, match=r"labels of t: \[0, 1, 2\] in number 0, \[0, 1, 3\] in number 1"):
        dasksim.open_dataset(paths)


def test_a_store_of_several_that_was_made_anew_is_noticed(rounds: list[Path]) -> None:
    loader = loaders.batches(rounds, 64)
    dasksim.generate(SIMULATOR, rounds[1], 300, overwrite=True, **{**HOW, "seed": 3, "chunk_size": 40})

    with pytest.raises(dasksim.StoreMismatchError, match=r"two\.zarr' was removed or made anew"):
        list(loader)


def test_plots_and_reports_take_several_stores(rounds: list[Path], tmp_path: Path) -> None:
    assert len(plots.marginals(rounds, ["theta"])) == 1
    assert "1,300" in dasksim.report(rounds, tmp_path / "report.html").read_text()
    assert dasksim.to_arviz(rounds, ["theta"])["prior"].sizes["draw"] == N + 300


def test_arrays_that_xarray_cannot_join_are_refused_in_words(
    rounds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def concat(*args: Any, **how: Any) -> Any:
        raise NotImplementedError  # as with the expressions of Dask's query planning

    monkeypatch.setattr(xr, "concat", concat)

    with pytest.raises(ArgumentError, match=r"xarray cannot join these arrays, as with Dask's option array\.query-pl"):
        dasksim.open_dataset(rounds)

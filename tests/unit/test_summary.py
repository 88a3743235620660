"""Statistics and histograms of whole stores, against NumPy on the same data in memory."""

import threading
import tracemalloc
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr

from dasksim import ArgumentError, IncompleteStoreError, StoreError, generate, make_simulator, open_dataset
from dasksim._analysis._histograms import count_histograms
from dasksim._analysis._summary import Feature, Summary, summarize


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal(3, 2, size=2), "k": int(rng.integers(4))}


def observe(theta: Any, k: int, rng: np.random.Generator) -> dict[str, Any]:
    x = rng.standard_cauchy(size=(3, 2)) + theta
    x[0, 0] = np.nan if k == 1 else x[0, 0]
    x[1, 0] = np.inf if k == 2 else x[1, 0]
    return {"x": x.astype("float32"), "z": 1.0 + 1e-9 * rng.normal(), "wave": np.exp(1j * theta[0])}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("summary") / "s.zarr"
    simulator = make_simulator([prior, observe], dims={"x": ["time", "axis"]}, coords={"axis": ["a", "b"]})
    generate(simulator, path, 1000, seed=1, sub_batch_size=10, chunk_size=70, scheduler="synchronous")
    return path


@pytest.fixture(scope="module")
def summary(path: Path) -> Summary:
    return summarize(path)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def fail(theta: Any, k: int) -> dict[str, Any]:
        if k == 3:
            raise ArithmeticError
        return {"y": theta.sum()}

    path = tmp_path_factory.mktemp("masked") / "s.zarr"
    options: dict[str, Any] = {"sub_batch_size": 10, "chunk_size": 50, "on_error": "mask"}
    generate(make_simulator([prior, fail]), path, 500, seed=1, scheduler="synchronous", **options)
    return path


def all_pairs(features: list[Feature]) -> list[tuple[int, int]]:
    return [(i, j) for i in range(len(features)) for j in range(i)]


@pytest.mark.parametrize("name", ["theta", "k", "x", "z", "wave"])
def test_statistics_are_those_of_the_finite_values(name: str, path: Path, summary: Summary) -> None:
    values = open_dataset(path)[name].values.reshape(1000, -1)
    values = (abs(values) if values.dtype.kind == "c" else values).astype("float64")
    finite = np.where(np.isfinite(values), values, np.nan)

    found = summary.statistics[name]

    assert (summary.n_samples, summary.n_masked, summary.n_kept) == (1000, 0, 1000)
    np.testing.assert_array_equal(found.count, np.isfinite(values).sum(0))
    np.testing.assert_array_equal(found.n_nan, np.isnan(values).sum(0))
    np.testing.assert_array_equal(found.n_infinite, np.isinf(values).sum(0))
    np.testing.assert_allclose(found.mean, np.nanmean(finite, 0), rtol=1e-12)
    np.testing.assert_allclose(found.sd, np.nanstd(finite, 0), rtol=1e-6)
    np.testing.assert_array_equal(found.minimum, np.nanmin(finite, 0))
    np.testing.assert_array_equal(found.maximum, np.nanmax(finite, 0))
    np.testing.assert_array_equal(found.quantiles([0.1, 0.5]), np.nanquantile(finite, [0.1, 0.5], axis=0))


def test_quantiles_of_more_samples_are_right_to_their_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=200_000)
    summary = summarize(xr.Dataset({"x": ("batch", values)}).chunk(batch=7_777))
    levels = np.array([0.01, 0.25, 0.5, 0.9])

    assert 10_000 < summary.n_kept <= 1 << 14
    reached = (values[:, None] < summary.statistics["x"].quantiles(levels.tolist()).ravel()).mean(0)
    errors = np.sqrt(levels * (1 - levels) / summary.n_kept)
    assert (abs(reached - levels) < 4 * errors).all()  # fails by chance once in 4,000 seeds; the seed is fixed


def test_masked_samples_are_left_out_and_counted(masked: Path) -> None:
    dataset = open_dataset(masked).compute()
    valid = dataset.valid.values
    assert 0 < valid.sum() < 500

    summary = summarize(masked)

    assert summary.n_masked == (~valid).sum()
    assert set(summary.statistics) == {"theta", "k", "y"}
    for name in ("theta", "k", "y"):
        rows = dataset[name].values[valid].reshape(valid.sum(), -1)
        np.testing.assert_allclose(summary.statistics[name].mean, rows.mean(0), rtol=1e-12)
        np.testing.assert_array_equal(summary.statistics[name].count, len(rows))
    found = count_histograms(summary, summary.features(["y"]), 20)
    assert found.counts[0].sum() <= valid.sum()


def test_a_variable_named_valid_of_an_older_store_masks_nothing_where_no_samples_are_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = make_simulator(lambda rng: {"valid": bool(rng.random() < 0.5), "x": rng.normal()})
    with monkeypatch.context() as older:
        older.setattr("dasksim._core.variables.VALID", "")  # the name was not refused
        generate(simulator, tmp_path / "s.zarr", 100, seed=1, scheduler="synchronous")

    summary = summarize(tmp_path / "s.zarr")

    assert summary.n_masked == 0
    assert summary.statistics["x"].count == 100
    assert 0 < summary.statistics["valid"].mean < 1


def test_histograms_are_those_of_numpy(path: Path, summary: Summary) -> None:
    dataset = open_dataset(path).compute()
    features = summary.features(["theta", "x", "k"])

    found = count_histograms(summary, features, 13, all_pairs(features))

    values = [dataset[f.variable].values.reshape(1000, -1)[:, f.column].astype("float64") for f in features]
    for i, edges in enumerate(found.edges):
        np.testing.assert_array_equal(found.counts[i], np.histogram(values[i][np.isfinite(values[i])], edges)[0])
        for j in range(i):
            both = np.isfinite(values[i]) & np.isfinite(values[j])
            expected = np.histogram2d(values[i][both], values[j][both], [edges, found.edges[j]])[0]
            np.testing.assert_array_equal(found.pairs[i, j], expected)
    assert found.counts[-1].tolist() == np.bincount(dataset.k.values.ravel()).tolist()  # whole numbers
    cauchy = found.edges[2]
    assert -500 < cauchy[0] < cauchy[-1] < 500  # and not to the most extreme value


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).binomial(100, 0.5, 5000) / 100,
        (np.random.default_rng(1).binomial(300, 0.5, 5000) / 1000).astype("float32"),
        2 * np.random.default_rng(1).poisson(50, 5000),
        np.random.default_rng(1).integers(0, 2, 5000) * 1e-3 - 7,
    ],
)
def test_bins_of_rounded_values_hold_as_many_of_them_each(values: npt.NDArray[Any]) -> None:
    summary = summarize(xr.Dataset({"x": ("batch", values)}))

    found = count_histograms(summary, summary.features(), 20)

    edges, distinct = found.edges[0], np.unique(values)
    assert 2 <= len(edges) - 1 <= 20
    step = np.diff(distinct).min()
    width = np.diff(edges) / step
    np.testing.assert_allclose(width, round(width[0]), rtol=1e-3)
    off = np.abs((edges - distinct[0]) / step % 1 - 0.5)
    assert off.max() < 0.1  # halfway between values
    assert found.counts[0].sum() > 0.99 * len(values)


def test_values_with_gaps_are_not_taken_for_rounded_ones() -> None:
    values = np.repeat([0.0, 0.1, 0.537], 1000)
    summary = summarize(xr.Dataset({"x": ("batch", values)}))

    found = count_histograms(summary, summary.features(), 10)

    np.testing.assert_allclose(found.edges[0], np.linspace(0, 0.537, 11))


@pytest.mark.parametrize("value", [0.0, 5.0, 1e300, -1e-300, np.nan, np.inf])
def test_a_constant_has_a_histogram(value: float) -> None:
    summary = summarize(xr.Dataset({"x": ("batch", np.full(10, value))}))

    found = count_histograms(summary, summary.features(), 4, all_pairs(summary.features()))

    assert np.all(np.diff(found.edges[0]) > 0)
    assert found.counts[0].sum() == (10 if np.isfinite(value) else 0)


def test_features_are_labelled_by_coordinates_or_numbers(summary: Summary) -> None:
    assert [feature.label for feature in summary.features(["x", "theta", "k"])] == [
        *(f"x[{time}, {axis}]" for time in range(3) for axis in "ab"),
        *("theta[0]", "theta[1]", "k"),
    ]
    assert [feature.column for feature in summary.features(["x[1, b]", "x[1, b]"])] == [3]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tehta"], "there is no variable 'tehta'; did you mean 'theta'?"),
        (["tehta[0]"], r"there is no variable 'tehta\[0\]'; did you mean 'theta'?"),
        (["theta[3]"], r"there is no variable or feature 'theta\[3\]'; did you mean 'theta\[[01]\]'?"),
    ],
)
def test_unknown_names_offer_the_nearest(names: list[str], message: str, path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        summarize(path, names).features(names)


def test_what_cannot_be_summarized_is_an_error(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="must have the dim 'batch'; it has 'draw'"):
        summarize(xr.Dataset({"x": ("draw", [1.0])}))
    with pytest.raises(StoreError, match="there is no store"):
        summarize(tmp_path / "absent.zarr")
    options: dict[str, Any] = {"seed": 1, "chunk_size": 10, "sub_batch_size": 10, "scheduler": "threads"}
    generate(make_simulator(prior), tmp_path / "s.zarr", 20, part=(0, 2), **options)
    with pytest.raises(IncompleteStoreError, match="1 of 2 chunks"):
        summarize(tmp_path / "s.zarr")


def test_damaged_data_are_an_error_that_names_the_store(tmp_path: Path) -> None:
    generate(make_simulator(prior), tmp_path / "s.zarr", 20, seed=1, scheduler="synchronous")
    shard = next(file for file in (tmp_path / "s.zarr" / "theta" / "c").rglob("*") if file.is_file())
    shard.write_bytes(shard.read_bytes()[:8] + b"damaged!" + shard.read_bytes()[16:])

    with pytest.raises(StoreError, match=r"'theta' of chunk 0 of the store at .*s\.zarr' differs from its checksum"):
        summarize(tmp_path / "s.zarr")


def test_a_lazy_dataset_is_simulated_once() -> None:
    calls, lock = [], threading.Lock()

    def first(batch_shape: Any, rng: Any) -> dict[str, Any]:
        with lock:
            calls.append(batch_shape)
        return {"a": rng.normal(size=batch_shape)}

    simulator = make_simulator([first, lambda a: {"b": a + 1, "c": a + 2}], is_batched=True, expand_outputs=False)
    dataset = simulator.sample(80, seed=1, sub_batch_size=10, chunk_size=20)
    calls.clear()

    summary = summarize(dataset)
    count_histograms(summary, summary.features(), 10, all_pairs(summary.features()))

    assert len(calls) == 8
    np.testing.assert_allclose(summary.statistics["b"].mean, summary.statistics["a"].mean + 1)


def test_memory_is_that_of_a_few_chunks(tmp_path: Path) -> None:
    """The dataset has 64 MB, a chunk 1.6 MB."""
    simulator = make_simulator(
        lambda batch_shape, rng: {"x": rng.random((*batch_shape, 20))}, is_batched=True, expand_outputs=False
    )
    generate(
        simulator, tmp_path / "s.zarr", 400_000, seed=1, sub_batch_size=10_000, chunk_size=10_000, scheduler="threads"
    )

    tracemalloc.start()
    with dask.config.set(scheduler="synchronous"):
        summary = summarize(tmp_path / "s.zarr")
        count_histograms(summary, summary.features()[:4], 50, all_pairs(summary.features()[:4]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 30e6

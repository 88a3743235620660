"""Plots: that they show what is in a store, say what they leave out, and refuse what they cannot draw."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from processes import run_python

import dasksim
from dasksim import ArgumentError, ArgumentTypeError, IncompleteStoreError, StoreError, generate, make_simulator, plots
from dasksim.store._locate import locate
from dasksim.store._receipts import open_receipts

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 10, "chunk_size": 50, "scheduler": "synchronous"}


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal(size=2), "k": int(rng.integers(3))}


def observe(theta: Any, k: int, rng: np.random.Generator) -> dict[str, Any]:
    if k == 2:
        raise ArithmeticError
    return {"x": theta.sum() + np.where(np.arange(4) == k, np.nan, rng.normal(size=4).cumsum())}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with masked samples, NaN, and labels that Matplotlib would take for mathematics."""
    path = tmp_path_factory.mktemp("plots") / "s.zarr"
    labels = {"parameter": [r"$\frac", "b$$"], "time": [0.0, 0.5, 1.0, 2.0]}
    simulator = make_simulator([prior, observe], dims={"theta": ["parameter"], "x": ["time"]}, coords=labels)
    generate(simulator, path, 500, on_error="mask", **OPTIONS)
    return path


@pytest.fixture(scope="module")
def rejected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rejected") / "s.zarr"
    generate(dasksim.RejectionSimulator(make_simulator(prior), lambda k: k == 1), path, 500, **OPTIONS)
    return path


def drawn(figure: Any) -> str:
    """Return the texts of a figure, all of which Matplotlib can draw."""
    figure.savefig(io.BytesIO(), format="png")
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


# Panels


def test_pairs_draws_all_features_and_says_what_is_left_out(path: Path) -> None:
    dataset = dasksim.open_dataset(path).compute()
    n_masked = int((~dataset.valid).sum())
    valid = dataset.isel(batch=dataset.valid.values)
    n_nan = int(valid.x.isnull().sum())
    assert n_masked > 0
    assert n_nan > 0

    axes: Any = plots.pairs(path)

    assert axes.shape == (7, 7)
    assert [axis.get_xlabel() for axis in axes[-1]] == [
        *(r"theta[\$\frac]", r"theta[b\$\$]", "k", "x[0]", "x[0.5]", "x[1]", "x[2]")
    ]
    assert all(axes[i, j].get_visible() == (j <= i) for i in range(7) for j in range(7))
    text = drawn(axes[0, 0].figure)
    assert f"500 samples; left out: {n_masked:,} masked samples, {n_nan:,} values not finite" in text


def test_the_panels_hold_the_counts_of_the_store(path: Path) -> None:
    dataset = dasksim.open_dataset(path).compute()
    valid = dataset.isel(batch=dataset.valid.values)

    axes: Any = plots.pairs(path, [r"theta[$\frac]", "x[1]"], bins=9)

    (counts, edges, _), (_, x_edges, _) = (axes[i, i].patches[0].get_data() for i in range(2))
    np.testing.assert_array_equal(counts, np.histogram(valid.theta.values[:, 0], edges)[0])
    x = valid.x.sel(time=1.0).values
    both = np.isfinite(x)
    expected = np.histogram2d(x[both], valid.theta.values[both, 0], [x_edges, edges])[0]
    np.testing.assert_array_equal(np.ma.filled(axes[1, 0].collections[0].get_array(), 0), expected)


def test_marginals_draws_in_a_given_figure(path: Path) -> None:
    figure = Figure()

    axes: Any = plots.marginals(path, ["x", "k"], figure=figure)

    assert [axis.get_xlabel() for axis in axes] == ["x[0]", "x[0.5]", "x[1]", "x[2]", "k"]
    assert all(axis.figure is figure for axis in axes)
    assert not plt.get_fignums()
    drawn(figure)


def test_a_lazy_dataset_can_be_drawn() -> None:
    dataset = make_simulator(prior).sample(100, seed=1)

    assert plots.pairs(dataset, ["theta"]).shape == (2, 2)
    assert plots.marginals(dataset.compute()).shape == (3,)


def test_too_many_features_are_refused_with_the_way_out(path: Path) -> None:
    message = (
        r"there are 7 features, and at most max_features=5 are drawn; choose some, such as variables=\['theta\[.*"
        r"'x\[2\]'\], or give a larger max_features"
    )
    for draw in (plots.pairs, plots.marginals):
        with pytest.raises(ArgumentError, match=message):
            draw(path, max_features=5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variables": ["thet"]}, ArgumentError, "there is no variable 'thet'; did you mean 'theta'?"),
        ({"variables": "theta"}, ArgumentError, r"variables must be a sequence of names; give \['theta'\]"),
        ({"variables": []}, ArgumentError, "there is no feature to draw"),
        ({"bins": 0}, ArgumentError, "bins must be >= 1; got 0"),
        ({"bins": 1.5}, ArgumentTypeError, "bins must be an integer >= 1; got 1.5"),
    ],
)
def test_bad_arguments_are_explained(options: Any, error: type[Exception], message: str, path: Path) -> None:
    with pytest.raises(error, match=message):
        plots.pairs(path, **options)


def test_a_store_that_lacks_chunks_is_refused(tmp_path: Path) -> None:
    generate(make_simulator(prior), tmp_path / "s.zarr", 500, part=(0, 2), **OPTIONS)

    with pytest.raises(IncompleteStoreError, match="has 5 of 10 chunks"):
        plots.pairs(tmp_path / "s.zarr")


@pytest.mark.parametrize(("n_samples", "bins"), [(20, 8), (500, 16), (4000, 32), (200_000, 60)])
def test_bins_follow_the_number_of_samples(n_samples: int, bins: int) -> None:
    values = np.random.default_rng(1).normal(size=(n_samples, 2))
    dataset = xr.Dataset({"x": (("batch", "dim"), values)})

    axes: Any = plots.pairs(dataset)
    marginal: Any = plots.marginals(dataset)[0]

    for axis in (axes[0, 0], marginal):
        assert len(axis.patches[0].get_data().values) == bins
    assert axes[1, 0].collections[0].get_array().size == bins**2
    few: Any = plots.marginals(dataset, bins=7)[0]
    assert len(few.patches[0].get_data().values) == 7


def lines_of(axis: Any) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines]


def test_observed_values_are_lines_and_points(path: Path) -> None:
    observed = {r"theta[$\frac]": 0.25, "x": [0.5, -1.0, 100.0, 2.0]}

    axes: Any = plots.pairs(path, ["theta", "x[1]"], observed=observed)

    assert lines_of(axes[0, 0]) == [([0.25, 0.25], [0, 1])]
    assert lines_of(axes[1, 1]) == []
    assert lines_of(axes[2, 2]) == [([100, 100], [0, 1])]
    assert lines_of(axes[1, 0]) == [([0.25, 0.25], [0, 1])]
    assert lines_of(axes[2, 1]) == [([0, 1], [100, 100])]
    assert lines_of(axes[2, 0]) == [([0.25, 0.25], [0, 1]), ([0, 1], [100, 100]), ([0.25], [100])]
    # what lies outside is seen, and the panels of a column agree
    assert axes[2, 0].get_ylim()[1] > 100
    assert axes[2, 2].get_xlim()[1] > 100
    assert axes[2, 0].get_xlim() == axes[0, 0].get_xlim()
    drawn(axes[0, 0].figure)


def test_observed_values_of_a_dataset_are_lines_of_marginals(path: Path) -> None:
    observed = dasksim.open_dataset(path)[["theta", "k"]].isel(batch=3).compute()

    axes: Any = plots.marginals(path, ["theta", "k"], observed={"theta": observed["theta"], "k": observed["k"]})

    values = [*observed.theta.values.tolist(), int(observed.k.item())]
    assert [lines_of(axis)[0][0][0] for axis in axes] == values


@pytest.mark.parametrize(
    ("observed", "error", "message"),
    [
        ([1.0], ArgumentTypeError, r"observed must be a mapping of variables to values; got \[1.0\]"),
        ({"thet": 1}, ArgumentError, "observed has a value of 'thet', which is not drawn; did you mean 'theta'?"),
        ({"x": [1.0] * 4}, ArgumentError, "observed has a value of 'x', which is not drawn"),
        ({"theta": [1.0]}, ArgumentError, r"observed\['theta'\] must be 2 numbers, one for each feature; got 1"),
        ({"theta": [1.0, np.nan]}, ArgumentError, r"observed\['theta'\] must be finite; got .*; leave it out"),
        ({"theta": "ab"}, ArgumentTypeError, r"observed\['theta'\] must be numbers; got 'ab'"),
    ],
)
def test_bad_observed_values_are_explained(observed: Any, error: type[Exception], message: str, path: Path) -> None:
    with pytest.raises(error, match=message):
        plots.pairs(path, ["theta"], observed=observed)


# Rates


def test_acceptance_draws_the_rate_of_each_chunk(rejected: Path) -> None:
    axis: Any = plots.acceptance(rejected)

    line: Any = axis.lines[0]
    rates = line.get_ydata()
    assert list(line.get_xdata()) == list(range(10))
    assert ((rates > 0.15) & (rates < 0.6)).all()
    total = dasksim.status(rejected).acceptance_rate
    assert f"all: {total:.4g}" in drawn(axis.figure)
    band: Any = axis.collections[0].get_paths()[0].get_extents()
    receipts = open_receipts(locate(rejected))
    assert receipts is not None
    errors = np.sqrt(total * (1 - total) / receipts.columns()["proposals"])
    assert band.y1 == pytest.approx(total + 2 * errors.max())
    assert band.y0 == pytest.approx(total - 2 * errors.max())


def test_acceptance_is_that_of_runs_where_there_are_many_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dasksim._analysis.rates._MOST_RUNS", 20)
    simulator = dasksim.RejectionSimulator(make_simulator(prior), lambda k: k == 1)
    generate(simulator, tmp_path / "s.zarr", 51, seed=1, sub_batch_size=1, chunk_size=1, scheduler="synchronous")

    line: Any = plots.acceptance(tmp_path / "s.zarr").lines[0]

    assert list(line.get_xdata()) == list(range(0, 51, 3))


def test_acceptance_needs_a_store_with_rejection(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"all proposals were accepted; .* a dasksim\.RejectionSimulator"):
        plots.acceptance(path)
    with pytest.raises(StoreError, match="there is no store at"):
        plots.acceptance(tmp_path / "absent.zarr")
    with pytest.raises(ArgumentTypeError, match="store must be a path, a URL"):
        plots.acceptance(dasksim.open_dataset(path))


def test_model_frequencies_are_named_and_counted() -> None:
    models = {"$light$": lambda rng: {"y": rng.normal()}, "heavy": lambda rng: {"y": rng.standard_cauchy()}}
    dataset = dasksim.ModelComparisonSimulator(models, p=[0.2, 0.8]).sample(500, seed=1)
    counts = dataset.model_indices.sum("batch").values.tolist()

    axis: Any = plots.model_frequencies(dataset)

    assert [label.get_text() for label in axis.get_yticklabels()] == [r"\$light\$", "heavy"]
    np.testing.assert_allclose([bar.get_width() for bar in axis.patches], np.array(counts) / 500)
    assert {str(count) for count in counts} <= set(drawn(axis.figure).splitlines())


def asked_of(axis: Any) -> list[float]:
    return [path.vertices[0, 0] for lines in axis.collections for path in lines.get_paths()]


def two_models(**how: Any) -> dasksim.Simulator:
    models = {"light": lambda rng: {"y": rng.normal()}, "heavy": lambda rng: {"y": rng.standard_cauchy()}}
    return dasksim.ModelComparisonSimulator(models, **how)


def test_model_frequencies_show_what_was_asked_for(tmp_path: Path) -> None:
    comparison = two_models(p=[0.2, 0.8])
    rejecting = dasksim.RejectionSimulator(comparison, lambda y: y > 0)
    for simulator in (comparison, rejecting):
        axis = plots.model_frequencies(simulator.sample(50, seed=1))
        np.testing.assert_allclose(asked_of(axis), [0.2, 0.8])
        assert "asked for" in drawn(axis.figure)
    generate(comparison, tmp_path / "s.zarr", 100, **OPTIONS)
    np.testing.assert_allclose(asked_of(plots.model_frequencies(tmp_path / "s.zarr")), [0.2, 0.8])
    np.testing.assert_allclose(asked_of(plots.model_frequencies(two_models().sample(20, seed=1))), [0.5, 0.5])


def test_what_was_asked_for_is_told_where_nothing_says_it() -> None:
    dataset = two_models().sample(20, seed=1).compute()
    bare = dataset.drop_attrs()
    given = np.eye(2, dtype="int32")[[0, 1] * 10]

    for unsaid in (bare, two_models().sample(20, seed=1, model_indices=given)):
        axis = plots.model_frequencies(unsaid)
        assert asked_of(axis) == []
        assert axis.get_legend() is None
    np.testing.assert_allclose(asked_of(plots.model_frequencies(bare, expected=[0.9, 0.1])), [0.9, 0.1])
    for wrong in ([1.0], [0.5, 1.5], [0.5, np.nan]):
        with pytest.raises(ArgumentError, match="expected must be 2 probabilities, one for each model; got"):
            plots.model_frequencies(bare, expected=wrong)
    with pytest.raises(ArgumentTypeError, match="expected must be 2 probabilities; got 'ab'"):
        plots.model_frequencies(bare, expected="ab")  # type: ignore[arg-type]


def test_plots_are_seen_on_a_dark_background(path: Path) -> None:
    with plt.style.context("dark_background"):
        axis: Any = plots.predictive_bands(path, "x")

    assert axis.lines[0].get_color() == "white"


def test_model_frequencies_need_a_model_comparison(path: Path) -> None:
    with pytest.raises(ArgumentError, match="there is no variable 'model_indices'"):
        plots.model_frequencies(path)


# Bands


def test_bands_are_quantiles_along_the_named_dim(path: Path) -> None:
    dataset = dasksim.open_dataset(path).compute()
    values = dataset.x.values[dataset.valid.values]

    axis: Any = plots.predictive_bands(path, "x", "time", levels=[0.9])

    line: Any = axis.lines[0]
    (band,) = axis.collections
    assert list(line.get_xdata()) == [0.0, 0.5, 1.0, 2.0]
    np.testing.assert_allclose(line.get_ydata(), np.nanmedian(values, axis=0))
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(np.nanquantile(values, 0.05, axis=0).min())
    assert heights.max() == pytest.approx(np.nanquantile(values, 0.95, axis=0).max())
    assert axis.get_xlabel() == "time"
    drawn(axis.figure)


def test_bands_over_labels_that_are_no_numbers() -> None:
    axis: Any = plots.predictive_bands(dasksim.models.two_moons().sample(100, seed=1), "observables")

    assert [label.get_text() for label in axis.get_xticklabels()] == ["x_1", "x_2"]


def test_bands_need_one_dim() -> None:
    simulator = make_simulator(
        lambda rng: {"x": rng.normal(size=(4, 2)), "s": rng.normal()}, dims={"x": ["time", "axis"]}
    )
    dataset = simulator.sample(50, seed=1)

    with pytest.raises(ArgumentError, match=r"one dim besides 'batch'; it has \['time', 'axis'\].*isel\(axis=0\), 'x'"):
        plots.predictive_bands(dataset, "x", "time")
    with pytest.raises(ArgumentError, match=r"'x' has no dim 'tme'; did you mean 'time'\?"):
        plots.predictive_bands(dataset, "x", "tme")
    with pytest.raises(ArgumentError, match=r"one dim besides 'batch'; it has \[\]"):
        plots.predictive_bands(dataset, "s")
    with pytest.raises(ArgumentError, match="levels must be probabilities above 0 and below 1"):
        plots.predictive_bands(dataset, "x", levels=[50])
    assert len(plots.predictive_bands(dataset.isel(axis=0), "x").lines) == 1


def test_without_matplotlib_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None; import dasksim; "
        "dasksim.plots.marginals(dasksim.models.two_moons().sample(10, seed=1))"
    )
    run = run_python("-c", code, cwd=tmp_path)

    assert run.returncode == 1
    assert "plots need the package matplotlib: pip install 'dasksim[plots]'" in run.stderr

"""Reports: what they say of a store, of incomplete and hostile ones too, and that they stand alone."""

import html.parser
import json
import re
import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from bits import change_record
from dask.utils import format_bytes
from processes import run_python

import dasksim
from dasksim import ArgumentError, StoreError, generate, make_simulator, report
from dasksim._analysis._failed import failed_shares
from dasksim._analysis._samples import _draw_curves
from dasksim._core.telling import counted
from dasksim.store import Store

OPTIONS: dict[str, Any] = {"seed": 7, "sub_batch_size": 10, "chunk_size": 50, "scheduler": "synchronous"}
HOSTILE = "<script>alert('x')<b onload=\"alert(1)\">$\\frac{{ 7*7 }}"


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal(size=2)}


def observe(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
    if theta[0] > 1.5:
        raise ArithmeticError(HOSTILE)
    return {"x": theta.sum() + rng.normal(size=30).cumsum(), "flag": np.nan if theta[0] < 0 else 1.0}


def simulator() -> dasksim.Simulator:
    return make_simulator([prior, observe], dims={"theta": ["parameter"]}, coords={"parameter": ["shift", HOSTILE]})


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def pictures(self) -> list[str]:
        return [str(attrs["aria-label"]) for tag, attrs in self.tags if tag == "svg" and "role" in attrs]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "walk.zarr"
    generate(simulator(), path, 500, on_error="mask", conditions={}, **OPTIONS)
    return path


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    return Page(report(path, path.parent / "walk.html"))


def test_a_report_says_what_the_store_is_and_how_it_was_made(page: Page, path: Path) -> None:
    record = json.loads(dasksim.open_dataset(path).attrs["dasksim"])
    found = dasksim.status(path)

    assert "walk.zarr Complete. " in page.text
    assert " 10 of 10, of 50 samples " in page.text
    assert "500 x 30" in page.text
    assert " batch, parameter " in page.text
    for stage in record["stages"]:
        assert f" {stage['name']} " in page.text
        assert f" {stage['digest']} " in page.text
    for what in (record["created"]["host"], record["created"]["at"], record["packages"]["numpy"], "seed 7"):
        assert what in page.text
    assert f" {found.n_failed} observe ArithmeticError " in page.text
    assert "seconds for a chunk median " in page.text


def test_a_report_has_the_statistics_of_all_samples(page: Page, path: Path) -> None:
    dataset = dasksim.open_dataset(path).compute()
    valid = dataset.isel(batch=dataset.valid.values)

    assert f"Of {valid.sizes['batch']} samples, without {500 - valid.sizes['batch']} masked ones." in page.text
    theta = valid.theta.values[:, 0]
    quantiles = np.quantile(theta, [0.025, 0.5, 0.975])
    row = [theta.mean(), theta.std(), theta.min(), *quantiles, theta.max()]
    assert f"theta[shift] {' '.join(f'{value:.4g}' for value in row)} 0 " in page.text
    n_nan = int(valid.flag.isnull().sum())
    assert n_nan > 0
    sizes = r"8 B 3\.91 kiB \d\.\d\d kiB"
    assert re.search(f"flag observe batch, scalar 500 x 1 float64 {sizes} {n_nan} 0 ", page.text)
    assert "and 18 more of x" in page.text


def test_a_report_stands_alone(page: Page) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    sources = [
        value or ""
        for _, attrs in page.tags
        for key, value in attrs.items()
        if key in ("src", "href", "srcset", "xlink:href")
    ]
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    policies = [attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_what_a_store_says_is_text_and_no_markup(page: Page) -> None:
    assert f"theta[{HOSTILE}]" in page.text
    assert f"ArithmeticError {HOSTILE}" in page.text
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    assert not any(tag == "b" and attrs for tag, attrs in page.tags)


def test_hostile_names_and_records_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "a<img src=x>.zarr"
    generate(make_simulator(lambda rng: {"<script>alert(1)<script>": rng.normal()}), path, 100, **OPTIONS)
    told: dict[str, Any] = {"created": HOSTILE, "version": [HOSTILE], "packages": {HOSTILE: HOSTILE}}
    told["stages"] = [{"name": HOSTILE, "outputs": HOSTILE, "inputs": {HOSTILE: 1}, "digest": "x" * 1000}]
    told |= {"on_error": HOSTILE, "conditions": {HOSTILE: {"a": [HOSTILE]}}}
    change_record(path, lambda record: record.update(told))

    page = Page(report(path, tmp_path / "report.html"))

    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img"})
    assert not any(key.startswith("on") or attrs.get("src") == "x" for _, attrs in page.tags for key in attrs)
    assert "<script>alert(1)<script>" in page.text
    assert f"Conditions condition shape value, or dtype and digest {HOSTILE} scalar " in page.text
    assert "x" * 299 + "…" in page.text


# Samples, coordinates and conditions


def spots(rng: np.random.Generator, level: float) -> dict[str, Any]:
    return {
        "size": rng.gamma(2) * level,
        "image": rng.normal(size=(12, 10)),
        "film": rng.normal(size=(12, 1, 9, 6)),
        "track": rng.normal(size=(2, 30)),
    }


@pytest.fixture(scope="module")
def spotted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spots") / "s.zarr"
    dims = {"image": ["row", "column"], "track": ["axis", "time"]}
    coords = {"axis": ["east", "north"], "time": np.linspace(0, 2.9, 30)}
    how: dict[str, Any] = {"dims": dims, "coords": coords, "expand_outputs": False}
    generate(make_simulator(spots, **how), path, 500, conditions={"level": 2.5}, **OPTIONS)
    return path


def test_some_samples_are_shown_as_numbers_curves_and_images(spotted: Path, tmp_path: Path) -> None:
    page = Page(report(spotted, tmp_path / "report.html"))

    numbers = [0, 10, 20, 29, 39, 49]
    size = dasksim.open_dataset(spotted)["size"].values[numbers]
    assert f"size {' '.join(f'{value:.4g}' for value in size)} " in page.text
    assert page.pictures[:3] == [
        "6 samples of image.",
        "6 samples of film, at the first film_dim_3.",
        "6 samples of track.",
    ]


def test_coordinates_conditions_and_stored_bytes_are_shown(spotted: Path, tmp_path: Path) -> None:
    page = Page(report(spotted, tmp_path / "report.html"))

    assert "axis 2 east, north " in page.text
    assert "time 30 0, 0.1, 0.2, …, 2.9 " in page.text
    assert "level scalar 2.5 " in page.text
    folder = spotted / "track"
    stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert f" 480 B {format_bytes(60 * 8 * 500)} {format_bytes(stored)} " in page.text


def test_samples_that_are_masked_are_not_shown(path: Path, page: Page) -> None:
    dataset = dasksim.open_dataset(path)
    valid = np.flatnonzero(dataset.valid.values[:50])
    numbers = valid[[round(i) for i in np.linspace(0, len(valid) - 1, 6)]]

    assert f"feature {' '.join(f'sample {n}' for n in numbers)} " in page.text
    theta = dataset.theta.values[numbers, 0]
    assert f"theta[shift] {' '.join(f'{value:.4g}' for value in theta)} " in page.text


@pytest.mark.parametrize("n", [1, 2])
def test_a_report_of_few_samples_shows_them(n: int, tmp_path: Path) -> None:
    simulator = make_simulator(lambda rng: {"x": rng.normal(size=(8, 9)), "y": rng.normal(size=20)})
    generate(simulator, tmp_path / "s.zarr", n, **OPTIONS)

    assert Page(report(tmp_path / "s.zarr", tmp_path / "r.html")).pictures[:2] == [
        f"{counted(n, 'sample')} of x.",
        f"{counted(n, 'sample')} of y.",
    ]


def test_an_array_condition_is_told_by_its_shape(tmp_path: Path) -> None:
    simulator = make_simulator([prior, lambda theta, rng: {"x": theta.sum() + rng.normal()}])
    theta = np.arange(200.0).reshape(100, 2)
    generate(simulator, tmp_path / "s.zarr", 100, conditions={"theta": theta}, **OPTIONS)

    assert " theta 100 x 2 float64 " in Page(report(tmp_path / "s.zarr", tmp_path / "r.html")).text


# Failures


def test_where_in_the_prior_samples_failed_is_shown(path: Path, page: Page) -> None:
    assert "Share of samples that failed, over each parameter, and of all samples (dashed)." in page.pictures
    place = Store.at(path)
    shares = failed_shares(place, place.record(), range(10), place.status().failures)
    assert [share.label for share in shares] == ["theta[shift]", f"theta[{HOSTILE}]"]
    dataset = dasksim.open_dataset(path).compute()
    shift, valid = dataset.theta.values[:, 0], dataset.valid.values
    (edges, counts, failed) = shares[0][1:]
    np.testing.assert_array_equal(counts, np.histogram(shift, edges)[0])
    np.testing.assert_array_equal(failed, np.histogram(shift[~valid], edges)[0])
    assert failed.sum() > 10
    assert not failed[edges[1:] < 1.5].any()


def first_fails(rng: np.random.Generator) -> dict[str, Any]:
    if (value := rng.normal()) > 0:
        raise ArithmeticError
    return {"a": value}


def test_parameters_of_samples_that_failed_in_the_prior_are_not_guessed(tmp_path: Path) -> None:
    simulator = make_simulator([first_fails, lambda rng: {"b": rng.normal()}, lambda a, b: {"x": a + b}])
    generate(simulator, tmp_path / "s.zarr", 100, on_error="mask", **OPTIONS)

    page = Page(report(tmp_path / "s.zarr", tmp_path / "r.html"))

    assert " first_fails ArithmeticError " in page.text
    assert not any("failed" in caption for caption in page.pictures)


def test_masked_samples_of_older_stores_keep_nothing(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "s.zarr")
    change_record(tmp_path / "s.zarr", lambda record: record.update(masks="whole samples"))

    page = Page(report(tmp_path / "s.zarr", tmp_path / "r.html"))

    assert not any("failed" in caption for caption in page.pictures)


# How it looks


def test_pictures_take_the_colours_of_the_page(path: Path, page: Page) -> None:
    text = (path.parent / "walk.html").read_text()

    assert "@media (prefers-color-scheme: dark)" in text
    assert len(page.pictures) > 2
    assert text.count("currentColor") > 100
    assert not re.search(r"(fill|stroke): ?(#000000|black|#ffffff|white)", text)


def test_a_strip_has_the_numbers_of_samples_below_it(page: Page, tmp_path: Path) -> None:
    assert " 0 125 250 375 500 Seconds for each chunk" in page.text
    path = tmp_path / "s.zarr"
    generate(make_simulator(prior), path, 480, part=(1, 5), **OPTIONS)
    text = report(path, tmp_path / "r.html").read_text()
    strip = text[text.index('<svg class="strip"') :].partition("/>")[0]
    heights = [float(top) for top in re.findall(r"V(\d+)h", strip)]
    assert [top < 100 for top in heights] == [i in (2, 3) for i in range(10)]
    assert '<span style="left: 24.0%">120</span>' in text


def test_what_is_long_wraps_in_a_narrow_page(tmp_path: Path) -> None:
    """What a browser does with it is not looked at here; the rules that make it are."""
    generate(make_simulator(prior), tmp_path / "s.zarr", 50, **{**OPTIONS, "seed": 10**38})
    text = report(tmp_path / "s.zarr", tmp_path / "r.html").read_text()

    assert f'<div class="card long"><b>{10**38}</b>' in text
    narrow = text.partition("@media (max-width: 44rem)")[2].partition("footer {")[0]
    assert "white-space: normal; overflow-wrap: anywhere" in narrow
    for tag, attrs in Page(tmp_path / "r.html").tags:
        if tag == "td" and "number" in (attrs.get("class") or ""):
            assert attrs.get("data-of")


# Incomplete stores


def test_an_incomplete_store_is_described_by_its_complete_chunks(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(make_simulator(prior), path, 500, part=(1, 5), **OPTIONS)
    rows = dasksim.loaders.batches(path, 1000, shuffle=False, partial=True)
    (batch,) = list(rows)
    theta = batch["theta"][:, 0]
    assert len(theta) == 100

    page = Page(report(path, tmp_path / "report.html"))

    assert "Incomplete: 2 of 10 chunks are there, and all that follows is of these." in page.text
    assert "missing 0-1, 4-9 " in page.text
    assert f"theta[0] {theta.mean():.4g} {theta.std():.4g} {theta.min():.4g} " in page.text


def test_a_store_without_chunks_has_a_report(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(make_simulator(prior), path, 100, **OPTIONS)
    for receipt in (path / "_dasksim" / "receipts").glob("c.*"):
        receipt.unlink()

    page = Page(report(path, tmp_path / "report.html"))

    assert "Incomplete: 0 of 2 chunks are there" in page.text
    assert page.pictures == []


# Plots


def test_plots_are_those_that_suit_the_store(page: Page, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert page.pictures == [
        "6 samples of x.",
        "6 of 33 features, and their pairs.",
        "Prior predictive median and bands of x.",
        "Share of samples that failed, over each parameter, and of all samples (dashed).",
    ]

    models = {HOSTILE: lambda rng: {"y": rng.normal()}, "heavy": lambda rng: {"y": rng.standard_cauchy()}}
    comparison = dasksim.RejectionSimulator(dasksim.ModelComparisonSimulator(models), lambda y: y > 0)
    generate(comparison, tmp_path / "s.zarr", 500, **OPTIONS)
    pictures = Page(report(tmp_path / "s.zarr", tmp_path / "report.html")).pictures
    assert pictures == ["1 of 3 features, and their pairs.", "Samples of each model.", "Acceptance rate."]


def test_without_matplotlib_a_report_says_how_to_get_plots(path: Path, tmp_path: Path) -> None:
    code = f"import sys; sys.modules['matplotlib'] = None; import dasksim; dasksim.report({str(path)!r})"
    assert run_python("-W", "error", "-c", code, cwd=tmp_path).returncode == 0

    page = Page(tmp_path / "report.html")
    assert page.pictures == []
    assert 'There are no plots, since Matplotlib is not installed: pip install "dasksim[plots]"' in page.text
    assert "theta[shift]" in page.text


# Errors and limits


def test_what_cannot_be_reported_is_an_error(path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        report(tmp_path / "absent.zarr", tmp_path / "report.html")
    for wrong in (tmp_path, tmp_path / "absent" / "report.html"):
        with pytest.raises(ArgumentError, match=r"cannot write a report to .*: give the path of a file in a folder"):
            report(path, wrong)
    assert not list(tmp_path.iterdir())


def test_damaged_data_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    generate(make_simulator(prior), tmp_path / "s.zarr", 100, **OPTIONS)
    shard = next(file for file in (tmp_path / "s.zarr" / "theta" / "c").rglob("*") if file.is_file())
    shard.write_bytes(shard.read_bytes()[:8] + b"damaged!" + shard.read_bytes()[16:])

    with pytest.raises(
        StoreError, match=r"'theta' of chunk 0 of the store at .* differs from its checksum; generate\("
    ):
        report(tmp_path / "s.zarr", tmp_path / "report.html")


@pytest.mark.slow
def test_memory_is_that_of_a_few_chunks(tmp_path: Path) -> None:
    """The dataset has 64 MB, a chunk 1.6 MB."""
    wide = make_simulator(
        lambda batch_shape, rng: {"x": rng.random((*batch_shape, 20))}, is_batched=True, expand_outputs=False
    )
    sizes: dict[str, Any] = {"sub_batch_size": 10_000, "chunk_size": 10_000}
    generate(wide, tmp_path / "s.zarr", 400_000, seed=1, scheduler="threads", **sizes)
    generate(wide, tmp_path / "small.zarr", 10_000, seed=1, scheduler="threads", **sizes)
    report(tmp_path / "small.zarr", tmp_path / "small.html")  # imports what it needs

    tracemalloc.start()
    with dask.config.set(scheduler="synchronous"):
        report(tmp_path / "s.zarr", tmp_path / "report.html")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 40e6


def test_derived_variables_are_shown(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    how: dict[str, Any] = {"scheduler": "threads", "progress": False}
    dasksim.generate(dasksim.models.two_moons(), store, 100, seed=1, **how)
    dasksim.derive(store, lambda observables: {"angle": observables[0] - observables[1]}, **how)
    dasksim.report(store, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "angle" in page
    assert "derive/angle/&lt;lambda&gt;" in page


@pytest.mark.skipif(sys.platform != "linux", reason="needs files that nobody can write")
def test_path_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.zarr"
    generate(make_simulator(lambda rng: {"x": rng.normal()}), path, 50, **OPTIONS)
    with pytest.raises(ArgumentError, match="cannot write a report to '/dev/full': No space left on device"):
        report(path, "/dev/full")
    monkeypatch.setattr("dasksim._analysis.report.summarize", None)
    for target in ("/proc/report.html", "/proc/version"):
        with pytest.raises(ArgumentError, match=f"cannot write a report to '{target}': .*; give another path"):
            report(path, target)
    with pytest.raises(ArgumentError, match="File name too long; give another path"):
        report(path, tmp_path / ("x" * 300))
    before = "<title>of before: dasksim report</title>"
    (tmp_path / "old.html").write_text(before)
    for name in ("new.html", "old.html"):
        with pytest.raises(TypeError, match="'NoneType' object is not callable"):  # what the work begins with
            report(path, tmp_path / name)
    assert not (tmp_path / "new.html").exists()
    assert (tmp_path / "old.html").read_text() == before


def test_units_stand_in_tables_and_pictures(tmp_path: Path) -> None:
    simulator = make_simulator(
        lambda rng: {"v": rng.normal(size=30)},
        dims={"v": ["time"]},
        coords={"time": ("time", np.linspace(0, 1, 30), {"units": "s"})},
        attrs={"v": {"units": "mV", "long_name": "voltage"}},
    )
    ds = generate(simulator, tmp_path / "s.zarr", 20, **OPTIONS)
    text = Page(report(tmp_path / "s.zarr", tmp_path / "r.html")).text
    assert "voltage [mV]" in text
    assert "units: s" in text
    figure = pytest.importorskip("matplotlib.figure").Figure()
    some = ds.v.isel(batch=slice(3)).compute().assign_coords(batch=range(3)).expand_dims("none", axis=2)
    _draw_curves(some, figure)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("time [s]", "voltage[0] [mV]")


def test_only_a_report_is_replaced(path: Path, tmp_path: Path) -> None:
    page, thesis = tmp_path / "page.html", tmp_path / "thesis.html"
    page.touch()
    report(path, page)
    report(path, page)
    thesis.write_text("<title>Ten years</title>")
    with pytest.raises(
        ArgumentError, match=r"thesis\.html' is there, and is no report of dasksim's; give another path"
    ):
        report(path, thesis)
    assert thesis.read_text() == "<title>Ten years</title>"

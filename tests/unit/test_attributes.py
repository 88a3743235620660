"""Attributes of variables and coordinates, and coordinates that do not have the name of their dim."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dasksim import (
    ArgumentTypeError,
    Simulator,
    SimulatorError,
    StoreError,
    StoreMismatchError,
    derive,
    extend,
    generate,
    make_simulator,
    open_dataset,
    plots,
    report,
    verify,
)

Rng = np.random.Generator

TIME = ("time", [0.0, 1.0, 2.0], {"units": "ms"})
VOLTAGE = {"units": "mV", "long_name": "voltage"}


def prior(rng: Rng) -> dict[str, Any]:
    return {"g": rng.normal()}


def simulate(g: float, rng: Rng) -> dict[str, Any]:
    return {"v": g + rng.normal(size=3)}


def labelled(**changes: Any) -> Simulator:
    options: dict[str, Any] = {
        "dims": {"v": ["time"]},
        "coords": {"time": TIME, "phase": ("time", ["rest", "rest", "spike"])},
        "attrs": {"v": VOLTAGE, "time": {"long_name": "time"}},
    }
    return make_simulator([prior, simulate], **{**options, **changes})


def check_labels_of(ds: xr.Dataset) -> None:
    assert ds.v.attrs == VOLTAGE
    assert ds.g.attrs == {}
    assert ds.time.attrs == {"units": "ms", "long_name": "time"}
    assert ds.phase.dims == ("time",)
    assert list(ds.phase.values) == ["rest", "rest", "spike"]
    assert set(ds.coords) == {"time", "phase"}


def test_labels_are_in_lazy_datasets_and_stores(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    check_labels_of(labelled().sample(10, seed=1))
    check_labels_of(labelled().sample(10, seed=1).compute())
    check_labels_of(generate(labelled(), path, 10, seed=1, scheduler="synchronous"))
    check_labels_of(xr.open_zarr(path, consolidated=False))
    check_labels_of(extend(path, labelled(), 30, scheduler="synchronous"))
    ds = derive(path, lambda v: {"peak": v.max()}, attrs={"peak": {"units": "mV"}}, scheduler="synchronous")
    check_labels_of(ds)
    assert ds.peak.attrs == {"units": "mV"} == xr.open_zarr(path, consolidated=False).peak.attrs
    assert verify(path, labelled(), resimulate=1, progress=False).is_good


def test_labels_are_kept_by_rejection() -> None:
    check_labels_of(labelled().rejection_sample(10, predicate=lambda g: g > 0, seed=1))
    check_labels_of(labelled().rejection_sample(10, predicate=lambda g: g > 0, seed=1, overshoot=True))


@pytest.mark.parametrize("name", ["v", "time", "phase"])
def test_labels_are_repaired(name: str, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(labelled(), path, 10, seed=1, scheduler="synchronous")
    (path / name / "zarr.json").unlink()
    with pytest.raises(StoreError, match=f"the metadata of {name!r}"):
        verify(path, progress=False)
    check_labels_of(generate(labelled(), path, 10, seed=1, scheduler="synchronous", repair=True))
    check_labels_of(open_dataset(path))


def test_other_attributes_are_another_store(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(labelled(), path, 10, seed=1, scheduler="synchronous")
    for other in ({"attrs": {"v": {"units": "V"}}}, {"coords": {"time": TIME}}, {"attrs": {"v": VOLTAGE}}):
        with pytest.raises(StoreMismatchError, match="in the store"):
            generate(labelled(**other), path, 10, seed=1, scheduler="synchronous")


def test_values_of_numpy_are_kept_as_json_has_them() -> None:
    ds = labelled(attrs={"v": {"range": np.array([0.0, 1.5]), "n": np.int64(3)}}).sample(2, seed=1)
    assert ds.v.attrs == {"range": [0.0, 1.5], "n": 3}


@pytest.mark.parametrize(("attrs", "message"), [
    (["v"], r"attrs must be a mapping, such as"),
    ({"v": "mV"}, r"attrs\['v'\] must be a mapping of attributes"),
    ({"v": {"f": simulate}}, r"attrs\['v'\] has the attribute 'f' with the value <function .*, which JSON cannot hold"),
    ({"v": {"limit": np.nan}}, "which JSON cannot hold"),
    ({"v": {"scale_factor": 2}}, "'scale_factor', by which readers of a store change values"),
    ({"v": {"units": "days since 2000-01-01"}}, "by which xarray reads numbers as dates"),
])  # fmt: skip
def test_attributes_that_cannot_be_kept_are_refused(attrs: Any, message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=message):
        labelled(attrs=attrs)


def test_attributes_of_nothing_are_refused() -> None:
    with pytest.raises(SimulatorError, match=r"attrs names 'w', which is neither a variable nor a coordinate"):
        labelled(attrs={"w": {"units": "mV"}}).sample(1)


@pytest.mark.parametrize(("coords", "message"), [
    ({"phase": ("tme", ["a", "b", "c"])}, "coords names 'tme', which is no feature dim"),
    ({"phase": ("time", ["a", "b"])}, r"coords\['phase'\] has shape \(2,\), but dim 'time' has size 3"),
    ({"g": ("time", ["a", "b", "c"])}, "coords has 'g' along 'time', which is the name of a variable"),
    ({"a b": ("time", ["a", "b", "c"])}, "by a name without spaces"),
])  # fmt: skip
def test_coordinates_that_do_not_fit_are_refused(coords: Any, message: str) -> None:
    with pytest.raises(SimulatorError, match=message):
        labelled(coords=coords, attrs={}).sample(1)


def test_coordinates_of_several_dims_are_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=r"coords\['c'\] must have one dim; got \('a', 'b'\)"):
        labelled(coords={"c": (("a", "b"), np.zeros((2, 2)))})
    with pytest.raises(ArgumentTypeError, match="holds times, whose unit is their own"):
        labelled(coords={"time": ("time", np.zeros(3, "M8[D]"), {"units": "D"})})


def test_tuple_of_two_labels_stays_one() -> None:
    ds = make_simulator(lambda rng: {"x": rng.normal(size=2)}, dims={"x": ["k"]}, coords={"k": ("a", "b")}).sample(1)
    assert list(ds.k.values) == ["a", "b"]


def test_plots_and_report_say_units(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("agg")
    path = tmp_path / "s.zarr"
    ds = generate(labelled(), path, 100, seed=1, scheduler="synchronous")
    axes = plots.marginals(ds)
    assert [axis.get_xlabel() for axis in axes] == ["g", *(f"voltage[{t}] [mV]" for t in (0, 1, 2))]
    assert plots.pairs(ds, ["g", "v[0]"])[1, 1].get_xlabel().replace("\n", "") == "voltage[0] [mV]"
    axis = plots.predictive_bands(ds, "v")
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("time [ms]", "voltage [mV]")
    pytest.importorskip("jinja2")
    page = tmp_path / "report.html"
    report(path, page)
    assert "voltage [mV]" in page.read_text()

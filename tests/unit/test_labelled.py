"""Functions that return DataArrays and quantities: dims by name, coordinates, attributes and units."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from bits import bits

from dasksim import (
    ArgumentError,
    ArgumentTypeError,
    OutputError,
    SimulatorError,
    derive,
    generate,
    make_simulator,
    verify,
)

Rng = np.random.Generator


def recording(rng: Rng) -> dict[str, Any]:
    values = xr.DataArray(
        rng.normal(size=(2, 3)),
        dims=["cell", "time"],
        coords={"time": ("time", [0.0, 0.5, 1.0], {"units": "ms"}), "phase": ("time", ["a", "a", "b"]), "trial": 7},
        attrs={"units": "mV", "limit": np.float32(2)},
    )
    return {"v": values if values[0, 0] > 0 else values.transpose()}


def as_arrays(rng: Rng) -> dict[str, Any]:
    return {"v": rng.normal(size=(2, 3))}


def test_dims_coordinates_and_attributes_are_kept(tmp_path: Path) -> None:
    simulator = make_simulator(recording)
    path = tmp_path / "s.zarr"
    stored = generate(simulator, path, 50, seed=1, scheduler="synchronous")
    for ds in (simulator.sample(50, seed=1), stored, xr.open_zarr(path, consolidated=False)):
        assert set(ds.v.dims) == {"batch", "cell", "time"}
        assert ds.v.attrs == {"units": "mV", "limit": 2.0}
        assert set(ds.coords) == {"time", "phase"}
        assert ds.time.attrs == {"units": "ms"}
        assert list(ds.phase.values) == ["a", "a", "b"]
    assert verify(path, simulator, resimulate=3, progress=False).is_good


def test_dims_go_by_name_not_by_place() -> None:
    # the streams of a stage are addressed by its name
    by_name = make_simulator({"f": recording}, expand_outputs=False).sample(50, seed=1, sub_batch_size=7).compute()
    by_place = make_simulator({"f": as_arrays}, expand_outputs=False).sample(50, seed=1).compute()
    assert np.array_equal(by_name.v.transpose("batch", "cell", "time"), by_place.v)


def test_given_labels_win() -> None:
    ds = make_simulator(
        recording,
        dims={"v": ["first", "second"]},
        attrs={"v": {"units": "V"}},
    ).sample(5, seed=1)
    assert ds.v.dims == ("batch", "first", "second")
    assert ds.v.attrs == {"units": "V", "limit": 2.0}
    given = make_simulator(recording, coords={"time": [1, 2, 3]}).sample(5, seed=1)
    assert list(given.time.values) == [1, 2, 3]


@pytest.mark.parametrize(
    ("labels", "is_known"), [(["alpha", "beta"], True), (["beta", "alpha"], False), ([7, 8], False)]
)
def test_conditions_have_the_labels_of_the_simulator_or_none(labels: list[Any], is_known: bool) -> None:
    """They went by place, and what was beta was taken for alpha."""

    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal(size=2)}

    simulator = make_simulator(prior, dims={"theta": "name"}, coords={"name": ["alpha", "beta"]})
    values = np.arange(6.0).reshape(3, 2)
    given = xr.DataArray(values, {"name": labels}, dims=["batch", "name"])
    assert simulator.sample(3, seed=1, theta=given.drop_vars("name")).theta.values.tolist() == values.tolist()
    if is_known:
        assert simulator.sample(3, seed=1, theta=given).theta.values.tolist() == values.tolist()
    else:
        with pytest.raises(ArgumentError, match=r"condition 'theta' has the labels \[.*\] along 'name', where the sim"):
            simulator.sample(3, seed=1, theta=given)


def test_a_dataset_is_no_condition() -> None:
    with pytest.raises(ArgumentTypeError, match=r"condition 'theta' is a Dataset; give one of its variables"):
        make_simulator(lambda theta: {"x": theta}).sample(3, seed=1, theta=xr.Dataset())


def test_given_labels_in_another_order_than_those_of_a_value_are_refused() -> None:
    def one() -> dict[str, Any]:
        return {"theta": xr.DataArray([2.0, 1.0], {"name": ["beta", "alpha"]}, dims="name")}

    with pytest.raises(SimulatorError, match=r"'theta' is returned with the labels \['beta', 'alpha'\] of 'name'"):
        make_simulator(one, coords={"name": ["alpha", "beta"]}).sample(1, seed=1)


def test_lengths_and_schedulers_change_no_value() -> None:
    simulator = make_simulator(recording)
    whole = simulator.sample(40, seed=1).compute(scheduler="synchronous")
    assert bits(simulator.sample(20, seed=1, sub_batch_size=3).compute(scheduler="threads")) == bits(
        whole.isel(batch=slice(20))
    )


def of_batch(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
    values = xr.DataArray(rng.normal(size=(*batch_shape, 3)), dims=["batch", "time"], coords={"time": [1, 2, 3]})
    return {"named": values.transpose(), "unnamed": values.rename(batch="row").assign_attrs(units="s")}


def test_batched_functions_may_name_the_batch_or_not() -> None:
    ds = make_simulator(of_batch, is_batched=True).sample(100, seed=1, sub_batch_size=30).compute()
    assert ds.named.dims == ds.unnamed.dims == ("batch", "time")
    assert np.array_equal(ds.named, ds.unnamed)
    assert ds.unnamed.attrs == {"units": "s"}
    assert list(ds.time.values) == [1, 2, 3]


def test_contexts_may_be_labelled() -> None:
    def meta(rng: Rng) -> dict[str, Any]:
        return {"t": xr.DataArray(np.sort(rng.random(4)), dims=["time"], attrs={"units": "s"})}

    ds = make_simulator(lambda t, rng: {"x": rng.normal() + t[0]}, meta_fn=meta).sample(6, seed=1, sub_batch_size=2)
    assert ds.t.dims == ("batch", "time")
    assert ds.t.attrs == {"units": "s"}


def test_dims_without_a_name_are_named_after_the_variable() -> None:
    ds = make_simulator(lambda rng: {"x": xr.DataArray(rng.normal(size=2)), "y": xr.DataArray(rng.normal(size=3))})
    assert dict(ds.sample(1).sizes) == {"batch": 1, "x_dim_0": 2, "y_dim_0": 3}


def test_buffers_that_are_kept_are_copied() -> None:
    buffer = xr.DataArray(np.zeros(2), dims=["k"])

    def reuse(rng: Rng) -> dict[str, Any]:
        buffer[:] = rng.normal(size=2)
        return {"x": buffer}

    ds = make_simulator({"f": reuse}).sample(20, seed=1).compute()
    fresh = make_simulator({"f": lambda rng: {"x": rng.normal(size=2)}}).sample(20, seed=1).compute()
    assert np.array_equal(ds.x, fresh.x)


def sometimes(usual: Any, other: Any) -> Any:
    """Return a simulator of which some samples, but not the one of the probe, are others."""
    probed = [0]

    def simulate(rng: Rng) -> dict[str, Any]:
        probed[0] += 1
        return {"x": usual(rng) if probed[0] <= 2 else other(rng)}

    return make_simulator(simulate)


def on(dims: list[str], **more: Any) -> Any:
    return lambda rng: xr.DataArray(rng.normal(size=(2,) * len(dims)), dims=dims, **more)


@pytest.mark.parametrize(("usual", "other", "message"), [
    (on(["a"]), on(["b"]), r"at sample 0 returned 'x' with the dims \('b',\), expected \('a',\)"),
    (on(["a"], coords={"a": [0, 1]}), on(["a"], coords={"a": [0, 2]}), "at sample 0 .* another coordinate 'a'"),
    (on(["a"], coords={"a": [0, 1]}), on(["a"]), "another coordinate 'a'"),
    (on(["a"], attrs={"units": "m"}), on(["a"], attrs={"units": "s"}), "with the units 's', and 'm' at the probe"),
    (lambda rng: rng.normal(size=2), on(["a"]), "at sample 0 returned 'x' as a DataArray, expected a plain value"),
])  # fmt: skip
def test_other_labels_than_those_of_the_probe_are_errors(usual: Any, other: Any, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        sometimes(usual, other).sample(10, seed=1).compute(scheduler="synchronous")


@pytest.mark.parametrize(("value", "message"), [
    (xr.DataArray(np.zeros((2, 2)), dims=["a", "b"], coords={"c": (("a", "b"), np.zeros((2, 2)))}), "which has 2 dims"),
    (xr.DataArray(np.zeros(2), dims=["a"], attrs={"scale_factor": 2.0}), "the attribute 'scale_factor'"),
    (xr.DataArray(np.zeros(2), dims=["a"], coords={"a": [None, 1]}), "coordinates that cannot be kept"),
    ([xr.DataArray(1.0), xr.DataArray(2.0)], "as a list of values with labels or units"),
])  # fmt: skip
def test_labels_that_cannot_be_kept_are_refused(value: Any, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        make_simulator(lambda rng: {"x": value}).sample(1)


def test_variables_with_different_coordinates_are_refused() -> None:
    def simulate(rng: Rng) -> dict[str, Any]:
        return {n: xr.DataArray(rng.normal(size=2), dims=["k"], coords={"k": [0, i]}) for i, n in enumerate("xy")}

    with pytest.raises(SimulatorError, match="variables 'x' and 'y' have different coordinates 'k'"):
        make_simulator(simulate).sample(1)
    assert list(make_simulator(simulate, coords={"k": [5, 6]}).sample(1).k.values) == [5, 6]


def test_derived_variables_have_the_labels_of_what_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(make_simulator(recording), path, 20, seed=1, scheduler="synchronous")
    means = derive(path, lambda v: {"m": xr.DataArray(v.mean(1), dims=["cell_mean"], attrs={"units": "mV"})})
    assert means.m.dims == ("batch", "cell_mean")
    assert means.m.attrs == {"units": "mV"}


def test_plain_functions_do_not_import_xarray_for_this(tmp_path: Path) -> None:
    code = "import sys; from dasksim._core import labelled; assert 'xarray' not in sys.modules, 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def with_pint() -> Any:
    return pytest.importorskip("pint").UnitRegistry().Quantity


def with_astropy() -> Any:
    return pytest.importorskip("astropy.units").Quantity


@pytest.fixture(params=[with_pint, with_astropy], ids=["pint", "astropy"])
def quantity(request: pytest.FixtureRequest) -> Any:
    return request.param()


def test_quantities_are_numbers_in_the_unit_of_the_probe(quantity: Any, tmp_path: Path) -> None:
    def simulate(rng: Rng) -> dict[str, Any]:
        volts = rng.normal(size=3)
        return {"x": quantity(volts * 1000, "mV"), "s": quantity(volts[0], "V")}

    def mixed(rng: Rng) -> dict[str, Any]:
        made = simulate(rng)
        return {"x": made["x"].to("V") if rng.random() < 0.5 else made["x"], "s": made["s"]}

    path = tmp_path / "s.zarr"
    plain = make_simulator({"f": simulate}).sample(30, seed=1).compute(scheduler="synchronous")
    ds = generate(make_simulator({"f": mixed}), path, 30, seed=1, scheduler="synchronous")
    unit = {"mV": 1, "V": 1000}[ds.x.attrs["units"]]
    assert np.allclose(ds.x * unit, plain.x, rtol=1e-12)
    assert ds.s.attrs == {"units": "V"} == xr.open_zarr(path, consolidated=False).s.attrs


def test_later_functions_are_given_numbers(quantity: Any) -> None:
    def later(a: float) -> dict[str, Any]:
        assert type(a) in (float, np.float64)
        return {"b": 2 * a}

    ds = make_simulator([lambda rng: {"a": quantity(rng.normal(), "m")}, later]).sample(5, seed=1).compute()
    assert np.array_equal(ds.b, 2 * ds.a)


def test_units_that_cannot_be_converted_name_the_sample(quantity: Any) -> None:
    simulator = sometimes(lambda rng: quantity(rng.normal(), "mV"), lambda rng: quantity(1.0, "s"))
    with pytest.raises(OutputError, match=r"at sample 0 returned 'x' in the unit 's', .* converted to 'mV'"):
        simulator.sample(5, seed=1).compute(scheduler="synchronous")


def test_quantities_and_numbers_are_not_mixed(quantity: Any) -> None:
    some = lambda rng: quantity(rng.normal(), "mV")  # noqa: E731
    with pytest.raises(OutputError, match=r"at sample 0 returned 'x' as a float, expected a quantity in 'mV'"):
        sometimes(some, lambda rng: rng.normal()).sample(5, seed=1).compute(scheduler="synchronous")
    with pytest.raises(OutputError, match=r"returned 'x' as a Quantity in 'mV', expected a plain value"):
        sometimes(lambda rng: rng.normal(), some).sample(5, seed=1).compute(scheduler="synchronous")
    with pytest.raises(ArgumentTypeError, match="condition 'x' has a unit, which would be lost"):
        make_simulator(lambda rng: {"x": rng.normal()}).sample(5, seed=1, x=quantity(1.0, "mV"))


def test_batched_quantities(quantity: Any) -> None:
    ds = make_simulator(lambda batch_shape, rng: {"x": quantity(rng.normal(size=batch_shape), "m")}, is_batched=True)
    assert ds.sample(5, seed=1).compute().x.attrs == {"units": "m"}

"""Sizes that differ between samples, or that a context has: filled up to the largest that is declared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from bits import bits

from dasksim import (
    ModelComparisonSimulator,
    OutputError,
    RejectionSimulator,
    SimulatorError,
    extend,
    generate,
    make_simulator,
    verify,
)

Rng = np.random.Generator


def series(rng: Rng) -> dict[str, Any]:
    n = int(rng.integers(2, 9))
    return {"n": n, "y": rng.normal(size=n)}


def true_sizes(dataset: Any) -> Any:
    return (~np.isnan(dataset.y)).sum("y_dim_0").values


def test_sizes_by_sample_are_filled_up() -> None:
    simulator = make_simulator(series, max_sizes={"y_dim_0": 10})
    lazy = simulator.sample(100, seed=1, sub_batch_size=10, chunk_size=20)
    found = lazy.compute(scheduler="synchronous")
    assert found.y.shape == (100, 10) == lazy.y.shape
    assert type(found.y.data) is np.ndarray
    assert np.array_equal(true_sizes(found), found.n)
    rng = np.random.default_rng(0)
    assert len({len(series(rng)["y"]) for _ in range(50)}) > 3


@pytest.mark.parametrize("sub_batch_size", [1, 7, 100])
def test_sizes_by_sample_leave_values_what_they_are(sub_batch_size: int) -> None:
    options: dict[str, Any] = {"seed": 1, "sub_batch_size": sub_batch_size}
    simulator = make_simulator(series, max_sizes={"y_dim_0": 10})
    whole = simulator.sample(100, **options).compute(scheduler="synchronous")
    for scheduler in ("threads", "synchronous"):
        assert bits(simulator.sample(50, **options).compute(scheduler=scheduler)) == bits(whole.isel(batch=slice(50)))
    assert np.array_equal(true_sizes(whole), whole.n)


def test_integers_take_a_fill_value_that_they_hold() -> None:
    def simulate(rng: Rng) -> dict[str, Any]:
        return {"k": np.arange(int(rng.integers(1, 4)))}

    with pytest.raises(SimulatorError, match="cannot hold fill_value=nan"):
        make_simulator(simulate, max_sizes={"k_dim_0": 5}).sample(10)
    found = make_simulator(simulate, max_sizes={"k_dim_0": 5}, fill_value=-1).sample(50, seed=1).compute()
    assert found.k.dtype == np.int64
    assert set(map(tuple, found.k.values.tolist())) == {(0, -1, -1, -1, -1), (0, 1, -1, -1, -1), (0, 1, 2, -1, -1)}


def test_size_beyond_the_largest_names_the_sample() -> None:
    def rarely_long(rng: Rng) -> dict[str, Any]:
        return {"y": rng.normal(size=8 if rng.random() > 0.95 else int(rng.integers(2, 8)))}

    simulator = make_simulator(rarely_long, max_sizes={"y_dim_0": 7})
    with pytest.raises(
        OutputError, match=r"at sample \d+ returned 'y' with shape \(8,\), expected \(7,\); .* larger max_sizes"
    ):
        simulator.sample(200, seed=1).compute(scheduler="synchronous")


def test_sizes_by_sample_that_are_not_declared_are_refused_with_advice() -> None:
    with pytest.raises(OutputError, match="differs between samples, name the dim and declare its largest size"):
        make_simulator(series).sample(100, seed=1).compute(scheduler="synchronous")

    def later(batch_shape: Any, rng: Rng) -> dict[str, Any]:
        return {"z": rng.normal(size=batch_shape)}

    def differing(rng: Rng) -> dict[str, Any]:
        return {"y": rng.normal(size=int(rng.integers(1, 1000)))}

    simulator = make_simulator([differing, later], None, [None, {"is_batched": True}])
    with pytest.raises(SimulatorError, match=r"'y' differs in size between samples along 'y_dim_0'; add max_sizes="):
        simulator.sample(10, seed=1)


def test_sizes_by_sample_beside_a_batched_function() -> None:
    def later(batch_shape: Any, n: Any, rng: Rng) -> dict[str, Any]:
        return {"z": n + rng.normal(size=batch_shape)}

    simulator = make_simulator([series, later], None, [None, {"is_batched": True}], False, max_sizes={"y_dim_0": 10})
    found = simulator.sample(100, seed=1).compute(scheduler="synchronous")
    assert np.array_equal(true_sizes(found), found.n)


def test_batched_function_that_takes_what_differs_in_size_is_refused() -> None:
    def later(y: Any) -> dict[str, Any]:
        return {"s": y.sum(axis=-1)}

    simulator = make_simulator([series, later], None, [None, {"is_batched": True}], max_sizes={"y_dim_0": 10})
    with pytest.raises(SimulatorError, match="stage 'later' takes 'y', whose size differs between the samples"):
        simulator.sample(100, seed=1).compute(scheduler="synchronous")


def summarized(y: Any) -> dict[str, Any]:
    return {"n_taken": y.size, "total": y.sum(), "z": 2 * y}


@pytest.mark.parametrize("sub_batch_size", [1, 7, 100])
def test_plain_function_takes_each_row_at_its_own_length(sub_batch_size: int) -> None:
    simulator = make_simulator([series, summarized], None, None, False, max_sizes={"y_dim_0": 10, "z_dim_0": 10})
    found = simulator.sample(100, seed=1, sub_batch_size=sub_batch_size).compute(scheduler="synchronous")
    assert np.array_equal(found.n_taken, found.n)
    assert np.array_equal(found.z_size, found.n)
    assert np.allclose(found.total, found.y.sum("y_dim_0"))
    assert np.array_equal(found.z, 2 * found.y, equal_nan=True)


def test_rows_that_were_drawn_again_are_taken_at_their_own_length() -> None:
    kept = RejectionSimulator(make_simulator([series], None, None, False, max_sizes={"y_dim_0": 10}), large)
    simulator = make_simulator([kept, summarized], None, None, False, max_sizes={"y_dim_0": 10, "z_dim_0": 10})
    found = simulator.sample(50, seed=1).compute(scheduler="synchronous")
    assert np.array_equal(found.n_taken, found.n)
    assert found.n.min() > 4


def test_sizes_are_kept(tmp_path: Path) -> None:
    simulator = make_simulator(series, max_sizes={"y_dim_0": 10})
    path = tmp_path / "s.zarr"
    stored = generate(simulator, path, 60, seed=1, scheduler="synchronous")
    stored = extend(path, simulator, 100, scheduler="synchronous")
    assert stored.y_size.dims == ("batch",)
    assert stored.y_size.dtype == np.int64
    assert np.array_equal(stored.y_size, stored.n)
    mask = np.arange(10) < stored.y_size.values[:, None]
    assert np.array_equal(mask, stored.y.notnull())
    assert verify(path, simulator, resimulate=3, progress=False).is_good


def test_sizes_along_several_axes_stand_in_one_variable() -> None:
    def simulate(rng: Rng) -> dict[str, Any]:
        shape = tuple(int(size) for size in rng.integers(1, 5, size=2))
        return {"y": rng.normal(size=shape), "shape": np.array(shape)}

    found = make_simulator(simulate, max_sizes={"y_dim_0": 4, "y_dim_1": 4}).sample(50, seed=1).compute()
    assert found.y_size.dims == ("batch", "y_size_dim_0")
    assert np.array_equal(found.y_size, found["shape"])


def test_sizes_of_batched_functions_and_contexts_are_kept() -> None:
    def meta(rng: Rng) -> dict[str, Any]:
        return {"n": int(rng.integers(1, 6))}

    def simulate(batch_shape: Any, n: int, rng: Rng) -> dict[str, Any]:
        return {"x": rng.normal(size=(*batch_shape, n))}

    simulator = make_simulator(simulate, meta, is_batched=True, dims={"x": ["obs"]}, max_sizes={"obs": 5})
    found = simulator.sample(40, seed=1, sub_batch_size=8).compute(scheduler="synchronous")
    assert np.array_equal(found.x_size, found.n)
    assert len(set(found.n.values.tolist())) > 1


def test_name_that_is_taken_is_left_to_its_variable() -> None:
    def simulate(rng: Rng) -> dict[str, Any]:
        return {"y": rng.normal(size=int(rng.integers(1, 5))), "y_size": 7.5}

    found = make_simulator(simulate, max_sizes={"y_dim_0": 5}).sample(20, seed=1).compute()
    assert set(found.y_size.values.tolist()) == {7.5}


def test_functions_that_take_all_are_not_given_sizes() -> None:
    def later(n: int, **others: Any) -> dict[str, Any]:
        return {"n_others": len(others)}

    def asks(y_size: int) -> dict[str, Any]:
        return {"asked": y_size}

    simulator = make_simulator([series, later, asks], None, None, False, max_sizes={"y_dim_0": 10})
    found = simulator.sample(20, seed=1).compute(scheduler="synchronous")
    assert set(found.n_others.values.tolist()) == {1}
    assert np.array_equal(found.asked, found.n)


def test_dataarrays_may_differ_in_size_without_coordinates() -> None:
    def simulate(rng: Rng) -> dict[str, Any]:
        n = int(rng.integers(1, 6))
        labels = {"spike": np.arange(n)}
        return {"s": xr.DataArray(rng.random(n), dims=["spike"], coords=labels), "n": n}

    with pytest.raises(SimulatorError, match="has the coordinate 'spike' along 'spike', along which sizes differ"):
        make_simulator(simulate, max_sizes={"spike": 6}).sample(1)
    found = make_simulator(simulate, max_sizes={"spike": 6}, coords={"spike": range(6)}).sample(50, seed=1).compute()
    assert np.array_equal(found.s_size, found.n)
    assert np.array_equal(found.s_size, found.s.notnull().sum("spike"))


def test_condition_that_stands_for_what_differs_has_no_sizes() -> None:
    simulator = make_simulator(lambda rng: {"y": rng.normal(size=int(rng.integers(1, 5)))}, max_sizes={"y_dim_0": 5})
    found = simulator.sample(3, seed=1, y=np.ones((3, 5))).compute()
    assert list(found) == ["y"]
    assert (found.y == 1).all()


def test_contexts_of_their_own_sizes_are_filled_up() -> None:
    def meta(rng: Rng) -> dict[str, Any]:
        return {"t": np.linspace(0, 1, int(rng.integers(3, 9)))}

    def simulate(t: Any, rng: Rng) -> dict[str, Any]:
        return {"y": rng.normal(size=len(t))}

    simulator = make_simulator(simulate, meta_fn=meta, max_sizes={"t_dim_0": 10, "y_dim_0": 10})
    found = simulator.sample(100, seed=1, sub_batch_size=10).compute(scheduler="synchronous")
    assert dict(found.sizes) == {"batch": 100, "t_dim_0": 10, "y_dim_0": 10}
    assert np.array_equal(found.t_size, true_sizes(found))
    assert np.array_equal(found.y_size, found.t_size)
    assert np.array_equal((~np.isnan(found.t)).sum("t_dim_0"), true_sizes(found))
    assert len(set(true_sizes(found))) > 1
    with pytest.raises(SimulatorError, match=r"more than max_sizes\['t_dim_0'\]=3"):
        make_simulator(simulate, meta_fn=meta, max_sizes={"t_dim_0": 3, "y_dim_0": 10}).sample(
            100, seed=1, sub_batch_size=10
        ).compute(scheduler="synchronous")


def test_context_of_integers_needs_a_fill_value_that_it_holds() -> None:
    def meta(rng: Rng) -> dict[str, Any]:
        return {"k": np.arange(int(rng.integers(1, 9)))}

    with pytest.raises(SimulatorError, match="'k' has dtype int64, which cannot hold fill_value=nan"):
        make_simulator(lambda k, rng: {"y": rng.normal()}, meta_fn=meta, max_sizes={"k_dim_0": 10}).sample(10)


def large(n: Any) -> Any:
    return n > 4


@pytest.mark.parametrize("wrap", [
    lambda s: RejectionSimulator(s, large, sample_size=2),
    lambda s: ModelComparisonSimulator({"a": s, "b": s}),
    lambda s: make_simulator([RejectionSimulator(s, large, sample_size=2), lambda n: {"m": n}]),
])  # fmt: skip
def test_sizes_by_sample_within_filters_and_models(wrap: Callable[..., Any]) -> None:
    simulator = wrap(make_simulator(series, max_sizes={"y_dim_0": 10}))
    found = simulator.sample(100, seed=1, sub_batch_size=10).compute(scheduler="synchronous")
    assert np.array_equal(true_sizes(found), found.n.values.reshape(-1))
    assert np.array_equal(true_sizes(found), found.y_size)


@pytest.mark.parametrize("policy", [{"on_error": "redraw"}, {"on_nonfinite": "redraw"}, {"on_nonfinite": "mask"}])
def test_sizes_by_sample_with_samples_that_fail(policy: dict[str, Any], tmp_path: Path) -> None:
    """What fills up is no failure of its sample, and a sample that is drawn again has a size of its own."""

    def simulate(rng: Rng) -> dict[str, Any]:
        made = series(rng)
        if made["n"] == 3:
            if "on_error" in policy:
                raise ValueError("three")
            made["y"][1] = np.inf
        return {**made, "ok": made["n"] != 3}

    simulator = make_simulator(simulate, max_sizes={"y_dim_0": 10})
    path = tmp_path / "s.zarr"
    stored = generate(simulator, path, 200, seed=1, sub_batch_size=8, scheduler="synchronous", **policy)
    good = stored.valid.values if "valid" in stored else np.ones(200, bool)
    assert (good.sum() < 200) == ("mask" in policy.values())
    assert np.array_equal(true_sizes(stored)[good], stored.n.values[good])
    assert np.array_equal(stored.y_size.values[good], stored.n.values[good])
    assert stored.ok.values[good].all()
    assert verify(path, simulator, resimulate=5, progress=False).is_good


def spikes(rng: Rng) -> dict[str, Any]:
    return {"s": np.sort(rng.uniform(size=rng.poisson(0.7)))}


def summary(s: Any, rng: Rng) -> dict[str, Any]:
    return {"k": len(s), "last": float(s[-1]) if len(s) else -1.0}


@pytest.mark.parametrize("seed", range(6))
def test_a_sample_may_have_nothing_be_it_the_first(seed: int, tmp_path: Path) -> None:
    """Neurons that are silent, queues without customers; a third of the seeds meet one in the probe."""
    simulator = make_simulator([spikes, summary], dims={"s": ["spike"]}, max_sizes={"spike": 9}, expand_outputs=False)
    found = simulator.sample(120, seed=seed, sub_batch_size=7).compute(scheduler="synchronous")
    assert 0 < int((found.s_size == 0).sum()) < 120
    assert np.array_equal(found.k, found.s_size)
    assert np.array_equal((~np.isnan(found.s)).sum("spike"), found.s_size)
    assert ((found["last"] == -1) == (found.s_size == 0)).all()
    generate(simulator, tmp_path / "s.zarr", 120, seed=seed, progress=False)
    assert verify(tmp_path / "s.zarr", simulator, resimulate=1).is_good


def test_nothing_at_all_is_refused_where_no_size_is_declared() -> None:
    with pytest.raises(OutputError, match=r"returned 's' with shape \(0,\); a variable must have values, or declare"):
        make_simulator(lambda rng: {"s": np.zeros(0)}).sample(3, seed=1)
    simulator = make_simulator(lambda rng: {"s": np.zeros(0)}, dims={"s": ["spike"]}, max_sizes={"spike": 3})
    found = simulator.sample(4, seed=1).compute()
    assert found.s.shape == (4, 3)
    assert found.s_size.values.tolist() == [0, 0, 0, 0]

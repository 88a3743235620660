"""Rejection keeps exactly what a predicate accepts, in the order of proposal, whatever the chunks and the scheduler."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from bits import bits, prefix_of
from calls import Calls
from distributed import Client
from scipy import stats
from zoo.circles import Rng, batched, in_circle, makes, point, units

from dasksim import (
    ArgumentError,
    ArgumentTypeError,
    ModelComparisonSimulator,
    OutputError,
    RejectionSimulator,
    Simulator,
    SimulatorError,
    make_simulator,
)

#: How often a statistical test of a right package would fail, were its seed not fixed.
FALSE_ALARM = 1e-6


@makes
def test_circle_has_exactly_as_many_samples_as_asked_for(make: Callable[[], Simulator]) -> None:
    ds = make().rejection_sample(500, in_circle, seed=1).compute()
    assert dict(ds.sizes) == {"batch": 500}
    assert (ds.x**2 + ds.y**2 < 1).all()
    assert len(np.unique(ds.x)) == 500


@makes
def test_overshoot_keeps_all_that_was_accepted(make: Callable[[], Simulator]) -> None:
    options: dict[str, Any] = {"seed": 1, "sub_batch_size": 100}
    more = make().rejection_sample(500, in_circle, overshoot=True, **options)
    # plain functions propose for each sample, and no more than is needed
    assert more.sizes["batch"] > 500 if make is batched else more.sizes["batch"] == 500
    assert (more.x**2 + more.y**2 < 1).all()
    exact = make().rejection_sample(500, in_circle, **options).compute()
    assert np.isin(exact.x, more.x).all()
    assert bits(exact.isel(batch=slice(100))) == prefix_of(more, 100)


def test_accepted_samples_are_uniform_on_the_disc() -> None:
    ds = batched().rejection_sample(50_000, in_circle, seed=1, sub_batch_size=1000).compute()
    assert stats.kstest(ds.x**2 + ds.y**2, "uniform").pvalue > FALSE_ALARM
    angle = np.arctan2(ds.y, ds.x) / (2 * np.pi) + 0.5
    assert stats.kstest(angle, "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize(("acceptance", "n"), [(0.5, 100_000), (0.05, 50_000), (0.001, 5_000)])
def test_rejection_has_the_distribution_of_a_filtered_dataset(acceptance: float, n: int) -> None:
    def prior(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
        return {"u": rng.uniform(size=batch_shape), "z": rng.normal(size=batch_shape)}

    def score(u: Any, z: Any) -> Any:
        return (u + 0.1 * np.tanh(z)) % 1

    simulator = make_simulator(prior, is_batched=True, expand_outputs=False)
    kept = simulator.rejection_sample(n, lambda u, z: score(u, z) < acceptance, seed=1).compute()
    plain = simulator.sample(int(n / acceptance), seed=2).compute()
    chosen = plain.isel(batch=np.flatnonzero(score(plain.u, plain.z) < acceptance))
    assert kept.sizes["batch"] == n
    for one, other in ((kept.u, chosen.u), (kept.z, chosen.z), (kept.u * kept.z, chosen.u * chosen.z)):
        assert stats.ks_2samp(one, other).pvalue > FALSE_ALARM


def test_order_of_acceptance_is_order_of_proposal(tmp_path: Path) -> None:
    log = tmp_path / "proposals.txt"

    def predicate(u: Any) -> Any:
        with log.open("a") as file:
            file.writelines(f"{value.hex()}\n" for value in u.tolist())
        return u < 0.3

    lazy = units().rejection_sample(100, predicate, sample_size=20, seed=1, sub_batch_size=100)
    log.unlink(missing_ok=True)  # of the probe
    found = lazy.compute(scheduler="synchronous").u.values
    proposed = np.array([float.fromhex(line) for line in log.read_text().splitlines()])
    assert len(proposed) % 20 == 0
    np.testing.assert_array_equal(found, proposed[proposed < 0.3][:100])


def test_one_attempt_is_a_filtered_dataset() -> None:
    found = batched().rejection_sample(50, in_circle, sample_size=200, seed=1, sub_batch_size=50).compute()
    plain = batched().sample(200, seed=1, sub_batch_size=200).compute()
    chosen = plain.isel(batch=np.flatnonzero(in_circle(plain.x, plain.y))[:50])
    assert bits(found) == bits(chosen)


@makes
def test_chunk_size_and_scheduler_change_no_bit(make: Callable[[], Simulator], two_workers: Client) -> None:
    options: dict[str, Any] = {"seed": 3, "sub_batch_size": 5}
    wanted = bits(make().rejection_sample(37, in_circle, chunk_size=40, **options), scheduler="synchronous")
    for chunk_size in (5, 10, 25):
        ds = make().rejection_sample(37, in_circle, chunk_size=chunk_size, **options)
        for scheduler in ("synchronous", "threads", two_workers):
            assert bits(ds, scheduler=scheduler) == wanted


@makes
@pytest.mark.parametrize("sample_size", [None, 3, 50])
def test_smaller_dataset_is_prefix_of_larger(make: Callable[[], Simulator], sample_size: int | None) -> None:
    def sample(n: int) -> xr.Dataset:
        return make().rejection_sample(n, in_circle, sample_size=sample_size, seed=3, sub_batch_size=8)

    larger = sample(40)
    # a dataset smaller than a sub-batch has a smaller one, whose first attempt is smaller too, unless that is given
    for n in (8, 9, 16, 23, 39) if sample_size is None else (1, 7, 8, 9, 23, 39):
        assert bits(sample(n)) == prefix_of(larger, n)


def test_further_batch_dims_are_filtered_cell_by_cell() -> None:
    ds = batched().rejection_sample((30, 4), in_circle, seed=1, sub_batch_size=7).compute()
    assert dict(ds.sizes) == {"batch": 30, "batch_1": 4}
    assert (ds.x**2 + ds.y**2 < 1).all()
    assert len(np.unique(ds.x)) == 120


def test_stages_that_a_predicate_does_not_need_run_for_accepted_samples_only(tmp_path: Path) -> None:
    calls = Calls(tmp_path)

    def expensive(x: float, rng: Rng) -> dict[str, Any]:
        calls.add("expensive")
        return {"data": rng.normal(x, size=3)}

    simulator = make_simulator([point, expensive], expand_outputs=False)
    lazy = simulator.rejection_sample(100, in_circle, seed=1, sub_batch_size=30)
    calls.take()  # of the probe
    ds = lazy.compute(scheduler="synchronous")
    assert calls.take() == {"expensive": 100}
    assert (abs(ds.data.mean("data_dim_0") - ds.x) < 5).all()

    needed = simulator.rejection_sample(100, lambda data: data[:, 0] > 0, seed=1, sub_batch_size=30)
    calls.take()
    needed.compute(scheduler="synchronous")
    assert calls.take()["expensive"] > 100


def test_predicate_by_mapping_sees_the_shapes_of_the_dataset() -> None:
    def prior(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
        return {"s": rng.normal(size=batch_shape), "v": rng.normal(size=(*batch_shape, 3))}

    def predicate(variables: Any) -> Any:
        (n, one), v = variables["s"].shape, variables["v"]
        assert set(variables) == {"s", "v"}
        assert (one, v.shape) == (1, (n, 3))
        return variables["s"][:, 0] > 0

    ds = make_simulator([prior], is_batched=True).rejection_sample(20, predicate, seed=1).compute()
    assert ds.s.shape == (20, 1)
    assert (ds.s > 0).all()
    flat = make_simulator(prior, is_batched=True, expand_outputs=False)
    by_mapping = flat.rejection_sample(20, lambda variables: variables["s"] > 0, seed=1, sub_batch_size=10)
    assert bits(by_mapping) == bits(flat.rejection_sample(20, lambda s: s > 0, seed=1, sub_batch_size=10))


_hidden = np.random.default_rng(7)

RANDOM: dict[str, Callable[..., Any]] = {
    "rng": lambda u, rng: rng.uniform(size=u.shape) < u,
    "hidden": lambda u: _hidden.uniform(size=u.shape) < u,
    "legacy": lambda u: np.random.uniform(size=u.shape) < u,
}


@pytest.mark.parametrize("source", RANDOM)
def test_predicate_that_draws_is_reproducible(source: str, two_workers: Client) -> None:
    def sample(chunk_size: int) -> xr.Dataset:
        return units().rejection_sample(200, RANDOM[source], seed=1, sub_batch_size=20, chunk_size=chunk_size)

    wanted = bits(sample(200), scheduler="synchronous")
    assert bits(sample(200), scheduler="synchronous") == wanted
    assert bits(sample(40), scheduler="threads") == wanted
    assert bits(sample(40), scheduler=two_workers) == wanted
    large = units().rejection_sample(20_000, RANDOM[source], seed=1).compute()
    # accepted with probability u, so that the density is 2 u
    assert stats.kstest(large.u**2, "uniform").pvalue > FALSE_ALARM


def shifted_batched(batch_shape: tuple[int, ...], d: Any, rng: Rng) -> dict[str, Any]:
    return {"x": 10 * d + rng.normal(size=batch_shape)}


def shifted(d: float, rng: Rng) -> dict[str, Any]:
    return {"x": 10 * d + rng.normal()}


shifts = pytest.mark.parametrize(("function", "is_batched"), [(shifted_batched, True), (shifted, False)])


@shifts
@pytest.mark.parametrize("n", [4, 90])
def test_conditions_with_a_batch_axis_stay_paired(function: Callable[..., Any], is_batched: bool, n: int) -> None:
    simulator = make_simulator(function, is_batched=is_batched, expand_outputs=False)
    d = np.arange(n, dtype=float)
    options: dict[str, Any] = {"seed": 1, "sub_batch_size": 8, "d": d}
    ds = simulator.rejection_sample(n, lambda x, d: x - 10 * d > 1, **options).compute()
    np.testing.assert_array_equal(ds.d, d)
    rest = ds.x - 10 * d
    assert ((rest > 1) & (rest < 7)).all()
    by_name_of_x = simulator.rejection_sample(n, lambda x: x > 10 * (n // 2), **{**options, "d": d + n // 2}).compute()
    np.testing.assert_array_equal(by_name_of_x.d, d + n // 2)
    assert (abs(by_name_of_x.x - 10 * by_name_of_x.d) < 7).all()
    again = simulator.rejection_sample(n, lambda x, d: x - 10 * d > 1, chunk_size=16, **options)
    assert bits(again, scheduler="threads") == bits(ds)


def test_paired_samples_have_the_distribution_of_their_rows() -> None:
    simulator = make_simulator(shifted_batched, is_batched=True, expand_outputs=False)
    d = np.tile([0.0, 1.0], 10_000)
    ds = simulator.rejection_sample(20_000, lambda x, d: x - 10 * d > d, seed=1, d=d).compute()
    for value in (0.0, 1.0):
        rest = ds.x.values[d == value] - 10 * value
        assert stats.kstest(rest, stats.truncnorm(value, np.inf).cdf).pvalue > FALSE_ALARM


@shifts
def test_scalar_conditions_hold_for_all_proposals(function: Callable[..., Any], is_batched: bool) -> None:
    simulator = make_simulator(function, is_batched=is_batched, expand_outputs=False)
    ds = simulator.rejection_sample(50, lambda x, d: x - 10 * d > 1, seed=1, d=2.0).compute()
    assert (ds.d == 2).all()
    assert ((ds.x > 21) & (ds.x < 27)).all()
    with pytest.raises(ArgumentError, match="condition 'd' must be a scalar; it has a batch axis"):
        simulator.rejection_sample(50, lambda x: x > 1, overshoot=True, d=np.arange(50.0))


@pytest.mark.parametrize("is_batched", [True, False])
def test_contexts_stay_constant_in_a_sub_batch(is_batched: bool) -> None:
    def many(batch_shape: tuple[int, ...], scale: float, rng: Rng) -> dict[str, Any]:
        return {"x": scale * rng.uniform(-1, 1, batch_shape)}

    def one(scale: float, rng: Rng) -> dict[str, Any]:
        return {"x": scale * rng.uniform(-1, 1)}

    simulator = make_simulator(
        many if is_batched else one,
        meta_fn=lambda rng: {"scale": rng.uniform(1, 2)},
        is_batched=is_batched,
        expand_outputs=False,
    )
    options: dict[str, Any] = {"seed": 1, "sub_batch_size": 8}
    ds = simulator.rejection_sample(40, lambda x, scale: abs(x) > 0.5 * scale, **options).compute()
    scale = ds.scale.values.reshape(5, 8)
    assert (scale == scale[:, :1]).all()
    assert len(np.unique(scale)) == 5
    assert ((abs(ds.x) > 0.5 * ds.scale) & (abs(ds.x) < ds.scale)).all()
    np.testing.assert_array_equal(ds.scale, simulator.sample(40, **options).scale)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "floats": (lambda u: u, OutputError, "must return a boolean array of shape .* of dtype float64"),
    "scalar": (lambda u: True, OutputError, "must return a boolean array of shape .* got bool True"),
    "length": (lambda u: np.ones(len(u) + 1, bool), OutputError, "got an array of shape"),
    "missing name": (lambda u, v: u > v, SimulatorError, "'rejection' needs 'v', which is no variable"),
    "missing key": (lambda all_: all_["v"] > 0, SimulatorError, "needs 'v', which is no variable"),
    "nothing": (lambda: True, SimulatorError, "takes no variables"),
    "not callable": ("u > 0", ArgumentTypeError, "predicate must be callable; got 'u > 0'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_predicate_is_an_error_before_any_work(what: str) -> None:
    predicate, error, message = WRONG[what]
    with pytest.raises(error, match=message):
        units().rejection_sample(10, predicate, seed=1)


@pytest.mark.parametrize("name", ["sample_size", "max_proposals"])
def test_numbers_are_checked(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} must be .*; got 0"):
        RejectionSimulator(units(), in_circle, **{name: 0})
    with pytest.raises(ArgumentTypeError, match="simulator must be a Simulator"):
        RejectionSimulator("units", in_circle)


def test_impossible_predicate_ends_with_an_error() -> None:
    lazy = units().rejection_sample(10, lambda u: u > 2, seed=1, sub_batch_size=10)
    with pytest.raises(SimulatorError, match=r"accepted 0 of [\d,]+ proposals .*\(acceptance 0\).* max_proposals"):
        lazy.compute()


@pytest.mark.parametrize("sample_size", [None, 10])
def test_max_proposals_bounds_a_sub_batch(sample_size: int | None) -> None:
    def sample(most: int) -> xr.Dataset:
        options: dict[str, Any] = {"sample_size": sample_size, "max_proposals": most, "seed": 1, "sub_batch_size": 10}
        return units().rejection_sample(40, lambda u: u < 0.1, **options)

    assert (sample(10_000).compute().u < 0.1).all()
    with pytest.raises(SimulatorError, match=r"accepted \d+ of \d+ proposals .* limit of max_proposals=20;"):
        sample(20).compute()


def test_generators_that_models_spawn_share_no_stream_with_later_attempts() -> None:
    def model(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(size=batch_shape), "spawned": rng.spawn(2)[1].normal(size=batch_shape)}

    simulator = make_simulator(model, is_batched=True)
    comparison = ModelComparisonSimulator([simulator, simulator])
    found = RejectionSimulator(comparison, lambda x: x < 1, sample_size=100).sample(500, seed=1, sub_batch_size=500)
    assert not np.isin(found.spawned.values, found.x.values).any()


def test_stages_with_a_declared_schema_are_filtered() -> None:
    def first(rng: Rng) -> dict[str, Any]:
        return {"a": rng.normal()}

    def second(a: float, rng: Rng) -> dict[str, Any]:
        return {"b": a + rng.normal(), "c": rng.normal(size=2)}

    schemas: list[dict[str, Any]] = [{"a": ((), "float64")}, {"b": ((), "float64"), "c": ((2,), "float64")}]
    declared = make_simulator([first, second], obj_kwargs=[{"schema": schema} for schema in schemas])
    found = declared.rejection_sample(50, lambda b: b > 0, seed=1)
    assert bits(found) == bits(make_simulator([first, second]).rejection_sample(50, lambda b: b > 0, seed=1))
    given = declared.rejection_sample(50, lambda a, b: a > b, seed=1, a=np.arange(50.0))
    assert (given.b.values.ravel() < np.arange(50)).all()

"""Rejection at its edges: filters within filters, further axes with overshoot, and predicates that misbehave."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bits import bits, prefix_of
from zoo.circles import Rng, batched, in_circle, makes, unbatched, units

from dasksim import (
    HierarchicalSimulator,
    ModelComparisonSimulator,
    OutputError,
    RejectionSimulator,
    Simulator,
    make_simulator,
)


def around(x: float, rng: Rng) -> dict[str, Any]:
    return {"z": rng.normal(x)}


@makes
def test_stages_after_a_filter_take_what_it_accepted(make: Callable[[], Simulator]) -> None:
    rejection = RejectionSimulator(make(), in_circle)
    ds = make_simulator([rejection, around], expand_outputs=False).sample(40, seed=1, sub_batch_size=7).compute()
    alone = rejection.sample(40, seed=1, sub_batch_size=7)
    assert bits(ds[["x", "y"]]) == bits(alone)
    assert (abs(ds.z - ds.x) < 7).all()


def test_filter_below_another_level_keeps_rows_paired() -> None:
    below = RejectionSimulator(make_simulator(around), lambda x, z: z > x + 1)
    ds = HierarchicalSimulator([unbatched(), below], levels=["k"]).sample((40, 3), seed=1, sub_batch_size=7).compute()
    assert (ds.z > ds.x + 1).all()
    assert ds.z.dims == ("batch", "k")


@makes
def test_prefix_holds_with_conditions_that_have_a_batch_axis(make: Callable[[], Simulator]) -> None:
    x = np.linspace(0, 0.99, 40)
    options: dict[str, Any] = {"seed": 1, "sub_batch_size": 8}
    larger = make().rejection_sample(40, in_circle, x=x, **options)
    for n in (8, 9, 15, 16, 23):
        assert bits(make().rejection_sample(n, in_circle, x=x[:n], **options)) == prefix_of(larger, n)


def test_filter_of_a_hierarchy_accepts_whole_groups() -> None:
    hierarchy = HierarchicalSimulator([lambda rng: {"m": rng.normal()}, lambda m, rng: {"s": rng.normal(m)}], ["k"])
    ds = hierarchy.rejection_sample((20, 3), lambda s: s.mean(axis=1) > 0, seed=1, sub_batch_size=7).compute()
    assert ds.s.shape == (20, 3)
    assert (ds.s.mean("k") > 0).all()


@pytest.mark.parametrize("sub_batch_size", [7, 16])
def test_overshoot_with_further_batch_dims(sub_batch_size: int) -> None:
    ds = batched().rejection_sample((50, 3), in_circle, overshoot=True, seed=1, sub_batch_size=sub_batch_size)
    assert ds.sizes["batch_1"] == 3
    assert ds.sizes["batch"] >= 50
    assert (ds.x**2 + ds.y**2 < 1).all()


def test_filter_of_a_filter() -> None:
    inner = RejectionSimulator(batched(), in_circle)
    ds = RejectionSimulator(inner, lambda x: x > 0).sample(50, seed=1, sub_batch_size=7).compute()
    assert ((ds.x > 0) & (ds.x**2 + ds.y**2 < 1)).all()


def test_filter_of_stages_after_a_filter() -> None:
    simulator = make_simulator([RejectionSimulator(unbatched(), in_circle), around], expand_outputs=False)
    ds = simulator.rejection_sample(50, lambda z: z > 0, seed=1, sub_batch_size=7).compute()
    assert ((ds.z > 0) & (ds.x**2 + ds.y**2 < 1)).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_filter_of_a_comparison_of_filters(seed: int) -> None:
    models = {"circle": RejectionSimulator(unbatched(), in_circle), "square": unbatched()}
    comparison = ModelComparisonSimulator(models)
    ds = comparison.rejection_sample(200, lambda x: x > 0, seed=seed, sub_batch_size=7).compute()
    assert (ds.x > 0).all()
    circle = ds.isel(batch=np.flatnonzero(ds.model_indices.sel(model="circle")))
    assert (circle.x**2 + circle.y**2 < 1).all()


def overwriting(u: Any) -> Any:
    accepted = u < 0.5
    u[:] = 7
    return accepted


@pytest.mark.parametrize("predicate", [overwriting, lambda variables: overwriting(variables["u"])])
def test_predicate_cannot_change_samples(predicate: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="read-only"):
        units().rejection_sample(10, predicate, seed=1).compute()


def test_predicate_that_returns_a_tuple_is_an_error_by_name() -> None:
    with pytest.raises(OutputError, match="must return a boolean array"):
        units().rejection_sample(10, lambda u: (u > 0, 1), seed=1)


def test_max_proposals_fails_no_sub_batch_that_it_lets_be_filled() -> None:
    ds = units().rejection_sample(5, lambda u: u < 0.5, sample_size=10_000, max_proposals=1000, seed=1)
    assert (ds.u < 0.5).all()


def test_a_failure_inside_an_attempt_names_the_proposal_and_no_sample() -> None:
    def fails(u: float, rng: np.random.Generator) -> dict[str, Any]:
        if u > 0.99:
            raise RuntimeError("solver diverged")
        return {"v": u}

    simulator = make_simulator([lambda rng: {"u": rng.uniform()}, fails])
    with pytest.raises(RuntimeError, match="solver diverged") as caught:
        simulator.rejection_sample(5000, lambda v: v > 0.1, seed=1).compute(scheduler="synchronous")
    notes = "\n".join(caught.value.__notes__)
    assert "raised by stage 'fails' at proposal " in notes
    assert "at sample" not in notes
    line = next(line.strip() for line in notes.splitlines() if line.strip().startswith("simulator."))
    with pytest.raises(RuntimeError, match="solver diverged"):
        eval(line, {"simulator": simulator, "predicate": lambda v: v > 0.1, "slice": slice})


def test_a_predicate_may_have_defaults_and_its_errors_are_its_own() -> None:
    ds = units().rejection_sample(50, lambda u, most=0.25: u < most, seed=1).compute(scheduler="synchronous")
    assert (ds.u < 0.25).all()
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        units().rejection_sample(5, lambda u: 1 / 0)
    assert "raised by predicate 'rejection'" in caught.value.__notes__

"""Distributions as conditions, and as priors of sbi."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats as st
from bits import bits, prefix_of

import dasksim
from dasksim import ArgumentError, ArgumentTypeError, OutputError, extend, generate, make_simulator, verify


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal(size=2)}


def observe(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"x": rng.normal(theta)}


SIMULATOR = make_simulator([prior, observe])
PROPOSAL = st.multivariate_normal([5.0, -5.0], 0.01)


def test_draws_of_a_distribution_stand_for_the_prior() -> None:
    ds = SIMULATOR.sample(2000, seed=1, theta=PROPOSAL).compute()
    assert ds.theta.values.mean(0) == pytest.approx([5, -5], abs=0.02)
    assert ds.theta.values.std(0) == pytest.approx([0.1, 0.1], rel=0.1)
    assert (ds.x - ds.theta.values).std() == pytest.approx(1, rel=0.1)
    assert len(np.unique(ds.theta.values[:, 0])) == 2000


def test_draws_are_a_function_of_the_seed_and_not_of_how_many_there_are() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    long = SIMULATOR.sample(1500, seed=1, theta=PROPOSAL)
    for n in (1, 7, 511, 512, 513):
        assert bits(SIMULATOR.sample(n, seed=1, theta=PROPOSAL)) == prefix_of(long, n)
    assert bits(SIMULATOR.sample(7, seed=2, theta=PROPOSAL)) != prefix_of(long, 7)
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]


def test_a_store_keeps_the_draws_and_is_extended_with_the_same(tmp_path: Path) -> None:
    conditions = {"theta": PROPOSAL}
    generate(SIMULATOR, tmp_path / "a.zarr", 600, seed=1, conditions=conditions, progress=False)
    ds = extend(tmp_path / "a.zarr", SIMULATOR, 1100, conditions=conditions, progress=False)
    generate(SIMULATOR, tmp_path / "b.zarr", 1100, seed=1, conditions=conditions, progress=False)
    assert bits(ds) == bits(dasksim.open_dataset(tmp_path / "b.zarr"))
    assert verify(tmp_path / "a.zarr", SIMULATOR, conditions=conditions, resimulate=1).is_good
    other = {"theta": st.multivariate_normal([0.0, 0.0])}
    with pytest.raises(dasksim.StoreMismatchError, match="theta"):
        generate(SIMULATOR, tmp_path / "b.zarr", 1100, seed=1, conditions=other, progress=False)


def test_several_batch_axes_and_numbers() -> None:
    assert SIMULATOR.sample((3, 4), seed=1, theta=PROPOSAL).theta.shape == (3, 4, 2)
    scalars = make_simulator(lambda rng: {"mu": rng.normal()})
    assert scalars.sample(5, seed=1, mu=st.norm(3, 0.1)).mu.shape == (5,)
    with pytest.raises(dasksim.DasksimError, match="theta"):
        SIMULATOR.sample(5, seed=1, theta=st.norm())


def test_a_rejection_takes_no_distribution(tmp_path: Path) -> None:
    """Its draws would stay with their samples, and those that are rejected never change."""
    with pytest.raises(ArgumentError, match="condition 'theta' is a distribution, and samples are rejected"):
        SIMULATOR.rejection_sample(5, lambda theta: theta[:, 0] > 5, seed=1, theta=PROPOSAL)
    rejecting = dasksim.RejectionSimulator(SIMULATOR, lambda x: x[:, 0] > 5)
    with pytest.raises(ArgumentError, match="make a stage that draws from it"):
        generate(rejecting, tmp_path / "s.zarr", 5, seed=1, conditions={"theta": PROPOSAL})


def test_tables_are_no_distributions() -> None:
    class Table:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.ones((5, 2))

        def sample(self, n: int) -> Any:
            raise AssertionError("a table samples rows")

    assert (SIMULATOR.sample(5, seed=1, theta=Table()).theta == 1).all()


def batched(theta: Any) -> Any:
    return theta + np.random.normal(size=theta.shape)


def of_one_row(theta: Any) -> Any:
    return np.array([theta[0] * theta[1], theta[0] + np.random.normal(), 1.0])


def first_rows(theta: Any) -> Any:
    # two rows of two, and one of three
    return np.stack([theta[0], theta[1]])


@pytest.mark.parametrize(
    ("simulator", "is_batched", "size"), [(batched, True, 2), (of_one_row, False, 3), (first_rows, False, 2)]
)
def test_simulators_of_sbi_take_many_rows_or_one(simulator: Any, is_batched: bool, size: int) -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    sim = dasksim.from_sbi([st.norm(), st.gamma(2.0)], simulator)
    ds = sim.sample(600, seed=1)
    assert ds.theta.shape == (600, 2)
    assert ds.x.shape == (600, size)
    assert ds.theta.dtype == ds.x.dtype == np.float32
    assert sim.simulators[1].is_batched is is_batched  # type: ignore[attr-defined]
    assert bits(ds, scheduler="threads") == bits(sim.sample(600, seed=1, chunk_size=600), scheduler="synchronous")
    assert len(np.unique(ds.x.values, axis=0)) == 600
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]


def test_what_is_no_prior_is_refused() -> None:
    for wrong in (object(), [], [st.norm(), 3]):
        with pytest.raises(ArgumentTypeError, match="prior must have a method sample"):
            dasksim.from_sbi(wrong, batched)

    class TooFew:
        def sample(self, shape: Any) -> Any:
            return np.zeros((1, 2))

    with pytest.raises(OutputError, match="'theta'"):
        dasksim.from_sbi(TooFew(), batched).sample(10, seed=1)

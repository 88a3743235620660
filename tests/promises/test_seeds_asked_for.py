"""Functions that ask for a seed of 32 bits, or for a ``random_state``."""

from typing import Any

import numpy as np
import pytest
from bits import bits
from distributed import Client

from dasksim import ExternalProgram, HierarchicalSimulator, SimulatorError, make_simulator


def drawing(seed32: int, random_state: Any, rng: np.random.Generator) -> dict[str, Any]:
    # an odd number of normals: RandomState holds back the second of two
    return {"number": seed32, "legacy": [random_state.normal() for _ in range(3)], "own": rng.normal()}


def batched(batch_shape: tuple[int, ...], seed32: int, random_state: Any) -> dict[str, Any]:
    return {"number": np.full(batch_shape, seed32), "legacy": random_state.normal(size=batch_shape)}


@pytest.mark.parametrize("scheduler", ["threads", "cluster"])
def test_they_are_the_samples_own_on_every_scheduler(scheduler: str, two_workers: Client) -> None:
    simulator = make_simulator(drawing)
    wanted = bits(simulator.sample(60, seed=1), scheduler="synchronous")
    where: Any = two_workers if scheduler == "cluster" else scheduler

    assert bits(simulator.sample(60, seed=1, sub_batch_size=7, chunk_size=14), scheduler=where) == wanted
    found = simulator.sample(60, seed=1).compute(scheduler="synchronous")
    assert len(np.unique(found.number)) == 60
    assert len(np.unique(np.concatenate([found.legacy.values.ravel(), found.own.values]))) == 240


def test_batched_functions_have_one_for_each_sub_batch() -> None:
    found = make_simulator(batched, is_batched=True).sample(40, seed=1, sub_batch_size=10).compute()

    assert len(np.unique(found.number)) == 4
    assert len(np.unique(found.legacy)) == 40


def test_plates_have_seeds_of_their_own() -> None:
    simulator = HierarchicalSimulator([lambda seed32: {"a": seed32}, lambda seed32: {"b": seed32}], levels=["member"])
    found = simulator.sample((50, 3), seed=1).compute()

    assert len(np.unique(found.a)) == 50
    assert len(np.unique(found.b)) == 150


def test_random_state_is_given_in_place_of_none_alone() -> None:
    def of_none(random_state: Any = None) -> dict[str, Any]:
        return {"x": random_state.normal()}

    def chosen(random_state: int = 3) -> dict[str, Any]:
        return {"x": random_state}

    assert len(np.unique(make_simulator(of_none).sample(20, seed=1).x)) == 20
    np.testing.assert_array_equal(make_simulator(chosen).sample(20, seed=1).x, 3)


def test_random_state_that_is_to_be_an_integer_is_an_error_that_offers_seed32() -> None:
    def integer(random_state: int) -> dict[str, Any]:
        return {"x": random_state}

    with pytest.raises(SimulatorError, match="stage 'integer' takes random_state as an integer; take seed32"):
        make_simulator(integer).sample(3)


def test_programs_are_given_seeds_of_32_bits() -> None:
    simulator = make_simulator(ExternalProgram(["echo", "{seed32}"], outputs={"x": "stdout"}))
    found = simulator.sample(5, seed=1).x.values.ravel()

    assert len(np.unique(found)) == 5
    assert ((found >= 1) & (found <= 2**31 - 2)).all()

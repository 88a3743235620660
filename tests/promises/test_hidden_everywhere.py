"""Functions with generators of their own, at full size: no duplicated rows, equal runs, on every scheduler."""

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from distributed import Client
from helper_modules import drawing

from dasksim import make_simulator

N = 100_000

Row = dict[str, Any]

rng = np.random.default_rng(2025)


def module_rng() -> Row:
    return {"x": rng.normal(loc=rng.uniform(), size=3)}


def numpy_random() -> Row:
    return {"x": np.random.normal(loc=np.random.uniform(), size=3)}


def python_random() -> Row:
    return {"x": np.array([random.gauss(0.0, 1.0) for _ in range(3)])}


class Model:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(2025)

    def sample(self) -> Row:
        return {"x": self.rng.normal(size=3)}


def closure() -> Callable[[], Row]:
    inner = np.random.default_rng(2025)

    def sample() -> Row:
        return {"x": inner.normal(size=3)}

    return sample


def with_argument(generator: np.random.Generator) -> Row:
    return {"x": generator.normal(size=3)}


def helper_in_another_module() -> Row:
    return {"x": np.array([drawing.draw(), drawing.draw(), drawing.draw()])}


def global_states() -> tuple[Any, ...]:
    return rng.bit_generator.state, np.random.get_state()[1:3], random.getstate()  # type: ignore[index]


FUNCTIONS: dict[str, Callable[[], Callable[..., Row]]] = {
    "module rng": lambda: module_rng,
    "np.random": lambda: numpy_random,
    "random": lambda: python_random,
    "self": lambda: Model().sample,
    "closure": closure,
    "partial": lambda: functools.partial(with_argument, np.random.default_rng(2025)),
    "helper": lambda: helper_in_another_module,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_100_000_rows_are_distinct_and_equal_on_every_scheduler(name: str, two_workers: Client) -> None:
    simulator = make_simulator(FUNCTIONS[name]())
    before = global_states()
    runs = {}
    for scheduler in ("synchronous", "threads", "processes", two_workers, "synchronous"):
        x = simulator.sample(N, seed=2025).x.compute(scheduler=scheduler).values
        runs[str(scheduler)] = x
        assert len(np.unique(x, axis=0)) == N
        np.testing.assert_array_equal(x, runs["synchronous"])
    np.testing.assert_equal(global_states()[:2], before[:2])
    assert name != "random" or len(runs) == 4


@pytest.mark.slow
def test_the_caller_s_random_is_left_alone() -> None:
    before = random.getstate()  # with no event loop of a cluster about, which draws from it too
    make_simulator(python_random).sample(N, seed=2025).compute(scheduler="threads")
    assert random.getstate() == before

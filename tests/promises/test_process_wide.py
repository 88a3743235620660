"""What keeps the generator of the whole process keeps that of the process in which it runs, however it got there."""

import ast
import copy
import pickle
import random
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats as st
from bits import Bits, bits
from distributed import Client

import dasksim
from dasksim._streams.process_wide import NUMPY_GLOBAL

Array = npt.NDArray[Any]
Draw = Callable[[], Any]

N = 60
HOW: dict[str, Any] = {"seed": 6, "sub_batch_size": 5, "chunk_size": 15}


class Keeper:
    """Keeps what scikit-learn's and scipy's ``check_random_state(None)`` returns."""

    def __init__(self) -> None:
        self.random_state = st.norm().random_state

    def draw(self) -> float:
        return float(self.random_state.normal())


def frozen() -> Draw:
    return st.norm(0, 1).rvs


def frozen_of_many() -> Draw:
    priors: dict[str, Any] = {"a": [st.uniform(0, 2)], "b": st.multivariate_normal([0, 0])}
    return lambda: priors["a"][0].rvs() + priors["b"].rvs().sum()


def function_of_numpy_random() -> Draw:
    from numpy.random import normal

    return lambda: normal()


def functions_of_random() -> Draw:
    from random import gauss, random

    return lambda: gauss(0, 1) + random()


def kept_by_an_object() -> Draw:
    return Keeper().draw


def kept_out_of_sight() -> Draw:
    keepers = {Keeper()}  # sets are not walked
    return lambda: next(iter(keepers)).draw()


def generator_of_its_bits() -> Draw:
    rng = np.random.Generator(np.random.mtrand.get_bit_generator())
    return lambda: rng.normal()


def bits_themselves() -> Draw:
    bits = np.random.mtrand.get_bit_generator()
    return lambda: np.random.Generator(bits).normal()


def bits_asked_for() -> Draw:
    return lambda: np.random.Generator(np.random.mtrand.get_bit_generator()).normal()


CASES = [
    frozen,
    frozen_of_many,
    function_of_numpy_random,
    functions_of_random,
    kept_by_an_object,
    kept_out_of_sight,
    generator_of_its_bits,
    bits_themselves,
    bits_asked_for,
]


def stage(name: str, draw: Draw) -> Callable[[], dict[str, float]]:
    return lambda: {name: draw()}


def simulator_of(*cases: Callable[[], Draw]) -> dasksim.Simulator:
    return dasksim.make_simulator({case.__name__: stage(case.__name__, case()) for case in cases})


def sampled(simulator: dasksim.Simulator, scheduler: Any = "synchronous") -> Bits:
    return bits(simulator.sample(N, **HOW), scheduler=scheduler)


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


@pytest.mark.filterwarnings("error:stage")
def test_all_schedulers_give_the_same(pool: ProcessPoolExecutor, two_workers: Client) -> None:
    dataset = simulator_of(*CASES).sample(N, **HOW)
    expected = bits(dataset, scheduler="synchronous")
    for values in dataset.compute(scheduler="synchronous").values():
        assert len(np.unique(values)) == N
    assert bits(dataset, scheduler="threads") == expected
    assert bits(dataset, scheduler=two_workers) == expected
    assert bits(dataset, scheduler="processes", pool=pool) == expected


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("how", ["processes", "a child", "a cluster"])
def test_stores_hold_the_same(how: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    simulator = simulator_of(*CASES)
    options: dict[str, dict[str, Any]] = {
        "processes": {"scheduler": "processes"},
        "a child": {"scheduler": "synchronous", "timeout": 100, "on_error": "mask"},
        "a cluster": {"scheduler": request.getfixturevalue("two_workers") if how == "a cluster" else None},
    }
    made = bits(dasksim.generate(simulator, tmp_path / "s.zarr", N, progress=False, **HOW, **options[how]))
    assert {name: made[name] for name in made if name != "valid"} == sampled(simulator)


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda it: pickle.loads(pickle.dumps(it)),
    "cloudpickle": lambda it: cloudpickle.loads(cloudpickle.dumps(it)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "in a list": lambda it: copy.deepcopy([it])[0],
}


@pytest.mark.filterwarnings("error:stage")
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_simulator_draws_the_same(how: str) -> None:
    simulator = simulator_of(*CASES)
    again = COPIES[how](simulator)
    assert again is not simulator
    assert sampled(again) == sampled(simulator)


def test_a_deep_copy_is_one() -> None:
    table = np.zeros(3)
    model = types.SimpleNamespace(table=table, prior=st.norm(0, 1))
    simulator = dasksim.make_simulator(Model(model))
    again = copy.deepcopy(simulator)
    inner = again.sample_fn.model  # type: ignore[attr-defined]
    assert inner.table is not table
    assert inner.prior is not model.prior
    assert inner.prior.random_state is NUMPY_GLOBAL


class Model:
    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self) -> Any:
        return {"x": self.model.prior.rvs()}


def test_a_simulator_that_cannot_be_pickled_can_be_copied() -> None:
    with (Path(__file__)).open() as file:
        simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(), "is_open": not file.closed})
        assert sampled(copy.copy(simulator)) == sampled(copy.deepcopy(simulator)) == sampled(simulator)


def test_a_simulator_that_the_user_sends_draws_the_same(two_workers: Client, pool: ProcessPoolExecutor) -> None:
    simulator = simulator_of(*CASES)
    expected = sampled(simulator)
    assert two_workers.submit(sampled, simulator, pure=False).result() == expected
    assert pool.submit(sampled, simulator).result() == expected


def test_adapters_in_worker_processes_draw_no_row_twice(two_workers: Client) -> None:
    adapter = simulator_of(frozen).to_bayesflow(seed=1)
    futures = [two_workers.submit(_one_batch, adapter, pure=False) for _ in range(6)]
    rows = np.concatenate(two_workers.gather(futures))
    assert len(np.unique(rows)) == len(rows)


def _one_batch(adapter: Any) -> Array:
    return np.asarray(adapter.sample(50)["frozen"])


def test_the_samples_of_an_overshooting_rejection_are_the_same_on_a_cluster(two_workers: Client) -> None:
    simulator = simulator_of(frozen)

    def run() -> Array:
        made = simulator.rejection_sample(N, lambda frozen: frozen > 0, overshoot=True, seed=6, sub_batch_size=20)
        return np.asarray(made.frozen.values)

    x = run()
    with two_workers.as_current():
        there = run()
    assert len(np.unique(x)) == len(x)
    np.testing.assert_array_equal(there, x)


# --- what a pickled simulator holds -----------------------------------------------------------------------------------


def test_a_simulator_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(1).normal(size=100_000)

    def prior(rng: np.random.Generator) -> Any:
        return {"theta": table[0] + rng.normal()}

    def likelihood(theta: float, rng: np.random.Generator) -> Any:
        return {"x": theta + table[1] + rng.normal()}

    inner = dasksim.make_simulator(prior)
    model = dasksim.make_simulator([inner, likelihood])
    outer = dasksim.ModelComparisonSimulator([model, dasksim.make_simulator([inner, likelihood])])
    payload = pickle.dumps(outer)
    assert table.nbytes < len(payload) < 1.1 * table.nbytes

    again = pickle.loads(payload)
    how: dict[str, Any] = {"seed": 1, "sub_batch_size": 20}
    assert bits(again.sample(50, **how)) == bits(outer.sample(50, **how))


def test_a_simulator_within_another_is_one_object_after_the_journey() -> None:
    inner = dasksim.make_simulator(lambda rng: {"theta": rng.normal()})
    outer = dasksim.make_simulator([inner, lambda theta: {"x": theta, "inner": len(vars(inner)) > 0}])
    inner_there, function_there = pickle.loads(pickle.dumps(outer)).simulators
    assert function_there.sample_fn.__closure__[0].cell_contents is inner_there


def test_a_simulator_keeps_what_a_subclass_adds() -> None:
    again = pickle.loads(pickle.dumps(Named("a")))
    assert type(again) is Named
    assert again.name == "a"
    assert copy.deepcopy(Named("b")).name == copy.copy(Named("b")).name == "b"


class Named(dasksim.LambdaSimulator):
    def __init__(self, name: str) -> None:
        super().__init__(lambda rng: {"x": rng.normal()})
        self.name = name


def test_the_generators_of_the_process_are_named_in_one_module() -> None:
    package = Path(dasksim.__file__).parent
    private = {"_rand", "mtrand", "_inst", "_bit_generator", "_seed_seq"}
    found = {
        (file.name, node.attr)
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in private
    }
    assert {file for file, _ in found} <= {"process_wide.py"}
    assert random.random.__self__ is random._inst  # type: ignore[attr-defined]

"""Distributions, quasi-random engines and estimators that keep generators or seeds are addressed like generators."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats as st
from bits import bits
from distributed import Client
from scipy.stats import qmc
from variants import quick

import dasksim
from dasksim._streams._finding import find_generators
from dasksim._streams.addresses import Address, stage_key
from dasksim._streams.isolation import Isolated

Array = npt.NDArray[Any]
Draw = Callable[[], Any]

N = 60
HOW: dict[str, Any] = {"seed": 6, "sub_batch_size": 5, "chunk_size": 15}

#: What makes a function that draws, by name.
CASES: dict[str, Callable[[], Draw]] = {}


def case(build: Callable[[], Draw]) -> Callable[[], Draw]:
    CASES[build.__name__] = build
    return build


def seeded(distribution: Any, random_state: Any) -> Any:
    distribution.random_state = random_state
    return distribution


# --- distributions of scipy -------------------------------------------------------------------------------------------


@case
def frozen_with_a_generator() -> Draw:
    prior = seeded(st.norm(0, 1), np.random.default_rng(1))
    return lambda: prior.rvs()


@case
def frozen_with_an_integer() -> Draw:
    prior = seeded(st.uniform(0, 2), 5)
    return lambda: prior.rvs()


@case
def method_of_a_frozen_one() -> Draw:
    return seeded(st.gamma(2.0), np.random.RandomState(1)).rvs  # type: ignore[no-any-return]


@case
def multivariate() -> Draw:
    prior = st.multivariate_normal([0, 0], seed=3)
    return lambda: prior.rvs()[0]


@case
def multivariate_t() -> Draw:
    prior = st.multivariate_t([0.0, 0.0], seed=3)
    return lambda: prior.rvs()[0]


@case
def dirichlet() -> Draw:
    prior = st.dirichlet([1.0, 2.0], seed=np.random.default_rng(3))
    return lambda: prior.rvs()[0, 0]


@case
def histogram() -> Draw:
    prior = st.rv_histogram(np.histogram([0.0, 1.0, 1.5, 2.0], 4), seed=3)
    return lambda: prior.rvs()


@case
def kernel_density() -> Draw:
    kde, rng = st.gaussian_kde([0.0, 1.0, 1.5, 2.0]), np.random.default_rng(1)
    return lambda: kde.resample(1, seed=rng)[0, 0]


class Triangle(st.rv_continuous):
    def _ppf(self, q: Any, *args: Any) -> Any:
        return np.sqrt(q)

    def _cdf(self, x: Any, *args: Any) -> Any:
        return x**2


@case
def distribution_of_the_user() -> Draw:
    prior = Triangle(a=0, b=1, seed=3)
    return lambda: prior.rvs()


@case
def distribution_of_the_user_frozen() -> Draw:
    prior = seeded(Triangle(a=0, b=1)(loc=2), 3)
    return lambda: prior.rvs()


@case
def two_that_share_a_generator() -> Draw:
    rng = np.random.RandomState(1)
    one, other = seeded(st.norm(0, 1), rng), seeded(st.norm(0, 1), rng)

    return lambda: one.rvs() + other.rvs() if one.random_state is other.random_state else 0.0


@case
def nested() -> Draw:
    priors = {"a": [(seeded(st.norm(0, 1), 1), 2.0)], "b": {"c": seeded(st.norm(0, 1), 2)}}
    return lambda: priors["a"][0][0].rvs() + priors["b"]["c"].rvs()  # type: ignore[index]


@case
def default_argument() -> Draw:
    frozen = seeded(st.norm(0, 1), 1)

    def draw(prior: Any = frozen) -> Any:
        return prior.rvs()

    return draw


@case
def partial() -> Draw:
    return functools.partial(lambda prior: prior.rvs(), seeded(st.norm(0, 1), 1))


@case
def partial_of_the_method() -> Draw:
    draw = functools.partial(seeded(st.norm(0, 1), 1).rvs, size=2)
    return lambda: draw()[1]


class WithPrior:
    def __init__(self) -> None:
        self.prior = seeded(st.norm(0, 1), 1)

    def draw(self) -> Any:
        return self.prior.rvs()


@case
def attribute_of_self() -> Draw:
    return WithPrior().draw


@dataclass(frozen=True, slots=True)
class Slotted:
    prior: Any

    def draw(self) -> Any:
        return self.prior.rvs()


@case
def slot_of_a_dataclass() -> Draw:
    return Slotted(seeded(st.norm(0, 1), 1)).draw


class OfTheClass:
    prior = seeded(st.norm(0, 1), 1)

    def draw(self) -> Any:
        return self.prior.rvs()


@case
def attribute_of_the_class() -> Draw:
    return OfTheClass().draw


@case
def resampling_method() -> Draw:
    keyword = "rng" if "rng" in inspect.signature(st.PermutationMethod).parameters else "random_state"  # SciPy < 1.15
    method, x = st.PermutationMethod(n_resamples=99, **{keyword: 3}), np.arange(12.0)
    return lambda: st.pearsonr(x, np.sin(x), method=method).pvalue


# --- quasi-random engines ---------------------------------------------------------------------------------------------


@case
def sobol() -> Draw:
    engine = qmc.Sobol(2, seed=1)
    return lambda: engine.random(1)[0]


@case
def sobol_of_64_bits_that_is_on_its_way() -> Draw:
    engine = qmc.Sobol(2, bits=64, seed=np.random.default_rng(1))
    engine.random(8)
    return lambda: engine.random(1)[0]


@case
def halton() -> Draw:
    engine = qmc.Halton(2)
    return lambda: engine.random(1)[0]


@case
def latin_hypercube() -> Draw:
    engine = qmc.LatinHypercube(2, seed=1)
    return lambda: engine.random(4)[0]


@case
def latin_hypercube_of_strength_two() -> Draw:
    engine = qmc.LatinHypercube(2, strength=2, optimization="random-cd", seed=1)
    return lambda: engine.random(4)[0]


@case
def latin_hypercube_that_is_centered() -> Draw:
    engine = qmc.LatinHypercube(8, scramble=False, seed=1)
    return lambda: engine.random(50)[:5].ravel()


@case
def poisson_disk() -> Draw:
    engine = qmc.PoissonDisk(2, radius=0.02, seed=1)
    return lambda: engine.random(2)[0]


@case
def normal_by_an_engine() -> Draw:
    engine = qmc.MultivariateNormalQMC([0.0, 0.0], seed=1)
    return lambda: engine.random(1)[0]


@case
def multinomial_by_an_engine() -> Draw:
    engine = qmc.MultinomialQMC(np.full(200, 1 / 200), 8, engine=qmc.Sobol(1, seed=1))
    return lambda: engine.random(1)[0]


class Scaled(qmc.Sobol):
    def __init__(self, d: int, factor: float, rng: Any = None) -> None:
        super().__init__(d, seed=rng)
        self.factor = factor

    def random(self, n: Any = 1, *, workers: Any = 1) -> Any:
        return self.factor * super().random(n)


@case
def engine_of_the_user() -> Draw:
    engine = Scaled(2, factor=10.0, rng=1)
    return lambda: engine.random(1)[0]


class Plain(qmc.QMCEngine):
    def __init__(self, d: int, rng: Any = None) -> None:
        super().__init__(d, seed=rng)

    def _random(self, n: Any = 1, *, workers: Any = 1) -> Any:
        return self.rng.random((n, self.d))


@case
def engine_of_the_user_from_scratch() -> Draw:
    engine = Plain(2, rng=1)
    return lambda: engine.random(1)[0]


class Engines:
    engine = qmc.Sobol(2, seed=1)

    def draw(self) -> Any:
        return self.engine.random(1)[0]


@case
def engine_of_the_class() -> Draw:
    return Engines().draw


# --- estimators -------------------------------------------------------------------------------------------------------


class Estimator:
    """Draws as those of scikit-learn do."""

    def __init__(self, random_state: Any = None, estimator: Any = None) -> None:
        self.random_state = random_state
        self.estimator = estimator

    def sample(self) -> float:
        state = self.random_state
        if isinstance(state, int | np.integer):
            state = np.random.RandomState(state)
        return float(st.norm(0, 1).rvs(random_state=state))


Estimator.__module__ = "sklearn.mixture"


class OfTheUser(Estimator):
    pass


@case
def estimator_with_an_integer() -> Draw:
    return Estimator(0).sample


@case
def estimator_with_an_integer_of_numpy() -> Draw:
    return Estimator(np.int64(0)).sample


@case
def estimator_with_a_random_state() -> Draw:
    return Estimator(np.random.RandomState(0)).sample


@case
def estimator_in_an_estimator() -> Draw:
    model = Estimator(None, [("a", Estimator(1)), ("b", Estimator(None, Estimator(1)))])
    return lambda: model.estimator[0][1].sample() + model.estimator[1][1].estimator.sample()


@case
def estimator_that_was_fitted() -> Draw:
    search = Estimator()
    vars(search).update(best_estimator_=Estimator(3), random_state_=np.random.RandomState(1))
    return lambda: search.best_estimator_.sample() + search.random_state_.normal()  # type: ignore[attr-defined]


@case
def estimator_of_the_user() -> Draw:
    return OfTheUser(3).sample


class WithEstimator:
    model = Estimator(3)

    def draw(self) -> Any:
        return self.model.sample()


@case
def estimator_of_the_class() -> Draw:
    return WithEstimator().draw


@case
def estimator_without_a_seed() -> Draw:
    return Estimator().sample


# --- the tests --------------------------------------------------------------------------------------------------------


def stage(name: str, draw: Draw) -> Callable[[], dict[str, Any]]:
    return lambda: {name: draw()}


def simulator_of(*names: str) -> dasksim.Simulator:
    return dasksim.make_simulator({name: stage(name, CASES[name]()) for name in names})


def rows(values: Array) -> int:
    return len(np.unique(values.reshape(len(values), -1), axis=0))


@pytest.mark.filterwarnings("error:stage", "ignore:The balance properties")
@pytest.mark.parametrize("name", quick(CASES, *(CASES.keys() - {"latin_hypercube_of_strength_two"})))
def test_draws_are_independent_and_reproducible(name: str) -> None:
    draw = CASES[name]()
    dataset = dasksim.make_simulator(stage(name, draw)).sample(N, **HOW)
    values = dataset[name].compute(scheduler="synchronous").values
    fewest = N if name != "resampling_method" else 15  # a p-value of 99 permutations
    assert rows(values) >= fewest
    assert bits(dataset, scheduler="threads") == bits(dataset, scheduler="synchronous")
    other = dasksim.make_simulator(stage(name, draw)).sample(N, **{**HOW, "seed": 7})[name].values
    assert (other != values).any(axis=tuple(range(1, values.ndim))).mean() > 0.5


@pytest.mark.filterwarnings("ignore:The balance properties")
@pytest.mark.parametrize("name", CASES)
def test_what_the_user_has_is_left_as_it_was(name: str) -> None:
    draw = CASES[name]()
    as_it_was = copy.deepcopy((draw, OfTheClass.prior, Engines.engine, WithEstimator.model))
    dasksim.make_simulator(stage(name, draw)).sample(10, **HOW).compute(scheduler="synchronous")
    assert cloudpickle.dumps((draw, OfTheClass.prior, Engines.engine, WithEstimator.model)) == cloudpickle.dumps(
        as_it_was
    )


@pytest.mark.filterwarnings("ignore:The balance properties")
@pytest.mark.parametrize("name", CASES)
def test_a_copy_from_a_pickle_draws_the_same(name: str) -> None:
    isolated = Isolated(CASES[name]())
    again = cloudpickle.loads(cloudpickle.dumps(isolated))
    address = Address(6, stage_key("stage"), 3)
    values = []
    for one in (isolated, again):
        with one.at(address, watch=True) as function:
            values.append([np.asarray(function()).tolist() for _ in range(3)])
    assert values[0] == values[1]


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


SENT = [name for name in CASES if "estimator" not in name]  # whose module no other process has


@pytest.mark.filterwarnings("ignore:The balance properties")
def test_all_schedulers_give_the_same(pool: ProcessPoolExecutor, two_workers: Client, tmp_path: Path) -> None:
    simulator = simulator_of(*SENT)
    n, how = 12, {**HOW, "sub_batch_size": 3, "chunk_size": 6}
    dataset = simulator.sample(n, **how)
    expected = bits(dataset, scheduler="synchronous")
    assert bits(dataset, scheduler=two_workers) == expected
    assert bits(dataset, scheduler="processes", pool=pool) == expected
    made = dasksim.generate(simulator, tmp_path / "s.zarr", n, progress=False, scheduler=two_workers, **how)
    assert bits(made) == expected


# --- what is not to change --------------------------------------------------------------------------------------------


def test_generators_found_elsewhere_keep_their_numbers() -> None:
    own, of_class = np.random.default_rng(1), OfTheClass()
    prior = seeded(st.norm(0, 1), np.random.default_rng(2))
    engine, model = qmc.Sobol(2, seed=1), Estimator(0)

    def function() -> Any:
        return prior, engine, model, of_class, own, WithClassRng

    found = find_generators(function)
    assert found.generators[0] is own
    assert found.in_place[1] is WithClassRng.rng
    assert len(found.generators) == 4
    assert len({*found.generators, *found.in_place}) == len(found.generators) + len(found.in_place) == 6


class WithClassRng:
    rng = np.random.default_rng(1)


def test_a_distribution_that_keeps_the_process_wide_generator_needs_no_lock() -> None:
    prior = st.norm(0, 1)
    isolated = Isolated(lambda: prior.logpdf(1.0))
    assert not isolated.uses_globals
    with isolated.at(Address(6, stage_key("stage"), 0)) as called:
        assert called is isolated.function


@pytest.mark.parametrize("engine", [qmc.Sobol(2, scramble=False), qmc.Halton(2, scramble=False)])
def test_a_sequence_that_is_not_random_is_noticed(engine: Any) -> None:
    simulator = dasksim.make_simulator(lambda: {"x": engine.random(1)[0]})
    with pytest.warns(UserWarning, match="returned different values for one and the same seed"):
        simulator.sample(2, seed=6)


class Strange(qmc.Sobol):
    def __init__(self, dims_and_more: tuple[int, str]) -> None:
        super().__init__(dims_and_more[0], seed=1)


def test_an_engine_that_cannot_be_made_again_is_noticed() -> None:
    engine = Strange((2, "more"))
    simulator = dasksim.make_simulator(lambda: {"x": engine.random(1)[0]})
    with pytest.warns(UserWarning, match="returned different values for one and the same seed"):
        simulator.sample(2, seed=6)


def test_an_engine_is_balanced_within_a_sub_batch() -> None:
    engine = qmc.Sobol(1, seed=1)
    simulator = dasksim.make_simulator(lambda batch_shape: {"x": engine.random(batch_shape[0])[:, 0]}, is_batched=True)
    x = simulator.sample(64, seed=1, sub_batch_size=32).x.values
    for half in (x[:32], x[32:]):
        assert sorted(np.floor(half * 32)) == list(range(32))


def test_an_engine_is_another_one_for_each_sample_of_a_plain_function() -> None:
    engine = qmc.Sobol(1, seed=1)
    simulator = dasksim.make_simulator(lambda: {"x": engine.random(2)[:, 0]})
    x = simulator.sample(64, seed=1).x.values
    np.testing.assert_array_equal(simulator.sample(64, seed=1, sub_batch_size=8).x.values, x)
    assert len(np.unique(x)) == 128
    assert (np.sort(np.floor(2 * x), axis=1) == [0, 1]).all()  # balanced within a sample


def test_an_integer_of_a_users_own_class_is_left_alone() -> None:
    class Mine:
        random_state = 3

        def __init__(self) -> None:
            self.random_state = 4

        def __call__(self) -> Any:
            return {"x": self.random_state}

    assert (dasksim.make_simulator(Mine()).sample(5, seed=1).x.values == 4).all()


def test_seeds_of_what_was_fitted_many_times_are_left_alone() -> None:
    forest = Estimator(3)
    vars(forest)["estimators_"] = [Estimator(i) for i in range(500)]
    vars(forest)["_predictors"] = [[Estimator(i)] for i in range(500)]
    assert len(find_generators(lambda: forest).generators) == 1

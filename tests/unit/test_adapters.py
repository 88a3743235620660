"""The way to and from other libraries: BayesFlow and sbi, for real where they are installed, else stand-ins."""

import importlib.util
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
from bits import bits

import dasksim
from dasksim import ArgumentError, ArgumentTypeError, OutputError, Simulator, make_simulator
from dasksim.simulators.bayesflow_adapter import BayesFlowAdapter

Batch = dict[str, Any]

hidden = np.random.default_rng(2025)


def prior(rng: np.random.Generator) -> Batch:
    return {"theta": rng.normal(size=2)}


def likelihood(theta: Any, rng: np.random.Generator) -> Batch:
    return {"x": rng.normal(theta), "y": float(hidden.normal())}


def simulator() -> Simulator:
    return make_simulator([prior, likelihood])


def n_distinct(values: Any) -> int:
    return len(np.unique(values.reshape(len(values), -1), axis=0))


# Sampling by BayesFlow's names


def test_sample_batched_is_lazy_and_returns_exactly_n() -> None:
    ds = simulator().sample_batched(1000, sample_size=300, seed=1)

    assert ds.chunks
    assert ds.sizes["batch"] == 1000
    assert bits(ds) == bits(simulator().sample(1000, sub_batch_size=300, seed=1))


def test_sample_batched_checks_the_size() -> None:
    with pytest.raises(ArgumentError, match="sample_size must be >= 1"):
        simulator().sample_batched(10, sample_size=0)


@pytest.mark.parametrize("n_jobs", [1, pytest.param(3, marks=pytest.mark.slow), -1])
def test_sample_parallel_gives_the_bits_of_sample(n_jobs: int) -> None:
    parallel = simulator().sample_parallel(1000, n_jobs, seed=1, sub_batch_size=50, theta=0.5)

    assert not parallel.chunks
    assert bits(parallel) == bits(simulator().sample(1000, seed=1, sub_batch_size=50, theta=0.5), scheduler="sync")


def test_sample_parallel_draws_distinct_rows_without_a_seed() -> None:
    ds = simulator().sample_parallel((400, 2), 2, sub_batch_size=100)

    assert ds.x.shape == (400, 2, 2)
    assert n_distinct(ds.y.values.reshape(800)) == 800
    assert not simulator().sample_parallel((400, 2), 2, sub_batch_size=100).equals(ds)


def where() -> Batch:
    return {"process": os.getpid()}


@pytest.mark.filterwarnings("ignore:stage 'where' returned different values")
def test_sample_parallel_runs_in_other_processes_and_cuts_small_chunks_for_them() -> None:
    ds = make_simulator(where).sample_parallel(4096, 2, chunk_size=4096)

    assert os.getpid() not in ds.process
    assert all(len(set(part)) == 1 for part in ds.process.values.reshape(2, 2048))


def test_sample_parallel_needs_a_number_of_jobs() -> None:
    with pytest.raises(ArgumentError, match="n_jobs must be >= 1"):
        simulator().sample_parallel(10, 0)
    with pytest.raises(ArgumentTypeError, match="n_jobs must be an integer"):
        simulator().sample_parallel(10, 1.5)  # type: ignore[arg-type]


# To BayesFlow


def test_a_batch_is_a_dict_of_arrays() -> None:
    batch = simulator().to_bayesflow().sample(32)

    assert {name: array.shape for name, array in batch.items()} == {"theta": (32, 2), "x": (32, 2), "y": (32, 1)}
    assert all(type(array) is np.ndarray for array in batch.values())
    assert n_distinct(batch["y"]) == 32


def test_batch_size_and_conditions_are_passed_on() -> None:
    batch = simulator().to_bayesflow().sample(batch_size=(4, 3), theta=7.0)

    assert batch["x"].shape == (4, 3, 2)
    assert (batch["theta"] == 7.0).all()
    with pytest.raises(ArgumentTypeError, match="got neither"):
        simulator().to_bayesflow().sample()


def test_calls_are_fresh_and_with_a_seed_reproducible() -> None:
    one, two, unseeded = (simulator().to_bayesflow(seed) for seed in (1, 1, None))
    batches = [adapter.sample(8)["x"] for adapter in (one, one, two, two, unseeded, unseeded)]

    np.testing.assert_array_equal(batches[0], batches[2])
    np.testing.assert_array_equal(batches[1], batches[3])
    assert n_distinct(np.stack(batches)) == 4


def test_a_context_has_one_value_a_call_and_sizes_may_follow_it() -> None:
    def context(rng: np.random.Generator) -> Batch:
        return {"n": int(rng.integers(5, 50))}

    def observe(n: int, rng: np.random.Generator) -> Batch:
        return {"x": rng.normal(size=n)}

    adapter = make_simulator(observe, meta_fn=context).to_bayesflow(seed=1)
    batches = [adapter.sample(2000) for _ in range(4)]

    assert [batch["x"].shape for batch in batches] == [(2000, batch["n"]) for batch in batches]
    assert len({int(batch["n"]) for batch in batches}) > 1


def _draw(adapter: BayesFlowAdapter, queue: Any) -> None:
    queue.put([adapter.sample(4)["x"] for _ in range(3)])


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("seed", [None, 1])
def test_copies_in_forked_processes_draw_other_batches(seed: int | None) -> None:
    adapter = simulator().to_bayesflow(seed)
    adapter.sample(4)
    context = get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_draw, args=(adapter, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    batches = [batch for _ in workers for batch in queue.get(timeout=60)] + [adapter.sample(4)["x"] for _ in range(3)]
    for worker in workers:
        worker.join()

    assert n_distinct(np.stack(batches)) == 12


def test_unpickled_copies_draw_other_batches() -> None:
    adapter = simulator().to_bayesflow(1)
    copies = [adapter, *(pickle.loads(pickle.dumps(adapter)) for _ in range(2))]

    assert n_distinct(np.stack([copy.sample(4)["x"] for copy in copies])) == 3


def test_threads_draw_different_batches() -> None:
    adapter = simulator().to_bayesflow(1)
    with ThreadPoolExecutor(4) as threads:
        batches = list(threads.map(lambda _: adapter.sample(4)["x"], range(20)))

    assert n_distinct(np.stack(batches)) == 20


# From BayesFlow


class Foreign:
    """What ``bayesflow.make_simulator`` returns, in outline."""

    def __init__(self, function: Callable[..., Batch], expand_outputs: bool = False) -> None:
        self.function = function
        self.expand_outputs = expand_outputs

    def sample(self, batch_shape: tuple[int, ...], **kwargs: Any) -> Batch:
        assert len(batch_shape) == 1
        data = self.function(batch_shape, **kwargs)
        if self.expand_outputs:
            data = {name: value[:, None] if np.ndim(value) == 1 else value for name, value in data.items()}
        return data


def with_hidden_generators(batch_shape: tuple[int, ...], loc: Any = 0.0) -> Batch:
    loc = np.broadcast_to(loc, batch_shape)
    return {"loc": loc, "x": loc[:, None] + hidden.normal(size=(*batch_shape, 3)), "u": np.random.random(batch_shape)}


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_hidden_generators_of_a_foreign_simulator_are_isolated(scheduler: str) -> None:
    before = hidden.bit_generator.state
    wrapped = dasksim.from_bayesflow(Foreign(with_hidden_generators))
    ds = wrapped.sample(2000, seed=1, sub_batch_size=100, chunk_size=200)
    once = bits(ds, scheduler="synchronous")

    assert bits(ds, scheduler=scheduler, num_workers=1 if scheduler == "processes" else 4) == once
    assert n_distinct(ds.x.values) == n_distinct(ds.u.values) == 2000
    assert hidden.bit_generator.state == before


def test_batch_shapes_are_flattened_and_put_back() -> None:
    ds = dasksim.from_bayesflow(Foreign(with_hidden_generators)).sample((10, 4), seed=1)

    assert ds.x.shape == (10, 4, 3)
    assert n_distinct(ds.x.values.reshape(40, 3)) == 40


@pytest.mark.parametrize("expand", [False, True])
def test_conditions_become_keyword_arguments(expand: bool) -> None:
    wrapped = dasksim.from_bayesflow(Foreign(with_hidden_generators, expand))
    loc = 1000.0 * np.arange(20).reshape(10, 2)
    one = wrapped.sample(10, seed=1, loc=1000.0)
    rows = wrapped.sample((10, 2), seed=1, loc=loc[..., None] if expand else loc)

    assert (np.abs(one.x - 1000) < 100).all()
    assert (np.abs(rows.x.values - loc[..., None]) < 100).all()


def test_a_value_without_axes_stands_in_every_row() -> None:
    ds = dasksim.from_bayesflow(Foreign(lambda shape: {"n": 3, "x": np.zeros(shape)})).sample(10, seed=1)

    assert (ds.n == 3).all()
    assert ds.n.dims == ("batch",)


def test_what_is_no_simulator_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="must have a method sample"):
        dasksim.from_bayesflow(object())
    with pytest.raises(OutputError, match="'x' with shape"):
        dasksim.from_bayesflow(Foreign(lambda shape: {"x": np.zeros(7)})).sample(10)
    with pytest.raises(OutputError, match="must return a dict"):
        dasksim.from_bayesflow(Foreign(lambda shape: None)).sample(10)  # type: ignore[arg-type,return-value]


# From sbi


def sbi_simulator() -> Simulator:
    torch = pytest.importorskip("torch")
    normal = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    return dasksim.from_sbi(normal, lambda theta: theta.double() + torch.randn_like(theta))


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_pytorch_is_seeded_for_each_sub_batch_and_put_back(scheduler: str) -> None:
    ds = sbi_simulator().sample(2000, seed=1, sub_batch_size=100, chunk_size=200)
    torch = pytest.importorskip("torch")
    before = torch.random.get_rng_state()
    once = bits(ds, scheduler="synchronous")

    assert bits(ds, scheduler=scheduler) == once
    assert torch.equal(torch.random.get_rng_state(), before)
    assert n_distinct(ds.theta.values) == n_distinct(ds.x.values) == 2000
    assert ds.theta.dtype == ds.x.dtype == np.float32


def test_theta_can_be_given_and_batch_shapes_are_put_back() -> None:
    theta = 1000.0 * np.arange(40).reshape(10, 2, 2)
    ds = sbi_simulator().sample((10, 2), seed=1, theta=theta)

    assert ds.x.shape == (10, 2, 2)
    assert (np.abs(ds.x.values - theta) < 100).all()


def test_what_sbi_would_not_take_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="prior must have a method sample"):
        dasksim.from_sbi(object(), print)
    with pytest.raises(ArgumentTypeError, match="simulator must be callable"):
        dasksim.from_sbi(Foreign(with_hidden_generators), "no function")  # type: ignore[arg-type]


# With BayesFlow itself


def bayesflow() -> Any:
    if importlib.util.find_spec("bayesflow") is None:
        pytest.skip("needs bayesflow")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return pytest.importorskip("bayesflow")


@pytest.mark.filterwarnings("default")
def test_bayesflow_trains_on_a_simulator() -> None:
    bf = bayesflow()
    workflow = bf.BasicWorkflow(
        simulator=simulator().to_bayesflow(seed=1),
        inference_network=bf.networks.CouplingFlow(depth=1),
        inference_variables=["theta"],
        inference_conditions=["x"],
    )
    history = workflow.fit_online(epochs=2, num_batches_per_epoch=4, batch_size=8, validation_data=16, verbose=0)

    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.filterwarnings("default")
def test_a_simulator_of_bayesflow_runs() -> None:
    def draws() -> Batch:
        return {"loc": hidden.normal(), "u": np.random.random()}

    ds = dasksim.from_bayesflow(
        bayesflow().make_simulator([draws, lambda loc: {"x": hidden.normal(loc, size=3)}])
    ).sample(1000, seed=1, sub_batch_size=100, chunk_size=100)

    assert n_distinct(ds["loc"].values) == n_distinct(ds.u.values) == n_distinct(ds.x.values) == 1000
    assert bits(ds, scheduler="processes") == bits(ds, scheduler="synchronous")


# The calls and forms of BayesFlow, without it; test_bayesflow.py has them beside it


def spread(rng: np.random.Generator) -> Batch:
    return {"s": rng.normal()}


def test_the_adapter_has_the_methods_of_bayesflows_simulators() -> None:
    adapter = make_simulator([spread, lambda s, rng: {"x": rng.normal(s, size=3)}]).to_bayesflow(seed=1)
    accepted = adapter.rejection_sample(40, predicate=lambda data: data["s"][:, 0] > 0, sample_size=16)
    assert accepted["s"].shape == (40, 1)
    assert (accepted["s"] > 0).all()
    batched, parallel = adapter.sample_batched(10, sample_size=4), adapter.sample_parallel((10,), n_jobs=1, verbose=0)
    assert {name: v.shape for name, v in batched.items()} == {"s": (10, 1), "x": (10, 3)}
    assert {name: v.shape for name, v in parallel.items()} == {"s": (10, 1), "x": (10, 3)}
    assert adapter.expand_outputs is True
    with pytest.raises(ArgumentError, match="axis must be 0"):
        adapter.rejection_sample(10, lambda data: data["s"][:, 0] > 0, axis=1)
    with pytest.raises(ArgumentTypeError, match="predicate must be a function"):
        adapter.rejection_sample(10)
    with pytest.raises(AttributeError, match="simulatrs"):
        adapter.simulatrs  # noqa: B018


def test_parallel_batches_of_an_adapter_have_the_bits_of_its_others() -> None:
    one, other = (simulator().to_bayesflow(seed=3) for _ in range(2))
    assert np.array_equal(one.sample_parallel(20, n_jobs=1)["x"], other.sample(20)["x"])


def test_what_nobody_takes_is_passed_over_as_bayesflows_simulators_do() -> None:
    one, other = (simulator().to_bayesflow(seed=3) for _ in range(2))
    found = one.sample(5, theta=np.ones((5, 2)), elsewhere=np.zeros(3))
    assert (found["theta"] == 1).all()
    assert "elsewhere" not in found
    assert np.array_equal(found["x"], other.sample(5, theta=np.ones((5, 2)))["x"])


def test_members_are_adapters_that_count_their_own_calls() -> None:
    adapter = simulator().to_bayesflow(seed=1)
    first, second = adapter.simulators
    draws = [adapter.sample(4)["theta"], first.sample(4)["theta"], first.sample(4)["theta"]]
    assert n_distinct(np.concatenate(draws)) == 12
    assert second.sample(4, **first.sample(4))["x"].shape == (4, 2)


def test_a_context_of_several_models_is_one_value() -> None:
    def size(rng: np.random.Generator) -> Batch:
        return {"n": int(rng.integers(3, 9))}

    def observed(n: int, rng: np.random.Generator) -> Batch:
        return {"x": rng.normal(size=n)}

    models = dasksim.ModelComparisonSimulator([make_simulator([observed])] * 2, shared_simulator=size, names=["a", "b"])
    batch = models.to_bayesflow(seed=1).sample(5)
    assert np.ndim(batch["n"]) == 0
    assert batch["x"].shape == (5, batch["n"])


def test_a_foreign_simulator_stands_among_functions() -> None:
    class Foreign:
        def sample(self, batch_shape: Any, **_: Any) -> Batch:
            return {"theta": hidden.normal(size=(*batch_shape, 2))}

    ds = make_simulator([Foreign(), likelihood]).sample(50, seed=1)
    assert n_distinct(ds.theta.values) == 50
    assert bits(ds) == bits(make_simulator([Foreign(), likelihood]).sample(50, seed=1))
    adapted = make_simulator(prior).to_bayesflow(seed=5)
    assert bits(make_simulator([adapted, likelihood]).sample(3, seed=1).theta.to_dataset()) == bits(
        simulator().sample(3, seed=1).theta.to_dataset()
    )


def test_make_simulator_takes_bayesflows_order_of_arguments() -> None:
    def size() -> Batch:
        return {"n": 4}

    def observed(batch_shape: Any, n: int) -> Batch:
        return {"x": np.zeros((*batch_shape, n))}

    by_position = make_simulator([observed], {"observed": {"is_batched": True}}, size)
    by_name = make_simulator([observed], obj_kwargs={"observed": {"is_batched": True}}, meta_fn=size)
    assert bits(by_position.sample(3, seed=1)) == bits(by_name.sample(3, seed=1))
    assert by_position.sample(3, seed=1).x.shape == (3, 4)


def test_draws_for_each_of_several_datasets_are_conditions_of_two_batch_axes() -> None:
    draws = np.ones((4, 7, 2))
    assert simulator().sample((4, 7), seed=1, theta=draws).x.shape == (4, 7, 2)
    with pytest.raises(ArgumentError, match=r"for 7 draws for each of 4 datasets, call sample\(\(4, 7\), theta=...\)"):
        simulator().sample(28, seed=1, theta=draws)

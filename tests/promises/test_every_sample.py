"""Each sample of plain functions has streams of its own: neither n nor how samples are cut changes a value."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from bits import bits, prefix_of
from distributed import Client

from dasksim import (
    GraphicalSimulator,
    HierarchicalSimulator,
    ModelComparisonSimulator,
    RejectionSimulator,
    Simulator,
    generate,
    make_simulator,
    replay,
    status,
)

Rng = np.random.Generator

_hidden = np.random.default_rng(2025)
_legacy = np.random.RandomState(2025)
_python = random.Random(2025)


class OfTheClass:
    rng = np.random.default_rng(2025)


def prior(rng: Rng) -> dict[str, Any]:
    return {"theta": rng.normal(size=2), "k": int(rng.integers(9, dtype=np.int32))}


def likelihood(theta: Any, rng: Rng) -> dict[str, Any]:
    return {"x": theta.sum() + rng.normal(size=3)}


def plain() -> Simulator:
    return make_simulator([prior, likelihood])


def sources() -> Simulator:
    """Everything that a function may draw from."""

    def draw(seed: int, rng: Rng) -> dict[str, Any]:
        own = [_hidden.normal(), _legacy.normal(), _python.random(), OfTheClass.rng.normal()]
        process = [np.random.normal(), random.random()]
        return {"u": [*own, *process, rng.spawn(2)[1].normal()], "seed_of": seed % (1 << 31)}

    return make_simulator(draw)


def hierarchy() -> Simulator:
    return HierarchicalSimulator([prior, likelihood, lambda x, rng: {"z": rng.normal(x)}], levels=["group", "member"])


def graph() -> Simulator:
    simulator = GraphicalSimulator()
    simulator.add_node("school", lambda rng: {"difficulty": rng.normal()})
    simulator.add_node("question", lambda difficulty, rng: {"item": rng.normal(difficulty)}, reps=3)
    simulator.add_node("student", lambda rng: {"ability": rng.normal()}, reps=4)
    simulator.add_node("answer", lambda item, ability, rng: {"correct": float(rng.normal() < ability - item)})
    for parent, child in (("school", "question"), ("question", "answer"), ("student", "answer")):
        simulator.add_edge(parent, child)
    return simulator


def comparison() -> Simulator:
    models = {"plain": plain(), "wide": make_simulator([prior, lambda rng: {"x": 5 + rng.normal(size=3)}])}
    return ModelComparisonSimulator(models, p=[0.3, 0.7])


def rejection() -> Simulator:
    return RejectionSimulator(plain(), lambda theta, k: (theta[:, 0] > 0.7) & (k > 2))


def rejection_of_comparison() -> Simulator:
    return RejectionSimulator(comparison(), lambda x: x[:, 0] > 1.0)


def comparison_of_rejections() -> Simulator:
    return ModelComparisonSimulator({"one": rejection(), "two": rejection()})


def rejection_of_rejection() -> Simulator:
    return RejectionSimulator(rejection(), lambda x: x[:, 1] > 0.0)


CLASSES: dict[str, tuple[Callable[[], Simulator], tuple[int, ...]]] = {
    "plain": (plain, ()),
    "further_axis": (plain, (2,)),
    "sources": (sources, ()),
    "hierarchy": (hierarchy, (3, 2)),
    "graph": (graph, ()),
    "comparison": (comparison, ()),
    "rejection": (rejection, ()),
    "rejection_of_comparison": (rejection_of_comparison, ()),
    "comparison_of_rejections": (comparison_of_rejections, ()),
    "rejection_of_rejection": (rejection_of_rejection, ()),
}

classes = pytest.mark.parametrize("name", CLASSES)


def sampled(name: str, n: int, **options: Any) -> xr.Dataset:
    make, further = CLASSES[name]
    return make().sample((n, *further), seed=3, **options)


@classes
def test_any_number_of_samples_begins_a_larger_dataset(name: str) -> None:
    # more than a sub-batch where a function is batched; each sample is costly where all sources are put on its stream
    larger, sizes = (sampled(name, 520), (1, 7, 513)) if name != "sources" else (sampled(name, 60), (1, 7))
    for n in sizes:
        assert bits(sampled(name, n)) == prefix_of(larger, n)


@classes
def test_sub_batches_and_chunks_change_no_bit(name: str) -> None:
    wanted = bits(sampled(name, 30))
    for sub_batch_size, chunk_size in ((1, 7), (7, 7), (8, 16), (30, None)):
        found = sampled(name, 30, sub_batch_size=sub_batch_size, chunk_size=chunk_size)
        assert bits(found, scheduler="threads") == wanted


@classes
def test_stores_and_clusters_have_the_same_bits(name: str, two_workers: Client, tmp_path: Path) -> None:
    make, further = CLASSES[name]
    wanted = bits(sampled(name, 20))
    assert bits(sampled(name, 20, sub_batch_size=5, chunk_size=10), scheduler=two_workers) == wanted
    for i, on_error in enumerate(("raise", "mask", "redraw")):
        options: dict[str, Any] = {"sub_batch_size": 3 + i, "chunk_size": 2 * (3 + i), "on_error": on_error}
        found = bits(generate(make(), tmp_path / f"{i}.zarr", (20, *further), seed=3, scheduler="threads", **options))
        assert {variable: found[variable] for variable in wanted} == wanted


def test_what_a_sample_is_does_not_depend_on_which_others_fail(tmp_path: Path) -> None:
    def fails(theta: Any, rng: Rng) -> dict[str, Any]:
        x = rng.normal()
        if x > 0.5:
            raise ValueError("too large")
        return {"y": x + theta[0]}

    simulator = make_simulator([prior, fails, lambda y, rng: {"z": rng.normal(y)}])
    cuts: list[dict[str, Any]] = [{"sub_batch_size": 1, "chunk_size": 10}, {}, {"sub_batch_size": 7, "chunk_size": 14}]
    redrawn, masked = (
        [
            generate(simulator, tmp_path / f"{policy}{i}.zarr", 90, seed=1, scheduler="threads", on_error=policy, **cut)
            for i, cut in enumerate(cuts)
        ]
        for policy in ("redraw", "mask")
    )

    assert bits(redrawn[0]) == bits(redrawn[1]) == bits(redrawn[2])
    assert bits(masked[0]) == bits(masked[1]) == bits(masked[2])
    valid = masked[0].valid.values
    assert 20 < valid.sum() < 70
    np.testing.assert_array_equal(redrawn[0].z.values[valid], masked[0].z.values[valid])


def test_rejection_proposes_for_each_sample_until_one_is_accepted() -> None:
    """The acceptance is that of the predicate, and what is accepted has the distribution of what it selects."""
    simulator = RejectionSimulator(make_simulator(lambda rng: {"u": rng.random()}), lambda u: u < 0.2)
    dataset = simulator.sample(4000, seed=1).compute()

    u = np.sort(dataset.u.values.ravel())
    assert np.abs(u / 0.2 - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / np.sqrt(4000)
    assert len(np.unique(u)) == 4000


def test_acceptance_does_not_depend_on_sub_batches(tmp_path: Path) -> None:
    rates = [
        generate(
            rejection(), tmp_path / f"{size}.zarr", 200, seed=1, sub_batch_size=size, scheduler="synchronous"
        ).attrs["acceptance_rate"]
        for size in (4, 32, 200)
    ]

    assert len(set(rates)) == 1
    assert 0.1 < rates[0] < 0.3  # 0.242 * 6 / 9


def test_a_sample_is_replayed_alone(tmp_path: Path) -> None:
    generate(plain(), tmp_path / "s.zarr", 100, seed=1, scheduler="synchronous")

    assert replay(tmp_path / "s.zarr", plain(), 77).is_stored


@pytest.mark.parametrize("on_error", ["mask", "redraw"])
def test_rare_acceptance_and_failures_of_proposals_do_not_depend_on_sub_batches(on_error: str, tmp_path: Path) -> None:
    """Failures count up to the proposal that is accepted, however many are made at a time."""

    def fails_often(rng: Rng) -> dict[str, Any]:
        u = rng.random()
        if u > 0.9:
            raise ValueError("too large")
        return {"u": u}

    simulator = RejectionSimulator(make_simulator(fails_often), lambda u: u < 0.01)
    found, told = [], []
    for size in (1, 8, 40):
        path = tmp_path / f"{size}.zarr"
        options: dict[str, Any] = {"sub_batch_size": size, "on_error": on_error, "scheduler": "synchronous"}
        found.append(bits(generate(simulator, path, 40, seed=3, **options)))
        told.append((status(path).n_proposals, status(path).failures))

    assert found[0] == found[1] == found[2]
    assert told[0] == told[1] == told[2]
    n_proposals, (failure,) = told[0]
    assert abs(n_proposals * 0.01 - 40) < 4 * np.sqrt(40)
    assert abs(failure.count - 0.1 * n_proposals) < 4 * np.sqrt(0.09 * n_proposals)


def test_failures_of_proposals_are_told_of_their_samples(tmp_path: Path) -> None:
    def fails(i: float, rng: Rng) -> dict[str, Any]:
        if i == 7 and rng.random() < 0.9:
            raise ValueError("rarely solved")
        return {"x": i}

    simulator = RejectionSimulator(make_simulator(fails, schema={"x": ((), "float64")}), lambda x: x >= 0)
    generate(
        simulator,
        tmp_path / "s.zarr",
        20,
        seed=1,
        conditions={"i": np.arange(20.0)},
        on_error="mask",
        scheduler="threads",
    )

    (failure,) = status(tmp_path / "s.zarr").failures
    assert (failure.sample, failure.message) == (7, "rarely solved")


def test_a_predicate_that_draws_out_of_sight_is_one_of_sub_batches() -> None:
    def by_chance(u: Any) -> Any:
        return eval("__import__('numpy').random.uniform")(size=len(u)) < 0.5

    def is_by_cell(predicate: Callable[..., Any]) -> bool:
        simulator = RejectionSimulator(make_simulator(lambda rng: {"u": rng.random()}), predicate)
        pipeline, _ = simulator.plan((100,), seed=1, conditions={}, sub_batch_size=None, chunk_size=None)
        return pipeline.steps[0].stage.is_by_cell

    assert is_by_cell(lambda u: u < 0.5)
    assert not is_by_cell(by_chance)

"""Every class of simulators keeps promise 1: chunks, schedulers, stores and subsets change no bit."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import Bits, bits, prefix_of
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from variants import examples, quick
from zoo.classes import (
    KINDS,
    Kind,
    kinds,
    late,
)

from dasksim import (
    ModelComparisonSimulator,
    RejectionSimulator,
    Simulator,
    generate,
    make_simulator,
)

SEEDS = st.integers(0, 2**130)

few = examples(12)


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    """Draw a number of samples, at least one whole sub-batch, and how it is cut."""
    size = draw(st.integers(1, 9))
    chunk_size = size * draw(st.integers(1, 4))
    return draw(st.integers(size, 30)), {"sub_batch_size": size, "chunk_size": chunk_size}


def wanted_bits(kind: Kind, n: int, seed: int, sub_batch_size: int) -> Bits:
    """Return the bits of a dataset in one chunk."""
    return bits(kind.sample(n, seed=seed, sub_batch_size=sub_batch_size, chunk_size=10_000), scheduler="synchronous")


@kinds
@few
@given(sizes(), SEEDS, st.sampled_from(["synchronous", "threads"]))
def test_chunk_size_and_scheduler_change_no_bit(
    kind: Kind, cut: tuple[int, dict[str, Any]], seed: int, scheduler: str
) -> None:
    n, options = cut
    found = bits(kind.sample(n, seed=seed, **options), scheduler=scheduler)
    assert found == wanted_bits(kind, n, seed, options["sub_batch_size"])


@kinds
@few
@given(sizes(), SEEDS, st.integers(1, 20))
def test_smaller_dataset_is_prefix_of_larger(kind: Kind, cut: tuple[int, dict[str, Any]], seed: int, more: int) -> None:
    n, options = cut
    larger = kind.sample(n + more, seed=seed, **options)
    assert bits(kind.sample(n, seed=seed, **options), scheduler="synchronous") == prefix_of(
        larger, n, scheduler="synchronous"
    )


@kinds
@few
@given(sizes(), SEEDS, st.data())
def test_subset_of_variables_has_same_bits(
    kind: Kind, cut: tuple[int, dict[str, Any]], seed: int, data: st.DataObject
) -> None:
    n, options = cut
    dataset = kind.sample(n, seed=seed, **options)
    names = data.draw(st.lists(st.sampled_from(sorted(map(str, dataset.data_vars))), min_size=1, unique=True))
    whole = bits(dataset, scheduler="synchronous")
    assert bits(dataset[names], scheduler="threads") == {name: whole[name] for name in names}


@kinds
@examples(6)
@given(sizes(), SEEDS, st.sampled_from(["synchronous", "threads"]))
def test_generated_store_equals_sample(kind: Kind, cut: tuple[int, dict[str, Any]], seed: int, scheduler: str) -> None:
    n, options = cut
    with tempfile.TemporaryDirectory() as folder:
        shape = (n, *kind.further)
        dataset = generate(kind.make(), f"{folder}/s.zarr", shape, seed=seed, scheduler=scheduler, **options)
        assert bits(dataset, scheduler="synchronous") == wanted_bits(kind, n, seed, options["sub_batch_size"])


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("name", quick(KINDS, "rejection_by_rows"))
def test_workers_of_a_cluster_change_no_bit(name: str, two_workers: Client, tmp_path: Path) -> None:
    kind = KINDS[name]
    options: dict[str, Any] = {"seed": 3, "sub_batch_size": 5, "chunk_size": 10}
    wanted = wanted_bits(kind, 37, 3, 5)
    assert bits(kind.sample(37, **options), scheduler=two_workers) == wanted
    for i, scheduler in enumerate([two_workers, "processes"]):
        dataset = generate(kind.make(), tmp_path / f"{i}.zarr", (37, *kind.further), scheduler=scheduler, **options)
        assert bits(dataset, scheduler="synchronous") == wanted


@kinds
def test_seeds_and_sub_batches_draw_differently(kind: Kind) -> None:
    one, two = (kind.sample(40, seed=seed, sub_batch_size=8).compute() for seed in (1, 2))
    for name, array in one.data_vars.items():
        if array.dtype == "float64" and name not in ("scale", "light", "correct"):
            values = array.values[np.isfinite(array.values)]
            assert not np.isin(values, two[name].values).any()


def test_defaults_of_nested_functions_are_those_of_the_functions_themselves() -> None:
    def row(rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal()}

    def batched(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(size=batch_shape)}

    def size(simulator: Simulator) -> int:
        found: int = json.loads(simulator.sample(100_000, seed=1).attrs["dasksim"])["sub_batch_size"]
        return found

    for function, is_batched in ((row, False), (batched, True)):
        plain = make_simulator(function, is_batched=is_batched)
        comparison = ModelComparisonSimulator([plain, plain])
        assert size(RejectionSimulator(plain, lambda x: x > 0)) == size(plain)
        assert size(RejectionSimulator(comparison, lambda x: x > 0)) == (
            size(plain) if is_batched else size(comparison)
        )
        assert (size(comparison) == 4096) == (not is_batched)


def late_predicate(x: Any) -> Any:
    accepted = x > 0
    if len(x) > 3 and x[0] > 0.5:
        accepted &= vars(np)["random"].uniform(size=len(x)) < 0.7
    return np.asarray(accepted)


@pytest.mark.parametrize("seed", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["rejection", "comparison", "both"])
def test_global_generators_that_are_used_late_are_seeded_inside_others(kind: str, seed: int) -> None:
    def made(scheduler: str) -> dict[str, Any]:
        simulator: Simulator = make_simulator([lambda rng: {"a": rng.normal()}, late])
        if kind != "rejection":
            simulator = ModelComparisonSimulator([simulator, lambda rng: {"x": rng.normal()}])
        if kind != "comparison":
            simulator = RejectionSimulator(simulator, late_predicate)
        return bits(simulator.sample(240, seed=seed, sub_batch_size=20, chunk_size=20), scheduler=scheduler)

    np.random.seed(1)
    before = np.random.get_state(legacy=False)["state"]["key"]
    wanted = made("synchronous")
    np.random.seed(2)
    assert made("threads") == wanted
    assert made("synchronous") == wanted
    np.random.seed(1)
    assert np.array_equal(before, np.random.get_state(legacy=False)["state"]["key"])

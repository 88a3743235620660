"""Promise 1: every value is a pure function of simulator, conditions, seed and sub-batch size."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from bits import bits, prefix_of
from distributed import Client
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from strategies import KINDS, Cut, Recipe, cuts, recipes
from variants import examples, quick

from dasksim import ModelComparisonSimulator, Simulator, generate, make_simulator, open_dataset, status

SEEDS = st.integers(0, 2**130)

thorough = examples(40, suppress_health_check=[HealthCheck.too_slow])


def row_simulator() -> Simulator:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal(size=2)}

    def likelihood(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(theta[0], 1.0, size=3)}

    return make_simulator([prior, likelihood])


def batched_simulator() -> Simulator:
    def prior(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal(size=(*batch_shape, 2))}

    def likelihood(batch_shape: tuple[int, ...], theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": theta[..., :1] + rng.normal(size=(*batch_shape, 3))}

    return make_simulator([prior, likelihood], is_batched=True)


@thorough
@given(recipes(), cuts(), SEEDS, st.integers(1, 20))
def test_smaller_dataset_is_prefix_of_larger(recipe: Recipe, cut: Cut, seed: int, more: int) -> None:
    simulator = recipe.simulator()
    small = simulator.sample(cut.shape, seed=seed, **cut.options)
    larger = simulator.sample((cut.n_samples + more, *cut.further), seed=seed, **cut.options)
    assert bits(small, scheduler="synchronous") == prefix_of(larger, cut.n_samples, scheduler="synchronous")


@thorough
@given(recipes(), cuts(), SEEDS, st.integers(1, 5), st.sampled_from(["synchronous", "threads"]))
def test_chunk_size_and_scheduler_change_no_bit(
    recipe: Recipe, cut: Cut, seed: int, sub_batches: int, scheduler: str
) -> None:
    wanted = bits(recipe.simulator().sample(cut.shape, seed=seed, **cut.options), scheduler="synchronous")
    options = {**cut.options, "chunk_size": cut.sub_batch_size * sub_batches}
    got = bits(recipe.simulator().sample(cut.shape, seed=seed, **options), scheduler=scheduler)
    assert got == wanted


@thorough
@given(recipes(), cuts(), SEEDS, st.data())
def test_subset_of_variables_has_same_bits(recipe: Recipe, cut: Cut, seed: int, data: st.DataObject) -> None:
    dataset = recipe.simulator().sample(cut.shape, seed=seed, **cut.options)
    names = data.draw(st.lists(st.sampled_from(sorted(map(str, dataset.data_vars))), min_size=1, unique=True))
    whole = bits(dataset, scheduler="synchronous")
    assert bits(dataset[names], scheduler="threads") == {name: whole[name] for name in names}


@examples(15)
@given(recipes(), cuts(), SEEDS, st.sampled_from(["synchronous", "threads"]))
def test_generated_store_equals_sample(recipe: Recipe, cut: Cut, seed: int, scheduler: str) -> None:
    wanted = bits(recipe.simulator().sample(cut.shape, seed=seed, **cut.options), scheduler="synchronous")
    with tempfile.TemporaryDirectory() as folder:
        dataset = generate(
            recipe.simulator(), f"{folder}/s.zarr", cut.shape, seed=seed, scheduler=scheduler, **cut.options
        )
        assert bits(dataset, scheduler="synchronous") == wanted


several = pytest.mark.parametrize("kind", quick(KINDS, "batched", "three_stages", "hidden", "legacy"))


@several
@pytest.mark.parametrize("workers", quick(["one_worker", "two_workers"], "two_workers"))
def test_workers_of_a_cluster_change_no_bit(kind: str, workers: str, request: pytest.FixtureRequest) -> None:
    simulator = KINDS[kind].simulator()
    wanted = bits(simulator.sample(37, seed=3, sub_batch_size=5, chunk_size=35), scheduler="synchronous")
    dataset = simulator.sample(37, seed=3, sub_batch_size=5, chunk_size=10)
    assert bits(dataset, scheduler=request.getfixturevalue(workers)) == wanted


def test_worker_processes_change_no_bit() -> None:
    datasets = [r.simulator().sample(37, seed=3, sub_batch_size=5, chunk_size=10) for r in KINDS.values()]
    names = [{n: f"{n}_{i}" for n in [*ds.data_vars, *ds.dims] if n != "batch"} for i, ds in enumerate(datasets)]
    whole = xr.merge([ds.rename(new) for ds, new in zip(datasets, names, strict=True)], combine_attrs="drop")
    assert bits(whole, scheduler="processes", num_workers=2) == bits(whole, scheduler="synchronous")


@several
def test_generate_on_a_cluster_equals_sample(kind: str, two_workers: Client, tmp_path: Path) -> None:
    simulator = KINDS[kind].simulator()
    options: dict[str, Any] = {"seed": 3, "sub_batch_size": 5, "chunk_size": 10}
    wanted = bits(simulator.sample(37, **options), scheduler="synchronous")
    address = two_workers.scheduler_info()["address"]
    by_client = generate(simulator, tmp_path / "client.zarr", 37, scheduler=two_workers, **options)
    by_address = generate(simulator, tmp_path / "address.zarr", 37, scheduler=address, **options)
    assert bits(by_client, scheduler="synchronous") == wanted
    assert bits(by_address, scheduler="synchronous") == wanted


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("kind", quick(["three_stages", "hidden", "legacy"], "hidden"))
def test_generate_in_processes_equals_sample(kind: str, tmp_path: Path) -> None:
    simulator = KINDS[kind].simulator()
    options: dict[str, Any] = {"seed": 3, "sub_batch_size": 5, "chunk_size": 10}
    dataset = generate(simulator, tmp_path / "s.zarr", 37, scheduler="processes", **options)
    assert bits(dataset, scheduler="synchronous") == bits(simulator.sample(37, **options), scheduler="synchronous")


def test_active_client_generates_the_same_bits(two_workers: Client, tmp_path: Path) -> None:
    simulator = row_simulator()
    with two_workers.as_current():
        dataset = generate(simulator, tmp_path / "s.zarr", 37, seed=3, sub_batch_size=5, chunk_size=10)
    assert bits(dataset, scheduler="synchronous") == bits(simulator.sample(37, seed=3, sub_batch_size=5))


def test_two_runs_on_one_cluster_do_not_mix(two_workers: Client, tmp_path: Path) -> None:
    for i in range(5):
        simulator = make_simulator(lambda rng, i=i: {"x": i + rng.uniform()})
        dataset = generate(simulator, tmp_path / f"{i}.zarr", 20, seed=i, scheduler=two_workers, chunk_size=20)
        assert bits(dataset, scheduler="synchronous") == bits(simulator.sample(20, seed=i), scheduler="synchronous")


@pytest.mark.parametrize("make", [row_simulator, batched_simulator])
def test_seeds_stages_and_sub_batches_draw_differently(make: Any) -> None:
    def noise(rng: np.random.Generator) -> dict[str, Any]:
        return {"a": rng.normal(size=2)}

    def same_noise(rng: np.random.Generator) -> dict[str, Any]:
        return {"b": rng.normal(size=2)}

    one, two = (make().sample(40, seed=seed, sub_batch_size=8).compute() for seed in (1, 2))
    assert not np.isin(one.theta, two.theta).any()
    assert len(np.unique(one.theta)) == one.theta.size
    stages = make_simulator([noise, same_noise]).sample(40, seed=1).compute()
    assert not np.isin(stages.a, stages.b).any()


def test_sub_batch_size_changes_draws_after_the_first_sub_batch() -> None:
    small, large = (batched_simulator().sample(32, seed=1, sub_batch_size=s).compute() for s in (8, 16))
    assert small.theta[:8].identical(large.theta[:8])
    assert (small.theta[8:] != large.theta[8:]).all()
    small, large = (row_simulator().sample(32, seed=1, sub_batch_size=s).compute() for s in (8, 16))
    assert small.drop_attrs().identical(large.drop_attrs())


def test_adding_a_stage_changes_no_other_draws() -> None:
    def nuisance(rng: np.random.Generator) -> dict[str, Any]:
        return {"nu": rng.normal(size=5)}

    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal()}

    def likelihood(theta: float, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(theta, size=3)}

    without = bits(make_simulator([prior, likelihood]).sample(20, seed=1, sub_batch_size=6))
    for stages in ([nuisance, prior, likelihood], [prior, nuisance, likelihood], [prior, likelihood, nuisance]):
        with_it = bits(make_simulator(stages).sample(20, seed=1, sub_batch_size=6))
        assert {name: with_it[name] for name in without} == without


def test_values_at_their_addresses_are_pinned() -> None:
    """A change of the address scheme must be noticed: such values are in the stores of users."""

    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.uniform()}

    def likelihood(batch_shape: tuple[int, ...], theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.integers(0, 1000, size=batch_shape)}

    def tag(seed: int) -> dict[str, Any]:
        return {"tag": seed}

    generator = np.random.default_rng(1)

    def hidden() -> dict[str, Any]:
        return {"h": generator.uniform(), "l": np.random.uniform()}

    simulator = make_simulator(
        [prior, likelihood, tag, hidden], obj_kwargs=[None, {"is_batched": True}, None, None], expand_outputs=False
    )
    found = simulator.sample(5, seed=2025, sub_batch_size=2).compute()
    assert {name: array.values.tolist() for name, array in found.data_vars.items()} == {
        "theta": [
            0.996263256498316,
            0.03911638602997869,
            0.1736758805025551,
            0.06921869952235338,
            0.042239106526098635,
        ],
        "x": [786, 49, 887, 769, 497],
        "tag": [
            905775438536307360,
            8275919550954112396,
            7674504493957332747,
            5731300335780708430,
            5369078874549876216,
        ],
        "h": [0.23577770599022185, 0.6964203232044126, 0.6428622688915481, 0.2443161550057259, 0.9577886841046838],
        "l": [0.47353941684394796, 0.5776182032987787, 0.8966438066867625, 0.2721231913994716, 0.2695416644883979],
    }


class Words(np.random.bit_generator.ISeedSequence):
    def __init__(self, words: Any) -> None:
        self.words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        return self.words[:n_words]


def test_address_is_seed_stage_and_sample_or_sub_batch() -> None:
    """The schemes as the design states them, written out with NumPy alone."""

    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.uniform()}

    def many(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.uniform(size=batch_shape)}

    def key(stage: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(stage, digest_size=8).digest(), "little") | 1 << 63

    found = make_simulator([prior, many], obj_kwargs=[None, {"is_batched": True}]).sample(
        5, seed=2025, sub_batch_size=2
    )
    of_all = np.random.SeedSequence(2025, spawn_key=(key(b"prior"), 2**63 + 1, 0)).generate_state(2, np.uint64)
    words = [Words(np.random.Philox(key=of_all, counter=sample).random_raw(4)) for sample in range(5)]
    expected = [np.random.Generator(np.random.SFC64(each)).uniform() for each in words]  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.theta.values.ravel(), expected)
    streams = [np.random.SeedSequence(2025, spawn_key=(key(b"many"), sub_batch, 0)) for sub_batch in range(3)]
    expected = np.concatenate([np.random.Generator(np.random.SFC64(s)).uniform(size=2) for s in streams]).tolist()
    np.testing.assert_array_equal(found.x.values.ravel(), expected[:5])


@pytest.mark.parametrize("make", [row_simulator, pytest.param(batched_simulator, marks=pytest.mark.slow)])
def test_conditions_of_every_kind_give_the_same_bits(make: Any, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(37, 2))
    named = xr.DataArray(rows, dims=("batch", "k"))
    lazy = xr.DataArray(da.from_array(rows, chunks=(7, 1)), dims=("batch", "k"))
    wanted = bits(make().sample(37, seed=3, sub_batch_size=5, chunk_size=35, theta=rows), scheduler="synchronous")
    for i, theta in enumerate([rows, named, named.transpose(), lazy, lazy.transpose(), da.from_array(rows)]):
        for scheduler in ("synchronous", "threads"):
            dataset = make().sample(37, seed=3, sub_batch_size=5, chunk_size=10, theta=theta)
            assert bits(dataset, scheduler=scheduler) == wanted
        stored = generate(
            make(),
            tmp_path / f"{i}.zarr",
            37,
            seed=3,
            sub_batch_size=5,
            chunk_size=10,
            conditions={"theta": theta},
            scheduler="threads",
        )
        assert bits(stored) == wanted


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("make", [row_simulator, pytest.param(batched_simulator, marks=pytest.mark.slow)])
def test_conditions_travel_to_processes_and_clusters(make: Any, two_workers: Client, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(37, 2))
    lazy = da.from_array(rows, chunks=(7, 1))
    options: dict[str, Any] = {"seed": 3, "sub_batch_size": 5, "chunk_size": 10}
    wanted = bits(make().sample(37, theta=rows, **options), scheduler="synchronous")
    assert bits(make().sample(37, theta=rows, **options), scheduler=two_workers) == wanted
    assert bits(make().sample(37, theta=lazy, **options), scheduler=two_workers) == wanted
    for name, scheduler in (("p", "processes"), ("c", two_workers)):
        path = tmp_path / f"{name}.zarr"
        stored = generate(make(), path, 37, conditions={"theta": lazy}, scheduler=scheduler, **options)
        assert bits(stored, scheduler="synchronous") == wanted


@pytest.mark.parametrize("make", [row_simulator, batched_simulator])
def test_scalar_condition_is_a_constant_row(make: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"seed": 3, "sub_batch_size": 5, "chunk_size": 10}
    wanted = bits(make().sample(37, theta=np.full((37, 2), 0.25), **options), scheduler="synchronous")
    assert bits(make().sample(37, theta=0.25, **options), scheduler="threads") == wanted
    generate(make(), tmp_path / "s.zarr", 37, conditions={"theta": 0.25}, scheduler="threads", **options)
    assert bits(open_dataset(tmp_path / "s.zarr")) == wanted


def test_conditioned_variable_changes_no_other_draws() -> None:
    free = row_simulator().sample(20, seed=3, sub_batch_size=5)
    theta = free.theta.compute()
    given_it = row_simulator().sample(20, seed=3, sub_batch_size=5, theta=theta)
    assert bits(given_it) == bits(free)


def test_seed_of_none_draws_fresh_entropy_and_records_it() -> None:
    one, two = (row_simulator().sample(4) for _ in range(2))
    seed = json.loads(one.attrs["dasksim"])["seed"]
    assert seed != json.loads(two.attrs["dasksim"])["seed"]
    assert bits(row_simulator().sample(4, seed=seed)) == bits(one)


def test_fresh_seeds_are_whole_in_floating_point_numbers() -> None:
    """By chance all of 50 seeds of more bits would be below 2**53 in one of 2**50 runs at the most."""
    seeds = [json.loads(row_simulator().sample(1).attrs["dasksim"])["seed"] for _ in range(50)]
    assert max(seeds) < 2**53
    assert len({*seeds}) == 50


@pytest.mark.parametrize("seed", [2**53 + 1, 2**128 - 1, 10**60])
def test_longer_seeds_are_kept_and_stores_made_with_them_continued(seed: int, tmp_path: Path) -> None:
    how: dict[str, Any] = {"seed": seed, "sub_batch_size": 5, "chunk_size": 5, "scheduler": "synchronous"}
    generate(row_simulator(), tmp_path / "s.zarr", 20, part=(0, 2), **how)
    del how["seed"]
    found = generate(row_simulator(), tmp_path / "s.zarr", 20, **how)
    assert status(tmp_path / "s.zarr").seed == seed
    assert bits(found) == bits(row_simulator().sample(20, seed=seed, sub_batch_size=5))


def test_stages_of_a_simulator_within_another_bear_their_own_names() -> None:
    """Numbers instead of names would let a new stage change the draws of those after it."""

    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal()}

    def nuisance(rng: np.random.Generator) -> dict[str, Any]:
        return {"nu": rng.normal()}

    def likelihood(theta: float, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(theta)}

    short, longer = (
        ModelComparisonSimulator({"model": make_simulator(stages)})
        for stages in ([prior, likelihood], [nuisance, prior, likelihood])
    )
    without, with_it = bits(short.sample(20, seed=1)), bits(longer.sample(20, seed=1))
    assert {name: with_it[name] for name in without} == without
    named = make_simulator({"part": make_simulator([prior, likelihood])})
    assert [stage.name for stage in named.lower().stages] == ["part/prior", "part/likelihood"]

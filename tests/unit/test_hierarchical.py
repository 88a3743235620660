"""Hierarchies: dims, contexts, conditions, and the same bits however they are made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import bits, prefix_of
from distributed import Client

from dasksim import HierarchicalSimulator, Simulator, generate, make_simulator
from dasksim.errors import ArgumentError, ArgumentTypeError, SimulatorError

CUT: dict[str, Any] = {"seed": 3, "sub_batch_size": 4}


def root(rng: Any) -> dict[str, Any]:
    return {"m": rng.normal()}


def leaf(m: Any, rng: Any) -> dict[str, Any]:
    return {"y": rng.normal(m)}


def sizes(rng: Any) -> dict[str, Any]:
    return {"n": int(rng.integers(2, 7))}


def hierarchy() -> HierarchicalSimulator:
    """Return three levels, the second one batched."""

    def batched(batch_shape: tuple[int, ...], mu: Any, rng: Any) -> dict[str, Any]:
        return {"theta": mu + rng.normal(size=batch_shape)}

    def top(n: int, rng: Any) -> dict[str, Any]:
        return {"mu": rng.normal(n)}

    member = make_simulator(batched, is_batched=True)
    return HierarchicalSimulator(
        [make_simulator(top, meta_fn=sizes), member, lambda theta, rng: {"y": theta + rng.normal()}]
    )


# Dims, conditions, contexts


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (None, ("batch", "level_1", "level_2")),
        (["student", "test"], ("batch", "student", "test")),
        (["batch", "student", "test"], ("batch", "student", "test")),
    ],
)
@pytest.mark.parametrize("shape", [(5, 3, 2), [5, 3, 2]])
def test_levels_have_dims(levels: list[str] | None, expected: tuple[str, ...], shape: Any) -> None:
    simulator = HierarchicalSimulator([root, lambda m: {"k": m + 1}, lambda k, rng: {"y": k + rng.uniform()}], levels)
    dataset = simulator.sample(shape, seed=1).compute(scheduler="synchronous")
    assert [dataset[name].dims for name in "mky"] == [expected[:1], expected[:2], expected]
    np.testing.assert_array_equal(dataset.k, (dataset.m + 1).broadcast_like(dataset.k))
    np.testing.assert_array_equal(np.floor(dataset.y - dataset.k), 0.0)
    assert [len(np.unique(dataset[name])) for name in "my"] == [5, 30]


def test_a_mapping_names_levels() -> None:
    simulator = HierarchicalSimulator({"school": root, "student": leaf})
    assert simulator.sample((4, 3), seed=1).y.dims == ("batch", "student")
    named = HierarchicalSimulator({"school": root, "student": leaf}, ["pupil"]).sample((4, 3), seed=1)
    assert named.y.dims == ("batch", "pupil")


@pytest.mark.parametrize(("name", "shape"), [("mu", (6,)), ("theta", (6, 3)), ("y", (6, 3, 2))])
def test_conditions_may_be_given_at_any_level(name: str, shape: tuple[int, ...]) -> None:
    free = hierarchy().sample((6, 3, 2), **CUT).compute(scheduler="synchronous")
    assert free[name].shape == shape
    given = hierarchy().sample((6, 3, 2), **CUT, **dict[str, Any]({name: free[name].values}))
    assert bits(given, scheduler="synchronous") == bits(free)
    dataset = hierarchy().sample((6, 3, 2), **CUT, **dict[str, Any]({name: 1.5})).compute(scheduler="synchronous")
    np.testing.assert_array_equal(dataset[name], np.full(shape, 1.5))


def test_levels_may_be_sequences_and_have_contexts() -> None:
    top = make_simulator([root, lambda m, n: {"nu": m + n}], meta_fn=sizes)
    member = make_simulator([lambda nu, rng: {"theta": nu + rng.normal()}, lambda theta, nu: {"z": theta - nu}])
    dataset = HierarchicalSimulator([top, member]).sample((12, 3), **CUT).compute(scheduler="synchronous")
    assert dataset.n.dims == ("batch",)
    np.testing.assert_array_equal(dataset.nu[:, 0], dataset.m[:, 0] + dataset.n)
    assert dataset.z.dims == ("batch", "level_1", "scalar")
    np.testing.assert_array_equal(dataset.z[..., 0], dataset.theta[..., 0] - dataset.nu.values)


# The same bits


def test_chunks_schedulers_and_workers_change_no_bit(two_workers: Client, tmp_path: Path) -> None:
    simulator: Simulator = hierarchy()
    shape = (37, 3, 2)
    wanted = bits(simulator.sample(shape, **CUT, chunk_size=40), scheduler="synchronous")
    for chunk_size, scheduler in ((4, "threads"), (20, "synchronous")):
        assert bits(hierarchy().sample(shape, **CUT, chunk_size=chunk_size), scheduler=scheduler) == wanted
    assert bits(simulator.sample(shape, **CUT, chunk_size=8), scheduler=two_workers) == wanted
    stored = generate(simulator, tmp_path / "s.zarr", shape, scheduler="threads", chunk_size=8, **CUT)
    assert bits(stored, scheduler="synchronous") == wanted


@pytest.mark.parametrize("n", [13, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 36))])
def test_smaller_dataset_is_prefix_of_larger(n: int) -> None:
    larger = prefix_of(hierarchy().sample((37, 3, 2), **CUT), n, scheduler="synchronous")
    assert bits(hierarchy().sample((n, 3, 2), **CUT), scheduler="synchronous") == larger


# Bad input


@pytest.mark.parametrize("shape", [6, (6,), (6, 3, 2)])
def test_a_batch_shape_must_have_one_size_a_level(shape: Any) -> None:
    with pytest.raises(ArgumentError, match=r"axes, but the simulator has 2 levels, \('batch', 'level_1'\); give one"):
        HierarchicalSimulator([root, leaf]).sample(shape)


@pytest.mark.parametrize("levels", [["a", "b"], [], ["batch"]])
def test_levels_must_be_one_for_each_level_below_the_first(levels: list[str]) -> None:
    with pytest.raises(ArgumentError, match="levels must hold 1 different names, one for each level below the first"):
        HierarchicalSimulator([root, leaf], levels)


def test_a_hierarchy_holds_simulators_and_no_other_hierarchy() -> None:
    with pytest.raises(ArgumentError, match="hierarchy must hold at least one simulator; got none"):
        HierarchicalSimulator([])
    with pytest.raises(ArgumentTypeError, match="hierarchy must hold Simulators or functions; got 3"):
        HierarchicalSimulator([root, 3])
    with pytest.raises(ArgumentError, match="a hierarchy cannot hold another"):
        HierarchicalSimulator([root, HierarchicalSimulator([lambda: {"k": 1.0}, leaf])]).sample((2, 3, 4))


@pytest.mark.parametrize("levels", [[3, 4], 3, ["a/b", "c"]])
def test_levels_that_are_no_labels_are_refused(levels: Any) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match="levels must"):
        HierarchicalSimulator([root, leaf, lambda y: {"z": y}], levels).sample((2, 2, 2))


def test_keys_that_are_no_strings_are_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="hierarchy"):
        HierarchicalSimulator({1: root, 2: leaf}).sample((2, 2))  # type: ignore[dict-item]


def test_a_lower_level_cannot_be_the_batch() -> None:
    with pytest.raises((ArgumentError, SimulatorError), match="'batch'"):
        HierarchicalSimulator([root, leaf, lambda y: {"z": y}], ["p", "batch"]).sample((2, 2, 2))

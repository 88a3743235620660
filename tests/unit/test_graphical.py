"""Graphs with plates: dims, joins, contexts, conditions, and the same bits however they are made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from bits import bits, prefix_of
from distributed import Client

from dasksim import GraphicalSimulator, Simulator, generate
from dasksim.errors import ArgumentError, ArgumentTypeError, SimulatorError

CUT: dict[str, Any] = {"seed": 3, "sub_batch_size": 4}


def graph_of(nodes: dict[str, Any], edges: list[str], meta_fn: Any = None, **options: Any) -> GraphicalSimulator:
    """Return a graph of nodes, each a function or a tuple of it and its reps, and edges such as "A B"."""
    graph = GraphicalSimulator(meta_fn, **options)
    for name, node in nodes.items():
        graph.add_node(name, *(node if isinstance(node, tuple) else (node,)))
    for edge in edges:
        graph.add_edge(*edge.split())
    return graph


def root(rng: Any) -> dict[str, Any]:
    return {"m": rng.normal()}


def leaf(m: Any, rng: Any) -> dict[str, Any]:
    return {"y": rng.normal(m)}


def sizes(rng: Any) -> dict[str, Any]:
    return {"n": int(rng.integers(2, 7))}


def ragged(**options: Any) -> GraphicalSimulator:
    return graph_of({"root": root, "obs": (leaf, "n")}, ["root obs"], sizes, **options)


def schools(questions: str = "questions", **options: Any) -> GraphicalSimulator:
    """Return a crossed design: both questions and students know their school, and an answer is given all three."""

    def answer(s: Any, q: Any, t: Any, rng: Any) -> dict[str, Any]:
        return {"parts": np.array([s, q, t]), "noise": rng.normal()}

    nodes = {
        "schools": (lambda rng: {"s": rng.normal()}, 2),
        questions: (lambda s, rng: {"q": s + 1000 * int(rng.integers(1, 9))}, 3),
        "students": (lambda s, rng: {"t": s + 1000 * int(rng.integers(1, 9))}, 4),
        "answers": answer,
    }
    edges = [f"schools {questions}", "schools students", f"{questions} answers", "students answers"]
    return graph_of(nodes, edges, **options)


def mixed_graph() -> GraphicalSimulator:
    """Return a graph with a ragged plate, row and batched nodes."""

    def batched(batch_shape: tuple[int, ...], s: Any, rng: Any) -> dict[str, Any]:
        return {"q": s + rng.normal(size=batch_shape)}

    graph = graph_of({"schools": (lambda rng: {"s": rng.normal()}, 2)}, [], sizes, max_sizes={"students": 6})
    graph.add_node("questions", batched, 3, is_batched=True)
    graph.add_node("students", lambda rng: {"t": rng.normal()}, "n")
    graph.add_node("answers", lambda q, t, rng: {"o": rng.normal(q + t)})
    for edge in ("schools questions", "questions answers", "students answers"):
        graph.add_edge(*edge.split())
    return graph


# Joins and dims


def test_two_parents_are_joined_on_their_common_ancestor() -> None:
    """B32: a node below two children of a repeated node was given one copy's values twice."""
    nodes = {
        "A": (lambda rng: {"a": rng.normal()}, 2),
        "B": lambda a: {"b": a},
        "C": lambda a: {"c": a},
        "D": lambda b, c: {"d": np.array([b, c])},
    }
    dataset = graph_of(nodes, ["A B", "A C", "B D", "C D"]).sample(30, seed=1).compute(scheduler="synchronous")
    assert dataset.d.dims == ("batch", "A", "d_dim_0")
    np.testing.assert_array_equal(dataset.d[..., 0], dataset.a[..., 0])
    np.testing.assert_array_equal(dataset.d[..., 1], dataset.a[..., 0])
    assert len(np.unique(dataset.a)) == 60


def test_a_crossed_design_pairs_rows_of_one_school() -> None:
    dataset = schools(expand_outputs=False).sample(20, **CUT).compute(scheduler="synchronous")
    assert dataset.parts.dims == ("batch", "schools", "questions", "students", "parts_dim_0")
    cells = dataset.noise.dims
    assert cells == ("batch", "schools", "questions", "students")
    expected = xr.broadcast(dataset.s, dataset.q, dataset.t)
    for i, given in enumerate(expected):
        np.testing.assert_array_equal(dataset.parts[..., i], given.transpose(*cells))
    for name in ("q", "t"):
        np.testing.assert_allclose(
            dataset[name] - 1000 * np.round(dataset[name] / 1000), dataset.s.broadcast_like(dataset[name]), atol=1e-9
        )
    assert len(np.unique(dataset.noise)) == dataset.noise.size


def test_dims_are_in_the_order_of_declaration() -> None:
    one, renamed = (schools(name).sample(2, seed=1) for name in ("questions", "zquestions"))
    assert one.parts.dims == ("batch", "schools", "questions", "students", "parts_dim_0")
    assert renamed.parts.dims == ("batch", "schools", "zquestions", "students", "parts_dim_0")
    assert one.parts.shape == renamed.parts.shape == (2, 2, 3, 4, 3)


@pytest.mark.parametrize("n_reps", [3, np.int64(3), np.uint8(3)])
def test_reps_may_be_any_integer(n_reps: Any) -> None:
    dataset = graph_of({"root": root, "obs": (leaf, n_reps)}, ["root obs"]).sample(2, seed=1).compute()
    assert {name: array.shape for name, array in dataset.items()} == {"m": (2, 1), "y": (2, 3, 1)}


@pytest.mark.parametrize("n_reps", [1, np.int64(1)])
def test_a_node_that_is_not_repeated_has_no_dim(n_reps: Any) -> None:
    dataset = graph_of({"root": (root, n_reps), "obs": (leaf, n_reps)}, ["root obs"]).sample(2, seed=1)
    assert dataset.m.dims == ("batch", "scalar")
    assert dataset.y.dims == ("batch", "scalar")


def test_a_context_of_one_keeps_the_dim() -> None:
    dataset = graph_of({"root": root, "obs": (leaf, "n")}, ["root obs"], lambda: {"n": 1}).sample(2, seed=1)
    assert dataset.y.dims == ("batch", "obs", "scalar")
    assert dataset.y.shape == (2, 1, 1)


def test_repeated_roots_and_nodes_between_have_dims_of_their_own() -> None:
    nodes = {"one": (root, 2), "other": (lambda rng: {"k": rng.normal()}, 3), "sum": lambda m, k: {"s": m + k}}
    dataset = graph_of(nodes, ["one sum", "other sum"], expand_outputs=False).sample(5, seed=1).compute()
    assert dataset.s.dims == ("batch", "one", "other")
    np.testing.assert_array_equal(dataset.s, dataset.m + dataset.k)


# What nodes see


def test_roots_and_other_nodes_take_contexts() -> None:
    nodes = {"root": lambda n: {"m": n + 0.0}, "obs": (lambda m, n: {"y": m + n}, 2)}
    dataset = graph_of(nodes, ["root obs"], sizes).sample(12, **CUT).compute(scheduler="synchronous")
    np.testing.assert_array_equal(dataset.m[:, 0], dataset.n)
    np.testing.assert_array_equal(dataset.y[:, 1, 0], 2 * dataset.n)


def test_a_node_does_not_see_what_is_no_ancestor() -> None:
    with pytest.raises(SimulatorError, match="stage 'obs' needs 'm', but no earlier stage, context or condition"):
        graph_of({"root": root, "obs": leaf}, []).sample(2)


def test_a_node_sees_ancestors_further_up() -> None:
    nodes = {"root": root, "between": lambda m: {"k": m}, "obs": lambda m, k: {"y": m - k}}
    assert (graph_of(nodes, ["root between", "between obs"]).sample(9, seed=1).compute().y == 0).all()


def test_batched_nodes_are_given_batch_shape_with_plates() -> None:
    shapes: list[tuple[Any, ...]] = []

    def batched(batch_shape: tuple[int, ...], m: Any, rng: Any) -> dict[str, Any]:
        shapes.append((batch_shape, m.shape))
        return {"y": m + rng.normal(size=batch_shape), "v": rng.normal(size=(*batch_shape, 2))}

    graph = graph_of({"root": (root, 2)}, [])
    graph.add_node("obs", batched, 3, is_batched=True)
    graph.add_edge("root", "obs")
    dataset = graph.sample(8, **CUT)
    shapes.clear()
    dataset = dataset.compute(scheduler="synchronous")
    assert shapes == [((4, 2, 3), (4, 2, 3))] * 2
    assert {name: array.shape for name, array in dataset.items()} == {
        "m": (8, 2, 1),
        "y": (8, 2, 3, 1),
        "v": (8, 2, 3, 2),
    }
    assert len(np.unique(dataset.y)) == 48


# Batch shapes, contexts, sizes


def test_sample_shape_gives_further_batch_dims() -> None:
    dataset = schools().sample(4, sample_shape=(5,), seed=1).compute(scheduler="synchronous")
    assert dataset.s.dims == ("batch", "batch_1", "schools", "scalar")
    assert dataset.parts.shape == (4, 5, 2, 3, 4, 3)
    assert len(np.unique(dataset.s)) == 40
    assert bits(dataset) == bits(schools().sample(batch_size=4, sample_shape=5, seed=1))


def test_meta_stands_for_contexts() -> None:
    for dataset in (ragged().sample(16, meta={"n": 3}, **CUT), ragged().sample(16, n=3, **CUT)):
        assert dataset.y.shape == (16, 3, 1)
        assert (dataset.n == 3).all()


@pytest.mark.parametrize("seed", range(6))
def test_one_sub_batch_has_the_exact_size_of_its_context(seed: int) -> None:
    dataset = ragged().sample(16, seed=seed).compute(scheduler="synchronous")
    assert dataset.n.dims == ("batch",)
    assert dataset.y.shape == (16, int(dataset.n[0]), 1)
    assert not dataset.y.isnull().any()


def test_several_sub_batches_need_max_sizes() -> None:
    with pytest.raises(SimulatorError, match=r"add max_sizes=\{'obs': <the largest size>\}.*sub_batch_size=40"):
        ragged().sample(40, seed=1, sub_batch_size=4)


def test_beyond_its_context_a_plate_is_filled() -> None:
    dataset = ragged(max_sizes={"obs": 8}).sample(40, **CUT).compute(scheduler="synchronous")
    assert dataset.n.dims == ("batch",)
    assert len(np.unique(dataset.n)) > 1
    assert dataset.y.shape == (40, 8, 1)
    mask = dataset.n > xr.DataArray(np.arange(8), dims="obs")
    np.testing.assert_array_equal(dataset.y[..., 0].notnull(), mask)


def test_integers_need_a_fill_value_that_they_can_hold() -> None:
    def counted(fill_value: Any) -> GraphicalSimulator:
        options: dict[str, Any] = {"max_sizes": {"obs": 6}, "fill_value": fill_value}
        return graph_of({"obs": (lambda rng: {"k": int(rng.integers(9))}, "n")}, [], sizes, **options)

    dataset = counted(-1).sample(40, **CUT).compute(scheduler="synchronous")
    assert dataset.k.dtype == np.dtype("int64")
    np.testing.assert_array_equal((dataset.k[..., 0] >= 0).sum("obs"), dataset.n)
    with pytest.raises(SimulatorError, match="variable 'k' has dtype int64, which cannot hold fill_value=nan"):
        counted(np.nan).sample(40)


# Conditions


@pytest.mark.parametrize("shape", [(8, 2), (8, 2, 1)])
def test_a_condition_stands_for_a_variable_on_a_plate(shape: tuple[int, ...]) -> None:
    values = np.arange(16.0).reshape(shape)
    graph = graph_of({"root": (root, 2), "obs": (lambda m: {"y": 2 * m}, 3)}, ["root obs"], expand_outputs=True)
    dataset = graph.sample(8, **CUT, m=values).compute(scheduler="synchronous")
    np.testing.assert_array_equal(dataset.m, values.reshape(8, 2, 1))
    np.testing.assert_array_equal(dataset.y, 2 * values.reshape(8, 2, 1, 1).repeat(3, axis=2))


def test_a_named_condition_may_have_its_plates_in_any_order() -> None:
    values = xr.DataArray(np.arange(24.0).reshape(3, 2, 4), dims=("questions", "schools", "batch"))
    dataset = schools(expand_outputs=False).sample(4, seed=1, q=values).compute(scheduler="synchronous")
    np.testing.assert_array_equal(dataset.q, values.transpose("batch", "schools", "questions"))
    np.testing.assert_array_equal(dataset.parts[..., 1], dataset.q.broadcast_like(dataset.noise))


# The same bits


def test_chunks_schedulers_and_workers_change_no_bit(two_workers: Client, tmp_path: Path) -> None:
    simulator: Simulator = mixed_graph()
    shape = 37
    wanted = bits(simulator.sample(shape, **CUT, chunk_size=40), scheduler="synchronous")
    for chunk_size, scheduler in ((4, "threads"), (20, "synchronous")):
        assert bits(mixed_graph().sample(shape, **CUT, chunk_size=chunk_size), scheduler=scheduler) == wanted
    assert bits(simulator.sample(shape, **CUT, chunk_size=8), scheduler=two_workers) == wanted
    stored = generate(simulator, tmp_path / "s.zarr", shape, scheduler="threads", chunk_size=8, **CUT)
    assert bits(stored, scheduler="synchronous") == wanted


@pytest.mark.parametrize("n", [13, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 36))])
def test_smaller_dataset_is_prefix_of_larger(n: int) -> None:
    larger = prefix_of(mixed_graph().sample(37, **CUT), n, scheduler="synchronous")
    assert bits(mixed_graph().sample(n, **CUT), scheduler="synchronous") == larger


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("z", root, 0), ArgumentError, "reps of node 'z' must be >= 1; got 0"),
        (("z", root, -2), ArgumentError, "reps of node 'z' must be >= 1; got -2"),
        (("z", root, np.int64(0)), ArgumentError, "reps of node 'z' must be >= 1"),
        (("z", root, True), ArgumentTypeError, "reps of node 'z' must be an integer or the name of a context; got T"),
        (("z", root, 2.0), ArgumentTypeError, "reps of node 'z' must be an integer or the name of a context; got 2.0"),
        (("root", root), ArgumentError, "the graph has a node 'root' already"),
        (("z", 3), ArgumentTypeError, "sample_fn of node 'z' must be callable; got 3"),
        (("", root), ArgumentError, "node must be a name without '/'; got ''"),
        (("a/b", root), ArgumentError, "node must be a name without '/'; got 'a/b'"),
        pytest.param(*((3, root), (ArgumentError, ArgumentTypeError), "node must be a name without '/'; got 3")),
    ],
)
def test_bad_nodes_are_refused(arguments: tuple[Any, ...], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ragged().add_node(*arguments)


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (("root", "ops"), "the graph has no node 'ops'; did you mean 'obs'"),
        (("rot", "obs"), "the graph has no node 'rot'; did you mean 'root'"),
        (("obs", "root"), "the edge from 'obs' to 'root' closes a cycle"),
        (("obs", "obs"), "the edge from 'obs' to 'obs' closes a cycle"),
    ],
)
def test_bad_edges_are_refused(edge: tuple[str, str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ragged().add_edge(*edge)


@pytest.mark.parametrize(
    ("meta", "options", "message"),
    [
        (lambda: {"n": 0}, {}, "repeated along 'obs' 'n' times, and the context gave 'n' .*must be an integer >= 1"),
        (lambda: {"n": 2.5}, {}, "repeated along 'obs' 'n' times, .*must be an integer >= 1"),
        (lambda: {"k": 2}, {}, "stage 'obs' is repeated 'n' times, but no context provides 'n'"),
        (lambda: {"n": 2}, {"max_sizes": {"obz": 3}}, "max_sizes names 'obz', which is no dim.*did you mean 'obs'"),
        (lambda: {"n": 5}, {"max_sizes": {"obs": 3}}, r"dim 'obs' has size 5, more than max_sizes\['obs'\]=3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(meta: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SimulatorError, match=message):
        graph_of({"root": root, "obs": (leaf, "n")}, ["root obs"], meta, **options).sample(4, seed=1)


def test_an_empty_graph_and_a_bad_meta_are_refused() -> None:
    with pytest.raises(ArgumentError, match="the graph has no nodes; add some with add_node"):
        GraphicalSimulator().sample(2)
    with pytest.raises(ArgumentTypeError, match="meta must be a mapping of contexts to values; got 3"):
        ragged().sample(2, meta=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "shape"), [("batch", 3), ("batch_1", (3, 4))])
def test_a_plate_with_the_name_of_a_batch_dim_is_refused(name: str, shape: Any) -> None:
    with pytest.raises((ArgumentError, SimulatorError), match=name):
        graph_of({name: (root, 2)}, []).sample(shape)


def test_a_size_that_changes_late_names_what_to_add() -> None:
    graph = graph_of({"obs": (root, "n")}, [], lambda rng: {"n": 2 + int(rng.random() < 0.02)})
    dataset = graph.sample(400, seed=2, sub_batch_size=1)
    with pytest.raises(SimulatorError, match="max_sizes"):
        dataset.compute(scheduler="synchronous")

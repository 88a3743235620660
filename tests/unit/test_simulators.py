"""What users declare: functions, sequences and mappings of them, contexts, and what functions are given."""

import functools
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dasksim
from dasksim import LambdaSimulator, SequentialSimulator, make_simulator


def foo() -> dict[str, Any]:
    return {"a": 5.0}


def bar(a: Any) -> dict[str, Any]:
    return {"b": 2 * a}


def prior(rng: Any) -> dict[str, Any]:
    return {"loc": rng.normal(), "scale": rng.uniform(1, 2)}


def likelihood(loc: Any, scale: Any, rng: Any) -> dict[str, Any]:
    return {"x": rng.normal(loc, scale, size=3)}


class Shift:
    """A callable object with a bound method to match."""

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, a: Any) -> dict[str, Any]:
        return {"b": a + self.by}

    def twice(self, a: Any) -> dict[str, Any]:
        return {"b": a + 2 * self.by}


# The shapes of the contract


def test_scalars_of_a_sequence_have_a_trailing_axis() -> None:
    dataset = make_simulator([foo, bar]).sample(2).compute()

    assert dataset.a.shape == dataset.b.shape == (2, 1)
    assert (dataset.a == 5.0).all()
    assert (dataset.b == 10.0).all()


def test_without_expand_outputs_scalars_have_the_batch_axis_alone() -> None:
    dataset = make_simulator([foo, bar], expand_outputs=False).sample(2)

    assert dataset.a.dims == dataset.b.dims == ("batch",)


def test_a_prior_and_a_likelihood() -> None:
    dataset = make_simulator([prior, likelihood]).sample(2)

    assert {name: array.shape for name, array in dataset.items()} == {"loc": (2, 1), "scale": (2, 1), "x": (2, 3)}
    assert dataset.x.dims == ("batch", "x_dim_0")


def test_an_unbatched_function_is_called_once_a_sample_and_for_its_probe() -> None:
    calls: Counter[str] = Counter()

    def function(rng: Any) -> dict[str, Any]:
        calls["function"] += 1
        return {"x": rng.normal()}

    dataset = LambdaSimulator(function).sample(2)
    n_probes = calls["function"]
    dataset.compute()

    assert dataset.x.shape == (2,)
    assert n_probes <= 2
    assert calls["function"] == n_probes + 2


def test_a_batched_function_is_called_once_for_the_data() -> None:
    shapes: list[tuple[int, ...]] = []

    def function(batch_shape: tuple[int, ...], rng: Any) -> dict[str, Any]:
        shapes.append(batch_shape)
        return {"x": rng.normal(size=batch_shape)}

    dataset = LambdaSimulator(function, is_batched=True).sample(500)
    n_probes = len(shapes)
    dataset.compute()

    assert dataset.x.shape == (500,)
    assert shapes[n_probes:] == [(500,)]


def test_a_second_call_probes_no_more() -> None:
    calls: Counter[str] = Counter()

    def function(rng: Any) -> dict[str, Any]:
        calls["function"] += 1
        return {"x": rng.normal()}

    simulator = make_simulator(function)
    simulator.sample(2)
    n_probes = calls["function"]
    simulator.sample(1000, seed=3, sub_batch_size=10)

    assert calls["function"] == n_probes > 0


def test_with_a_declared_schema_nothing_is_probed() -> None:
    calls: Counter[str] = Counter()

    def function(rng: Any) -> dict[str, Any]:
        calls["function"] += 1
        return {"x": rng.normal(size=3)}

    dataset = make_simulator(function, schema={"x": ((3,), "float64")}).sample(4)
    assert calls["function"] == 0

    assert dataset.compute().x.shape == (4, 3)
    assert calls["function"] == 4


# What a simulator can be made of


@pytest.mark.parametrize(
    ("obj", "name", "b"),
    [
        (bar, "bar", 10.0),
        (lambda a: {"b": 2 * a}, "<lambda>", 10.0),
        (functools.partial(lambda k, a: {"b": k * a}, 3), "<lambda>", 15.0),
        (functools.partial(Shift(1.0).twice), "twice", 7.0),
        (Shift(1.0), "Shift", 6.0),
        (Shift(1.0).twice, "twice", 7.0),
        (make_simulator(bar), "bar", 10.0),
        ([bar], "bar", 10.0),
        ((bar,), "bar", 10.0),
        ({"second": bar}, "second", 10.0),
    ],
)
def test_any_callable_is_a_stage(obj: Any, name: str, b: float) -> None:
    """B11: partials, callable objects and bound methods were rejected."""
    simulator = make_simulator(obj)

    assert [stage.name for stage in simulator.lower().stages] == [name]
    assert (simulator.sample(3, a=5.0).b == b).all()


def test_a_builtin_with_a_readable_signature_is_a_stage() -> None:
    dataset = make_simulator(functools.partial(dict.fromkeys, ("b", "c"), 3.0)).sample(3)

    assert (dataset.b == 3).all()
    assert (dataset.c == 3).all()


def test_a_mapping_names_its_stages() -> None:
    simulator = make_simulator({"prior": foo, "model": bar})

    assert isinstance(simulator, SequentialSimulator)
    assert [stage.name for stage in simulator.lower().stages] == ["prior", "model"]
    assert (simulator.sample(3).b == 10).all()


def test_a_simulator_within_a_simulator_has_a_path() -> None:
    inner = make_simulator(
        {"loc": lambda rng: {"loc": rng.normal()}, "scale": lambda rng: {"scale": rng.uniform(1, 2)}}
    )
    simulator = make_simulator({"prior": inner, "likelihood": likelihood})
    dataset = simulator.sample(2, seed=1)

    assert [stage.name for stage in simulator.lower().stages] == ["prior/loc", "prior/scale", "likelihood"]
    assert {name: array.shape for name, array in dataset.items()} == {"loc": (2, 1), "scale": (2, 1), "x": (2, 3)}


def test_stages_of_one_name_are_numbered_and_draw_differently() -> None:
    def draw(name: str, rng: Any) -> dict[str, Any]:
        return {name: rng.normal()}

    simulator = make_simulator([functools.partial(draw, name) for name in "abc"])
    dataset = simulator.sample(4, seed=1).compute()

    assert [stage.name for stage in simulator.lower().stages] == ["draw", "draw_2", "draw_3"]
    assert len(np.unique([dataset.a, dataset.b, dataset.c])) == 12


def test_a_stage_s_draws_belong_to_its_name() -> None:
    def other(rng: Any) -> dict[str, Any]:
        return {"z": rng.normal()}

    alone = make_simulator({"prior": prior}).sample(4, seed=1).compute()
    among = make_simulator({"other": other, "prior": prior}).sample(4, seed=1).compute()
    renamed = make_simulator({"prior_b": prior}).sample(4, seed=1).compute()

    assert among[["loc", "scale"]].drop_attrs().equals(alone.drop_attrs())
    assert not (renamed["loc"] == alone["loc"]).any()


# obj_kwargs


def batched(batch_shape: tuple[int, ...], rng: Any) -> dict[str, Any]:
    return {"u": rng.normal(size=batch_shape)}


def batched_too(batch_shape: tuple[int, ...], u: Any) -> dict[str, Any]:
    assert u.shape == batch_shape
    return {"w": u + 1}


@pytest.mark.parametrize("options", [{"obj_kwargs": {"is_batched": True}}, {"is_batched": True}])
@pytest.mark.parametrize("obj", [[batched, batched_too], {"first": batched, "second": batched_too}])
def test_one_mapping_of_obj_kwargs_is_for_all(obj: Any, options: dict[str, Any]) -> None:
    """B9: only the first function got its keyword arguments."""
    simulator = make_simulator(obj, **options)

    assert [stage.is_batched for stage in simulator.lower().stages] == [True, True]
    dataset = simulator.sample(5).compute()
    assert (dataset.w == dataset.u.values + 1).all()


@pytest.mark.parametrize(
    ("obj", "obj_kwargs"),
    [
        ([prior, batched], [None, {"is_batched": True}]),
        ({"p": prior, "b": batched}, [{}, {"is_batched": True}]),
        ({"p": prior, "b": batched}, {"b": {"is_batched": True}}),
        ({"p": prior, "b": batched}, {"p": None, "b": {"is_batched": True}}),
    ],
)
def test_obj_kwargs_of_one_function_alone(obj: Any, obj_kwargs: Any) -> None:
    """B9: where only the second was given any, it was run unbatched."""
    simulator = make_simulator(obj, obj_kwargs=obj_kwargs)

    assert [stage.is_batched for stage in simulator.lower().stages] == [False, True]
    assert simulator.sample(5).u.shape == (5, 1)


def test_obj_kwargs_go_before_is_batched() -> None:
    simulator = make_simulator([batched, prior], is_batched=True, obj_kwargs=[None, {"is_batched": False}])

    assert [stage.is_batched for stage in simulator.lower().stages] == [True, False]


# meta_fn


def count() -> dict[str, Any]:
    return {"count": 3}


def random_count(rng: Any) -> dict[str, Any]:
    return {"count": int(rng.integers(1, 100))}


def use_count(count: int) -> dict[str, Any]:
    return {"total": float(sum(range(count)))}


@pytest.mark.parametrize("meta_fn", [count, random_count, lambda: {"count": 7}, functools.partial(count)])
@pytest.mark.parametrize("obj", [use_count, [use_count], {"use": use_count}, make_simulator(use_count)])
def test_a_context_is_made_once_a_sub_batch_whatever_the_form(obj: Any, meta_fn: Any) -> None:
    """B10: a mapping with a meta_fn of no arguments failed."""
    dataset = make_simulator(obj, meta_fn=meta_fn).sample(12, seed=1, sub_batch_size=4).compute()
    counts = dataset["count"].values

    assert dataset["count"].dims == ("batch",)
    assert all(len(set(counts[i : i + 4])) == 1 for i in (0, 4, 8))
    np.testing.assert_array_equal(dataset.total.values.ravel(), counts * (counts - 1) / 2)


def test_a_context_differs_between_sub_batches() -> None:
    dataset = make_simulator([use_count], meta_fn=random_count).sample(12, seed=1, sub_batch_size=4)

    assert len(np.unique(dataset["count"])) == 3


def test_functions_are_given_a_context_as_it_was_returned() -> None:
    kinds: set[type] = set()

    def stage(count: Any, level: Any) -> dict[str, Any]:
        kinds.update({type(count), type(level)})
        return {"total": float(sum(range(count))) * level}

    make_simulator([stage], meta_fn=lambda: {"count": 4, "level": 0.5}).sample(8).compute()

    assert kinds == {int, float}


def test_a_context_is_given_whole_to_a_batched_function() -> None:
    def stage(batch_shape: tuple[int, ...], grid: Any, rng: Any) -> dict[str, Any]:
        assert grid.shape == (3,)
        return {"x": grid + rng.normal(size=(*batch_shape, 1))}

    simulator = make_simulator([stage], meta_fn=lambda rng: {"grid": rng.uniform(size=3)}, is_batched=True)
    dataset = simulator.sample(8, seed=1, sub_batch_size=4).compute()

    assert dataset.grid.shape == (8, 3)
    np.testing.assert_allclose(np.diff(dataset.x, axis=1), np.diff(dataset.grid, axis=1))


# Batch shapes


@pytest.mark.parametrize("is_batched", [False, True])
def test_a_batch_shape_of_two_axes(is_batched: bool) -> None:
    def rows(rng: Any) -> dict[str, Any]:
        return {"x": rng.normal(size=3)}

    def batches(batch_shape: tuple[int, ...], rng: Any) -> dict[str, Any]:
        assert len(batch_shape) == 2
        return {"x": rng.normal(size=(*batch_shape, 3))}

    simulator = make_simulator(batches if is_batched else rows, is_batched=is_batched)
    dataset = simulator.sample((5, 2), seed=1, sub_batch_size=2).compute()

    assert dataset.x.dims == ("batch", "batch_1", "x_dim_0")
    assert dataset.x.shape == (5, 2, 3)
    assert len(np.unique(dataset.x)) == 30


# What functions are given


def test_an_unbatched_function_is_given_a_seed_of_its_own_for_each_row() -> None:
    dataset = make_simulator(lambda seed: {"s": seed}).sample(1000, seed=1, sub_batch_size=10).compute()

    assert dataset.s.dtype == "int64"
    assert (dataset.s >= 0).all()
    assert len(np.unique(dataset.s)) == 1000


def test_a_batched_function_is_given_one_seed_a_sub_batch() -> None:
    def stage(batch_shape: tuple[int, ...], seed: int) -> dict[str, Any]:
        return {"s": np.full(batch_shape, seed)}

    dataset = make_simulator(stage, is_batched=True).sample(100, seed=1, sub_batch_size=10)

    assert len(np.unique(dataset.s)) == 10


def test_functions_are_given_the_array_namespace() -> None:
    dataset = make_simulator(lambda xp: {"is_numpy": xp is np}).sample(3)

    assert dataset.is_numpy.all()


def test_a_function_of_any_arguments_is_given_all_that_is_known() -> None:
    seen: list[dict[str, Any]] = []

    def last(**values: Any) -> dict[str, Any]:
        seen.append(values)
        return {"b": 1.0}

    make_simulator([foo, last], meta_fn=count).sample(2, extra=3).compute()

    assert seen[-1] == {"a": 5.0, "count": 3, "extra": 3}


def test_variables_go_before_default_arguments() -> None:
    def stage(a: float = 1.0, offset: float = 0.5) -> dict[str, Any]:
        return {"b": a + offset}

    assert (make_simulator(stage).sample(2).b == 1.5).all()
    assert (make_simulator([foo, stage]).sample(2).b == 5.5).all()
    assert (make_simulator([foo, stage]).sample(2, offset=2).b == 7).all()


def test_parameters_by_position_and_by_keyword_alone() -> None:
    def by_position(a: Any, /, rng: Any) -> dict[str, Any]:
        return {"b": a + 0 * rng.normal()}

    def by_keyword(*, b: Any, a: Any = 0.0) -> dict[str, Any]:
        return {"c": 10 * b + a}

    def after_default(missing: float = 1.0, /, *rest: Any, c: Any) -> dict[str, Any]:
        return {"d": c + missing + len(rest)}

    dataset = make_simulator([foo, by_position, by_keyword, after_default]).sample(2)

    assert (dataset.b == 5).all()
    assert (dataset.c == 55).all()
    assert (dataset.d == 56).all()


def test_the_first_argument_of_a_batched_function_may_have_any_name() -> None:
    def stage(shape: tuple[int, ...], rng: Any) -> dict[str, Any]:
        return {"u": rng.normal(size=shape)}

    assert make_simulator(stage, is_batched=True).sample(5).compute().u.shape == (5,)


def test_python_scalars_stay_python_scalars_for_later_functions() -> None:
    kinds: set[type] = set()

    def first(rng: Any) -> dict[str, Any]:
        return {"n": int(rng.integers(1, 9)), "y": math.sin(1.0), "flag": True, "z": np.float32(2)}

    def second(n: Any, y: Any, flag: Any, z: Any) -> dict[str, Any]:
        kinds.update(map(type, (n, y, flag, z)))
        return {"total": float(sum(range(n)))}

    make_simulator([first, second]).sample(50).compute()

    assert kinds == {int, float, bool, np.float32}


@pytest.mark.parametrize("is_declared", [False, True])
@pytest.mark.parametrize("is_batched", [False, True])
@pytest.mark.parametrize("kind", ["variable", "condition", "context"])
def test_what_a_function_is_given_is_read_only(kind: str, is_batched: bool, is_declared: bool) -> None:
    def changes(v: Any) -> dict[str, Any]:
        v += 1
        return {"w": v}

    options: dict[str, Any] = {"is_batched": is_batched, **({"schema": {"w": ((3,), float)}} if is_declared else {})}
    stage = LambdaSimulator(changes, **options)
    conditions: dict[str, Any] = {}
    if kind == "variable":
        simulator = make_simulator([lambda rng: {"v": rng.normal(size=3)}, stage])
    elif kind == "context":
        simulator = make_simulator([stage], meta_fn=lambda: {"v": np.zeros(3)})
    else:
        simulator, conditions = make_simulator([stage]), {"v": np.zeros((4, 3))}

    with pytest.raises(ValueError, match=r"read-only") as caught:
        simulator.sample(4, **conditions).compute()
    assert (
        "what a function is given is read-only, since others see it too; change a copy of it" in caught.value.__notes__
    )


# What is shown


def test_a_simulator_shows_its_stages() -> None:
    simulator = make_simulator([prior, batched, lambda **values: {"y": 1.0}], count, [None, {"is_batched": True}, None])

    assert repr(simulator) == (
        "<dasksim.SequentialSimulator>\n"
        "  count()  once for each sub-batch, for all its samples\n"
        "  prior(rng)  once for each sample\n"
        "  batched(batch_shape, rng)  once for each sub-batch\n"
        "  <lambda>(**kwargs)  once for each sample"
    )


def cells(text: str) -> list[list[str]]:
    """Return the cells of the rows of tables in HTML."""
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(<td.*?)</tr>", text)]


def test_notebooks_show_a_table_with_names_escaped() -> None:
    text = make_simulator([prior, lambda loc: {"y": loc}])._repr_html_()

    assert ">dasksim.SequentialSimulator</caption>" in text
    assert ["prior", "rng", "once for each sample"] in cells(text)
    assert ["&lt;lambda&gt;", "loc", "once for each sample"] in cells(text)


def test_variables_of_a_sample_are_told_and_shown_once_they_are_known() -> None:
    simulator = make_simulator(
        [lambda rng: {"theta": rng.normal()}, lambda theta, rng: {"path": theta + rng.normal(size=(3, 2))}],
        dims={"path": ["time", "axis"]},
    )
    assert "a sample, as" not in repr(simulator), "to know it, the functions would have to be called"

    variables = simulator.variables

    assert variables["theta"] == (("scalar",), (1,), np.dtype("float64"))
    assert variables["path"].dims == ("time", "axis")
    ds = simulator.sample(5, seed=1)
    assert {name: (v.dims, v.shape) for name, v in variables.items()} == {
        name: (v.dims[1:], v.shape[1:]) for name, v in ds.items()
    }
    assert repr(simulator).endswith(
        "a sample, as last simulated:\n  theta  (scalar: 1) float64\n  path   (time: 3, axis: 2) float64"
    )
    assert ["path", "time, axis", "(3, 2)", "float64"] in cells(simulator._repr_html_())


def test_variables_that_need_a_condition_are_told_after_one_was_given() -> None:
    simulator = make_simulator(lambda theta: {"x": theta + 1})
    with pytest.raises(dasksim.SimulatorError, match="theta"):
        _ = simulator.variables
    simulator.sample(3, seed=1, theta=2.0)
    assert repr(simulator).endswith("a sample, as last simulated:\n  x      () float64\n  theta  () float64")


def test_simulators_without_what_the_class_sets_are_shown() -> None:
    class Own(dasksim.Simulator):
        def __init__(self) -> None:
            pass  # does not call that of Simulator

        def lower(self, path: str = "") -> Any:
            return make_simulator(prior).lower(path)

    assert repr(Own()) == "<dasksim.Own>\n  prior(rng)  once for each sample"
    simulator = make_simulator([prior])
    simulator.sample((4, 2), seed=1)
    assert "as last simulated" not in repr(simulator), "batch_1 is no dim of a sample"


def test_stages_within_others_are_shown_and_drawn() -> None:
    comparison = dasksim.ModelComparisonSimulator(
        {"one": lambda rng: {"x": rng.normal()}, "two": lambda rng: {"x": rng.uniform()}}
    )
    shown = repr(comparison)

    assert [line.strip().partition("(")[0] for line in shown.splitlines()[1:]] == [
        "choice",
        "one",
        "one/<lambda>",
        "two",
        "two/<lambda>",
        "merge",
    ]
    assert "merge" in [row[0].strip() for row in cells(comparison._repr_html_())]
    pytest.importorskip("graphviz")
    source = comparison.visualize().source
    assert "merge" in source
    assert source.count("->") == 5


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("draws", ["own", "global"])
def test_a_function_may_sample_another_simulator(draws: str, scheduler: str, tmp_path: Path) -> None:
    """Its tasks waited in threads for the lock that the thread held which waited for them."""
    inner = make_simulator({"inner": lambda rng: {"a": rng.normal()}})

    def outer(rng: np.random.Generator, seed: int) -> dict[str, Any]:
        x = rng.normal() if draws == "own" else np.random.normal()
        sampled = inner.sample(4, seed=seed % 1000, sub_batch_size=2, chunk_size=2)
        stored = dasksim.generate(inner, tmp_path / "inner.zarr", 4, seed=seed % 1000, overwrite=True, progress=False)
        assert np.array_equal(sampled.a.values, stored.a.values)
        return {"x": x, "a": sampled.a.values[:, 0]}

    simulator = make_simulator(outer)
    found = simulator.sample(4, seed=1, sub_batch_size=2, chunk_size=4).compute(scheduler=scheduler)
    assert len(np.unique(found.a)) == 16
    assert found.equals(simulator.sample(4, seed=1, sub_batch_size=2, chunk_size=4).compute(scheduler="synchronous"))


def test_advice_to_run_a_sample_alone_makes_no_more_samples_than_were_asked_for() -> None:
    calls = []

    def late(rng: np.random.Generator) -> dict[str, Any]:
        calls.append(1)
        if len(calls) > 5:  # two by the probe
            raise ValueError("tired")
        return {"x": rng.normal()}

    with pytest.raises(ValueError, match="tired") as found:
        make_simulator(late).sample(4, seed=1).compute(scheduler="synchronous")
    assert "simulator.sample(4, seed=1, " in found.value.__notes__[-1]
    assert ".isel(batch=slice(0, 4))" in found.value.__notes__[-1]

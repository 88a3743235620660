"""Functions that return again what they returned before, changed: it is copied in time."""

import array
import collections
import copy
import functools
import itertools
import os
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import bits

from dasksim import (
    ModelComparisonSimulator,
    RejectionSimulator,
    Simulator,
    derive,
    generate,
    make_simulator,
    replay,
    verify,
)
from dasksim._engine.functions import FunctionStage

Function = Callable[..., Any]
Rng = np.random.Generator


class Wrapped:
    """Something that only becomes an array, as a tensor does."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.values


def into_buffer() -> Function:
    out = np.zeros(5)

    def simulate(rng: Rng) -> Any:
        out[:] = rng.normal(size=5)
        return {"x": out}

    return simulate


def into_view() -> Function:
    out = np.zeros(6)

    def simulate(rng: Rng) -> Any:
        out[:] = rng.normal(size=6)
        return {"x": out[1:]}

    return simulate


def into_read_only_view() -> Function:
    out = np.zeros(5)
    view = out.view()
    view.flags.writeable = False

    def simulate(rng: Rng) -> Any:
        out[:] = rng.normal(size=5)
        return {"x": view[:]}

    return simulate


def into_two_buffers_in_turn() -> Function:
    buffers = itertools.cycle([np.zeros(5), np.zeros(5)])

    def simulate(rng: Rng) -> Any:
        out = next(buffers)
        out[:] = rng.normal(size=5)
        return {"x": out}

    return simulate


def into_attribute() -> Function:
    class Model:
        def __init__(self) -> None:
            self.state = np.zeros(5)

        def __call__(self, rng: Rng) -> Any:
            self.state[:] = rng.normal(size=5)
            return {"x": self.state}

    return Model()


def into_buffer_from_the_thirtieth_call_on() -> Function:
    calls, out = itertools.count(), np.zeros(5)

    def simulate(rng: Rng) -> Any:
        drawn = rng.normal(size=5)
        if next(calls) < 30:
            return {"x": drawn}
        out[:] = drawn
        return {"x": out}

    return simulate


def into_scalar_array() -> Function:
    out = np.zeros(())

    def simulate(rng: Rng) -> Any:
        out[...] = rng.normal()
        return {"x": out}

    return simulate


def into_dict() -> Function:
    made: dict[str, Any] = {}

    def simulate(rng: Rng) -> Any:
        made["x"] = rng.normal()
        return made

    return simulate


def into_dict_behind_a_proxy() -> Function:
    made: dict[str, Any] = {}

    def simulate(rng: Rng) -> Any:
        made["x"] = rng.normal()
        return types.MappingProxyType(made)

    return simulate


def into_list() -> Function:
    values = [0.0, 0.0]

    def simulate(rng: Rng) -> Any:
        values[:] = [rng.normal(), rng.normal()]
        return {"x": values}

    return simulate


def into_array_in_a_new_list() -> Function:
    out = np.zeros(3)

    def simulate(rng: Rng) -> Any:
        out[:] = rng.normal(size=3)
        return {"x": [out, rng.normal(size=3)]}

    return simulate


def into_memoryview() -> Function:
    out = np.zeros(5)

    def simulate(rng: Rng) -> Any:
        out[:] = rng.normal(size=5)
        return {"x": out.data}

    return simulate


def into_python_array() -> Function:
    out = array.array("d", [0.0, 0.0])

    def simulate(rng: Rng) -> Any:
        out[0], out[1] = rng.normal(), rng.normal()
        return {"x": out}

    return simulate


def into_tensor() -> Function:
    out = np.zeros(5)

    def simulate(rng: Rng) -> Any:
        out[:] = rng.normal(size=5)
        return {"x": Wrapped(out)}

    return simulate


def into_foreign_memory() -> Function:
    memory = bytearray(40)

    def simulate(rng: Rng) -> Any:
        out = np.frombuffer(memory)
        out[:] = rng.normal(size=5)
        return {"x": out}

    return simulate


REUSING = [
    into_buffer,
    into_view,
    into_read_only_view,
    into_two_buffers_in_turn,
    into_attribute,
    into_buffer_from_the_thirtieth_call_on,
    into_scalar_array,
    into_dict,
    into_dict_behind_a_proxy,
    into_list,
    into_array_in_a_new_list,
    into_memoryview,
    into_python_array,
    into_tensor,
    into_foreign_memory,
]


def copying(function: Function) -> Function:
    """Return a function of the same name that returns a copy each time."""

    def simulate(rng: Rng) -> Any:
        return {name: np.array(value) for name, value in function(rng).items()}

    class Model:  # the name of a callable object's stage
        def __call__(self, rng: Rng) -> Any:
            return simulate(rng)

    return simulate if hasattr(function, "__name__") else Model()


def only_stage(simulator: Simulator, **options: Any) -> FunctionStage:
    pipeline, _ = simulator.plan((4,), seed=1, sub_batch_size=None, chunk_size=None, conditions={}, **options)
    stage = pipeline.steps[0].stage
    assert isinstance(stage, FunctionStage)
    return stage


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("make", REUSING, ids=lambda make: make.__name__)
def test_each_row_is_what_the_function_returned_for_it(make: Callable[[], Function], scheduler: str) -> None:
    options: dict[str, Any] = {"seed": 1, "sub_batch_size": 20, "chunk_size": 40}
    expected = make_simulator(copying(make())).sample(100, **options).compute(scheduler="synchronous")
    found = make_simulator(make()).sample(100, **options).compute(scheduler=scheduler)
    assert bits(found) == bits(expected)
    assert len(np.unique(found.x, axis=0)) == 100


def into_batched_buffer() -> Function:
    buffers: dict[Any, Any] = {}

    def simulate(batch_shape: Any, rng: Rng) -> Any:
        out = buffers.setdefault(batch_shape, np.zeros(batch_shape))
        rng.standard_normal(out=out)
        time.sleep(0.001)  # in which another thread writes to it
        return {"x": out}

    return simulate


def into_view_of_batched_buffer() -> Function:
    out = np.zeros((100, 2))

    def simulate(batch_shape: Any, rng: Rng) -> Any:
        out[: batch_shape[0]] = rng.standard_normal((*batch_shape, 2))
        time.sleep(0.001)
        return {"x": out[: batch_shape[0], 1]}

    return simulate


@pytest.mark.parametrize("schema", [None, {"x": ((), "float64")}], ids=["probed", "declared"])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("make", [into_batched_buffer, into_view_of_batched_buffer], ids=lambda make: make.__name__)
def test_each_sub_batch_is_what_the_function_returned_for_it(
    make: Callable[[], Function], scheduler: str, schema: Any
) -> None:
    simulator = make_simulator(make(), is_batched=True, schema=schema)
    dataset = simulator.sample(400, seed=1, sub_batch_size=10, chunk_size=20)
    found = dataset.compute(scheduler=scheduler, num_workers=4)
    assert len(np.unique(found.x)) == 400
    alone = [simulator.sample(400, seed=1, sub_batch_size=10, chunk_size=10).x[i : i + 10] for i in range(0, 400, 50)]
    for i, part in enumerate(alone):
        assert np.array_equal(found.x[50 * i : 50 * i + 10], part.compute(scheduler="synchronous"))


def test_buffer_that_two_stages_share_holds_what_each_returned() -> None:
    out = np.zeros(10)

    def prior(batch_shape: Any, rng: Rng) -> Any:
        out[:] = rng.normal(size=10)
        return {"a": out}

    def likelihood(batch_shape: Any, a: Any) -> Any:
        return {"b": np.add(a, 1.0, out=out)}

    schemas = [{"schema": {name: ((), "float64")}} for name in "ab"]
    simulator = make_simulator([prior, likelihood], None, schemas, expand_outputs=False, is_batched=True)
    found = simulator.sample(100, seed=1, sub_batch_size=10).compute(scheduler="synchronous")
    assert np.array_equal(found.b, found.a + 1)
    assert len(np.unique(found.a)) == 100


def test_context_of_a_buffer_is_that_of_its_sub_batch() -> None:
    out = np.zeros(3)

    def meta(rng: Rng) -> Any:
        out[:] = rng.normal(size=3)
        return {"t": out}

    simulator = make_simulator(lambda t, rng: {"s": t.sum()}, meta_fn=meta)
    found = simulator.sample(100, seed=1, sub_batch_size=10, chunk_size=100).compute(scheduler="synchronous")
    assert len(np.unique(found.t, axis=0)) == 10
    assert np.allclose(found.t.sum("t_dim_0"), found.s)


@pytest.mark.parametrize("is_batched", [False, True])
def test_filters_and_their_predicates_may_return_buffers(is_batched: bool) -> None:
    accepted: dict[int, Any] = {}
    out = np.zeros(1000)

    def simulate(rng: Rng, batch_shape: Any = (1,)) -> Any:
        drawn = out[: batch_shape[0]] if is_batched else out[0:1].reshape(())
        drawn[...] = rng.normal(size=drawn.shape)
        return {"x": drawn}

    def positive(x: Any) -> Any:
        return np.greater(x, 0, out=accepted.setdefault(len(x), np.zeros(len(x), bool)))

    simulator = RejectionSimulator(make_simulator(simulate, is_batched=is_batched), positive, sample_size=7)
    found = simulator.sample(100, seed=1, sub_batch_size=20).compute(scheduler="synchronous")
    assert len(np.unique(found.x)) == 100
    assert (found.x > 0).all()


def test_models_may_return_buffers() -> None:
    models = {"first": into_buffer(), "second": into_view()}
    found = ModelComparisonSimulator(models).sample(100, seed=1, sub_batch_size=20).compute(scheduler="synchronous")
    assert len(np.unique(found.x, axis=0)) == 100


@pytest.mark.usefixtures("one_process")
def test_a_store_holds_what_a_function_that_reuses_memory_returned(tmp_path: Path) -> None:
    """Those that are drawn again, in processes, extended, derived, replayed and simulated again too."""
    out = np.zeros(2)

    def simulate(rng: Rng) -> Any:
        out[:] = rng.normal(size=2)
        if out[0] > 1.5:
            raise ValueError("too large")
        return {"x": out}

    def mean(x: Any) -> Any:
        np.multiply(x, 0.5, out=out)
        return {"half": out}

    simulator, path = make_simulator(simulate), tmp_path / "s.zarr"
    options: dict[str, Any] = {"seed": 1, "sub_batch_size": 10, "chunk_size": 50}
    stored = generate(simulator, path, 200, on_error="redraw", scheduler="processes", progress=False, **options)
    assert len(np.unique(stored.x, axis=0)) == 200
    for scheduler in ("synchronous", "threads"):
        other = tmp_path / f"{scheduler}.zarr"
        again = generate(simulator, other, 200, on_error="redraw", scheduler=scheduler, progress=False, **options)
        assert bits(again) == bits(stored)
    derived = derive(path, mean, scheduler="synchronous", progress=False)
    assert np.array_equal(derived.half, derived.x.values / 2)
    assert replay(path, simulator, 123).is_stored
    assert verify(path, simulator, resimulate=4, progress=False).is_good


def test_failures_are_counted_once_and_leave_others_draws_where_reuse_is_found_late() -> None:
    """The rows are called again, those that failed too: draws of later ones follow on theirs."""

    def made(reuses: bool) -> Any:
        out, calls = np.zeros(()), itertools.count()

        def simulate(rng: Rng) -> Any:
            drawn = rng.normal()
            if drawn > 1:
                raise ValueError("too large")
            if not reuses or next(calls) < 5:
                return {"x": np.array(drawn)}
            out[...] = drawn
            return {"x": out}

        return simulate

    options: dict[str, Any] = {"seed": 1, "sub_batch_size": 50, "on_error": "mask", "scheduler": "synchronous"}
    stores = [generate(make_simulator(made(reuses)), f"memory://{reuses}", 50, **options) for reuses in (False, True)]
    assert bits(stores[0]) == bits(stores[1])


def test_the_probe_sees_values_that_no_seed_reaches_in_a_buffer() -> None:
    out = np.zeros(8, np.uint8)

    def simulate() -> Any:
        out[:] = np.frombuffer(os.urandom(8), np.uint8)
        return {"x": out}

    with pytest.warns(UserWarning, match="returned different values for one and the same seed"):
        make_simulator(simulate).sample(3, seed=1)


def both_columns(rng: Rng) -> Any:
    track = rng.normal(size=(5, 2))
    return {"s": track[:, 0], "i": track[:, 1], "all": track, "n": 3}


CONSTANT = np.arange(5.0)
CONSTANT.flags.writeable = False

NEW: list[Function] = [
    lambda rng: {"x": rng.normal(size=5)},
    lambda rng: {"x": rng.normal()},
    lambda rng: {"x": np.float32(rng.normal()), "n": 3},
    lambda rng: {"x": rng.normal(size=(5, 2))[::2]},
    lambda rng: {"x": rng.normal(size=(5, 2)).T},
    lambda rng: {"x": [rng.normal(), 1.0]},
    lambda rng: {"x": [rng.normal(size=2), rng.normal(size=2)]},
    lambda rng: {"x": (rng.normal(), 1.0)},
    lambda rng: {"x": CONSTANT[1:]},
    lambda rng: collections.OrderedDict(x=rng.normal(size=3)),
    both_columns,
]


@pytest.mark.parametrize("function", NEW)
def test_what_is_new_is_not_copied(function: Function) -> None:
    assert not only_stage(make_simulator(function)).keeps_outputs


def test_new_arrays_of_a_whole_sub_batch_are_not_copied() -> None:
    def simulate(batch_shape: Any, rng: Rng) -> Any:
        track = rng.normal(size=(*batch_shape, 5, 2))
        return {"s": track[..., 0], "i": track[..., 1], "all": track, "t": rng.normal(size=batch_shape)}

    assert not only_stage(make_simulator(simulate, is_batched=True)).keeps_outputs


def test_inputs_that_are_returned_are_not_copied() -> None:
    def given(batch_shape: Any, rng: Rng) -> Any:
        return {"x": rng.normal(size=(*batch_shape, 3))}

    def passed_on(batch_shape: Any, x: Any) -> Any:
        return {"y": x, "first": x[:, 0]}

    simulator = make_simulator([given, passed_on], is_batched=True)
    pipeline, _ = simulator.plan((4,), seed=1, sub_batch_size=None, chunk_size=None, conditions={})
    assert [s.stage.keeps_outputs for s in pipeline.steps if isinstance(s.stage, FunctionStage)] == [False, False]


def test_what_a_function_may_not_change_is_kept_as_it_is() -> None:
    made = np.arange(3.0)

    @functools.cache
    def grid() -> Any:
        return copy.copy(made)

    simulator = make_simulator(lambda rng: {"t": grid(), "x": rng.normal()})
    found = simulator.sample(10, seed=1).compute(scheduler="synchronous")
    assert np.array_equal(found.t, np.tile(made, (10, 1)))

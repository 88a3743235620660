"""Conditions: variables that the caller gives instead of having them simulated."""

import re
from collections import Counter
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from dasksim import ArgumentError, ArgumentTypeError, Simulator, SimulatorError, make_simulator

N = 16


class Model:
    """A prior of two scalars and a likelihood, which count their calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def prior(self, rng: Any) -> dict[str, Any]:
        self.calls["prior"] += 1
        return {"mu": rng.normal(), "sigma": rng.uniform(1, 2)}

    def likelihood(self, mu: Any, sigma: Any, rng: Any) -> dict[str, Any]:
        self.calls["likelihood"] += 1
        return {"x": rng.normal(mu, sigma, size=3)}

    def simulator(self, **options: Any) -> Simulator:
        return make_simulator([self.prior, self.likelihood], **options)

    def calls_to_compute(self, dataset: xr.Dataset) -> dict[str, int]:
        self.calls.clear()
        dataset.compute()
        return dict(self.calls)


@pytest.fixture
def model() -> Model:
    return Model()


def vector(rng: Any) -> dict[str, Any]:
    return {"v": rng.normal(size=3)}


def total(v: Any) -> dict[str, Any]:
    return {"total": v.sum()}


VECTOR = make_simulator([vector, total])


def matrix(rng: Any) -> dict[str, Any]:
    return {"m": rng.normal(size=(3, 3))}


MATRIX = make_simulator(matrix, dims={"m": ["row", "column"]})


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


# What a condition replaces


def test_later_stages_see_a_condition(model: Model) -> None:
    dataset = model.simulator().sample(N, seed=1, mu=100).compute()

    assert (dataset.mu == 100).all()
    assert abs(dataset.x - 100).max() < 10


def test_a_condition_changes_no_other_stage_s_draws(model: Model) -> None:
    free = model.simulator().sample(N, seed=1).compute()
    given = model.simulator().sample(N, seed=1, mu=free.mu.values).compute()

    assert given.equals(free)


def test_a_stage_whose_outputs_are_all_given_does_not_run(model: Model) -> None:
    """B17: a conditioned stage was still executed."""
    dataset = model.simulator().sample(N, seed=1, mu=100, sigma=np.full(N, 2.0))

    assert model.calls_to_compute(dataset) == {"likelihood": N}


def test_a_stage_whose_outputs_are_given_in_part_runs_for_the_others(model: Model) -> None:
    free = model.simulator().sample(N, seed=1).compute()
    dataset = model.simulator().sample(N, seed=1, mu=100)

    assert model.calls_to_compute(dataset) == {"prior": N, "likelihood": N}
    assert (dataset.mu == 100).all()
    assert dataset.sigma.equals(free.sigma)


def test_a_given_variable_alone_runs_nothing(model: Model) -> None:
    dataset = model.simulator().sample(N, seed=1, mu=np.arange(N))

    assert model.calls_to_compute(dataset[["mu"]]) == {}


def test_no_later_stage_overrides_a_condition() -> None:
    """B17: a later stage that wrote the variable un-conditioned it."""

    def user(theta: Any) -> dict[str, Any]:
        return {"seen": theta}

    def writer(rng: Any) -> dict[str, Any]:
        return {"theta": rng.normal()}

    def last(theta: Any) -> dict[str, Any]:
        return {"seen_last": theta}

    dataset = make_simulator([user, writer, last]).sample(4, theta=9.0).compute()

    assert (dataset.theta == 9).all()
    assert (dataset.seen == 9).all()
    assert (dataset.seen_last == 9).all()


def test_with_replace_inputs_off_a_condition_feeds_only_the_stages_before_its_own() -> None:
    def user(theta: Any) -> dict[str, Any]:
        return {"seen": theta}

    def writer(rng: Any) -> dict[str, Any]:
        return {"theta": rng.normal()}

    def last(theta: Any) -> dict[str, Any]:
        return {"seen_last": theta}

    dataset = make_simulator([user, writer, last], replace_inputs=False).sample(4, seed=1, theta=9.0).compute()

    assert (dataset.seen == 9).all()
    assert not (dataset.theta == 9).any()
    assert (dataset.seen_last.values == dataset.theta.values).all()


def test_with_replace_inputs_off_a_condition_that_nothing_sees_is_refused(model: Model) -> None:
    message = (
        "condition 'mu' changes nothing: with replace_inputs=False only the stages before 'prior', which makes it, see "
        "it, and none takes it"
    )
    with pytest.raises(ArgumentError, match=exactly(message)):
        model.simulator(replace_inputs=False).sample(N, mu=100)


def test_computed_conditions_can_be_written_to_and_the_caller_s_array_stays() -> None:
    """B17: the result was read-only."""
    given = np.zeros((N, 3))
    dataset = VECTOR.sample(N, seed=1, v=given).compute()
    dataset.v.values[:] = 1
    dataset.total.values[:] = 1

    scalar = VECTOR.sample(N, seed=1, v=2.0).compute()
    scalar.v.values[:] = 1

    assert (given == 0).all()


def test_changing_an_array_after_the_call_changes_no_sample() -> None:
    given = np.zeros((N, 3))
    dataset = VECTOR.sample(N, seed=1, v=given)
    given[:] = 7

    assert (dataset.v == 0).all()
    assert (dataset.total == 0).all()


# Shapes


def test_a_scalar_fills_a_vector() -> None:
    dataset = VECTOR.sample(N, v=2).compute()

    assert dataset.v.shape == (N, 3)
    assert dataset.v.dtype == "float64"
    assert (dataset.v == 2).all()
    assert (dataset.total == 6).all()


@pytest.mark.parametrize("expand_outputs", [True, False])
@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_rows_of_a_scalar_have_a_trailing_axis_or_none(
    expand_outputs: bool, shape: tuple[int, ...], model: Model
) -> None:
    """B18: scalar variables needed (n,) and rejected (n, 1)."""
    rows = np.arange(N)
    dataset = model.simulator(expand_outputs=expand_outputs).sample(N, mu=rows.reshape(shape)).compute()

    assert dataset.mu.shape == ((N, 1) if expand_outputs else (N,))
    np.testing.assert_array_equal(dataset.mu.values.ravel(), rows)


def test_a_vector_as_long_as_the_batch_is_not_taken_for_features() -> None:
    """B18: a vector of length n went to the features where n was their number."""
    message = "condition 'v' must be a scalar or have shape (3, 3), the batch axes in front; got (3,)"
    with pytest.raises(ArgumentError, match=exactly(message)):
        VECTOR.sample(3, v=[1.0, 2.0, 3.0])

    rows = np.arange(9.0).reshape(3, 3)
    np.testing.assert_array_equal(VECTOR.sample(3, v=rows).total.values[:, 0], rows.sum(1))


@pytest.mark.parametrize("shape", [(3,), (N + 1, 3), (1, 3), (3, N)])
def test_arrays_that_do_not_begin_with_the_batch_axes_are_refused(shape: tuple[int, ...]) -> None:
    message = (
        f"condition 'v' has shape {shape}, which does not begin with the batch axes (16,); give a scalar, an array"
    )
    with pytest.raises(ArgumentError, match=re.escape(message)):
        VECTOR.sample(N, v=np.zeros(shape))


@pytest.mark.parametrize("shape", [(N,), (N, 4), (N, 3, 1)])
def test_rows_of_another_shape_than_the_variable_are_refused(shape: tuple[int, ...]) -> None:
    message = f"condition 'v' must be a scalar or have shape (16, 3), the batch axes in front; got {shape}"
    with pytest.raises(ArgumentError, match=exactly(message)):
        VECTOR.sample(N, v=np.zeros(shape))


def test_rows_lie_along_all_batch_axes(model: Model) -> None:
    """B22: a batch shape of two axes was flattened, or crashed."""
    mu = np.arange(12.0).reshape(4, 3)
    dataset = model.simulator().sample((4, 3), seed=1, mu=mu).compute()

    assert dataset.mu.dims == ("batch", "batch_1", "scalar")
    assert dataset.x.shape == (4, 3, 3)
    np.testing.assert_array_equal(dataset.mu.values[..., 0], mu)
    assert abs(dataset.x - mu[..., None]).max() < 10
    with pytest.raises(ArgumentError, match=r"shape \(4,\), which does not begin with the batch axes \(4, 3\)"):
        model.simulator().sample((4, 3), mu=np.zeros(4))


@pytest.mark.parametrize(("n", "size"), [(100, 16), (100, 7), (5, 16)])
def test_each_sample_gets_its_own_row(n: int, size: int) -> None:
    """B16, B23: rows were used again, or lost their pairing."""

    def batched(batch_shape: tuple[int, ...], i: Any, rng: Any) -> dict[str, Any]:
        return {"seen": i, "noise": rng.normal(size=batch_shape)}

    def row(i: Any) -> dict[str, Any]:
        return {"seen_by_row": i}

    simulator = make_simulator([batched, row], obj_kwargs=[{"is_batched": True}, None], expand_outputs=False)
    dataset = simulator.sample(n, seed=1, sub_batch_size=size, chunk_size=2 * size, i=np.arange(n)).compute()

    np.testing.assert_array_equal(dataset.i, np.arange(n))
    np.testing.assert_array_equal(dataset.seen, np.arange(n))
    np.testing.assert_array_equal(dataset.seen_by_row, np.arange(n))


# DataArrays and Dask arrays


@pytest.mark.parametrize("order", [("batch", "row", "column"), ("column", "batch", "row"), ("row", "column", "batch")])
def test_a_data_array_is_matched_by_the_names_of_its_dims(order: tuple[str, ...]) -> None:
    given = xr.DataArray(np.arange(36.0).reshape(4, 3, 3), dims=("batch", "row", "column"))
    dataset = MATRIX.sample(4, m=given.transpose(*order)).compute()

    assert dataset.m.dims == ("batch", "row", "column")
    np.testing.assert_array_equal(dataset.m, given)


def test_a_variable_of_one_dataset_is_a_condition_of_another() -> None:
    first = VECTOR.sample(N, seed=1)
    second = VECTOR.sample(N, seed=2, v=first.v)

    assert second.compute().equals(first.compute())


def test_feature_dims_of_other_names_are_taken_in_order() -> None:
    given = xr.DataArray(np.arange(36.0).reshape(3, 4, 3), dims=("a", "batch", "b"))

    np.testing.assert_array_equal(MATRIX.sample(4, m=given).m, given.transpose("batch", "a", "b"))


def test_feature_dims_that_agree_in_part_are_refused() -> None:
    message = "has the feature dims ('row', 'a'), but those of the variable are ('row', 'column'); rename them"
    with pytest.raises(ArgumentError, match=exactly(f"condition 'm' {message}")):
        MATRIX.sample(4, m=xr.DataArray(np.zeros((4, 3, 3)), dims=("batch", "row", "a")))


def test_a_data_array_without_the_batch_dim_is_refused() -> None:
    message = "condition 'v' is a DataArray with dims ('a',); it needs the dim 'batch' to be matched with samples"
    with pytest.raises(ArgumentError, match=exactly(message)):
        VECTOR.sample(N, v=xr.DataArray(np.zeros(N), dims="a"))
    with pytest.raises(ArgumentError, match=r"it needs the dim 'batch_1' to be matched with samples$"):
        VECTOR.sample((N, 2), v=xr.DataArray(np.zeros((N, 3)), dims=("batch", "a")))


def test_a_data_array_without_dims_is_a_scalar() -> None:
    assert (VECTOR.sample(N, v=xr.DataArray(2.0)).v == 2).all()


class Lazy:
    """A Dask array that counts its blocks as they are computed."""

    def __init__(self, n: int, rows: int) -> None:
        self.n_computed = 0
        self.values = np.arange(3.0 * n).reshape(n, 3)
        self.array = da.from_array(self.values, chunks=(rows, 3)).map_blocks(
            self._count, dtype=float, meta=np.empty((0, 0))
        )

    def _count(self, block: Any) -> Any:
        self.n_computed += 1
        return block


def test_a_dask_array_stays_lazy_and_is_sliced_by_chunk() -> None:
    lazy = Lazy(N, 4)
    dataset = VECTOR.sample(N, v=lazy.array, sub_batch_size=4, chunk_size=4)
    assert lazy.n_computed == 0

    part = dataset.isel(batch=slice(4, 8)).compute()
    assert lazy.n_computed == 1
    np.testing.assert_array_equal(part.v, lazy.values[4:8])
    np.testing.assert_array_equal(part.total[:, 0], lazy.values[4:8].sum(1))


def test_a_dask_array_that_no_stage_makes_is_read_for_the_probe_alone() -> None:
    lazy = Lazy(N, 4)
    dataset = make_simulator(total).sample(N, v=lazy.array, sub_batch_size=4, chunk_size=4)
    assert lazy.n_computed == 1

    np.testing.assert_array_equal(dataset.total, lazy.values.sum(1))


def test_chunks_of_a_dask_array_need_not_be_those_of_the_dataset() -> None:
    lazy = Lazy(N, 5)
    dataset = VECTOR.sample(N, v=lazy.array.astype("float32"), sub_batch_size=4, chunk_size=8).compute()

    assert dataset.v.dtype == "float64"
    np.testing.assert_array_equal(dataset.v, lazy.values)


# Names


def external(scale: Any, rng: Any) -> dict[str, Any]:
    return {"x": scale * rng.normal(), "seen": scale}


def test_a_condition_can_be_what_no_stage_makes() -> None:
    scalar = make_simulator(external).sample(4, seed=1, scale=2.0).compute()
    rows = make_simulator(external).sample(4, seed=1, scale=np.arange(4.0)).compute()

    assert scalar.scale.dims == ("batch",)
    assert (scalar.scale == 2).all()
    np.testing.assert_array_equal(rows.scale, np.arange(4.0))
    np.testing.assert_array_equal(rows.seen, np.arange(4.0))
    np.testing.assert_array_equal(rows.x * 2, scalar.x * np.arange(4.0))


def test_a_function_is_given_an_external_scalar_as_it_was_given() -> None:
    def stage(count: Any) -> dict[str, Any]:
        return {"x": float(sum(range(count)))}

    assert (make_simulator(stage).sample(4, count=4).x == 6).all()


def test_without_its_external_condition_a_simulator_is_refused() -> None:
    with pytest.raises(
        SimulatorError, match=r"^stage 'external' needs 'scale', but no earlier stage, context or condition"
    ):
        make_simulator(external).sample(4)


@pytest.mark.parametrize(("name", "hint"), [("muu", "did you mean 'mu'?"), ("q", "known: 'mu', 'sigma', 'x'")])
def test_a_misspelt_condition_is_refused_with_the_nearest_name(name: str, hint: str, model: Model) -> None:
    """B19: a misspelt condition was silently ignored."""
    message = f"the simulator has no variable or argument {name!r} to give a value; {hint}"
    conditions: dict[str, Any] = {name: 5}
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        model.simulator().sample(4, **conditions)


def test_a_condition_cannot_have_a_name_that_functions_ask_for(model: Model) -> None:
    with pytest.raises(ArgumentError, match=r"^the call gives the variable 'rng', a name that dasksim gives a meaning"):
        model.simulator().sample(4, rng=1)


def test_a_function_that_takes_all_takes_any_condition() -> None:
    def stage(**values: Any) -> dict[str, Any]:
        return {"sum": values["a"] + values["b"]}

    assert make_simulator(stage).sample(4, a=1, b=np.arange(4))["sum"].values.tolist() == [1, 2, 3, 4]


# Contexts


def size(rng: Any) -> dict[str, Any]:
    return {"count": int(rng.integers(2, 9)), "grid": np.arange(3.0)}


def use_size(count: int, grid: Any) -> dict[str, Any]:
    return {"x": float(sum(range(count))), "last": grid[-1]}


CONTEXT = make_simulator([use_size], meta_fn=size)


@pytest.mark.parametrize("count", [4, np.int64(4), np.uint8(4), True + 3])
def test_a_scalar_stands_for_a_context(count: Any) -> None:
    dataset = CONTEXT.sample(8, seed=1, sub_batch_size=2, count=count).compute()

    assert dataset["count"].dims == ("batch",)
    assert dataset["count"].dtype == "int64"
    assert (dataset["count"] == 4).all()
    assert (dataset.x == 6).all()


def test_a_conditioned_context_is_given_as_the_python_number_that_it_stands_for() -> None:
    kinds = []

    def stage(count: Any) -> dict[str, Any]:
        kinds.append(type(count))
        return {"x": 1.0}

    make_simulator([stage], meta_fn=lambda: {"count": 3}).sample(2, count=np.int32(4)).compute()

    assert set(kinds) == {int}


def test_a_scalar_fills_a_context_of_several_values() -> None:
    dataset = CONTEXT.sample(8, seed=1, sub_batch_size=2, grid=5).compute()

    assert dataset.grid.shape == (8, 3)
    assert (dataset.grid == 5).all()
    assert (dataset["last"] == 5).all()


@pytest.mark.parametrize("name", ["count", "grid"])
def test_rows_cannot_stand_for_a_context(name: str) -> None:
    message = f"condition {name!r} stands for a context, which a whole sub-batch shares; give one scalar"
    conditions: dict[str, Any] = {name: np.arange(8)}
    with pytest.raises(ArgumentError, match=exactly(message)):
        CONTEXT.sample(8, **conditions)


# Dtypes


@pytest.mark.parametrize("value", [1, True, np.float32(1), np.ones(N, "int8"), np.ones(N, ">f8"), [1.0] * N])
def test_conditions_are_cast_to_the_variable_s_dtype(value: Any, model: Model) -> None:
    dataset = model.simulator().sample(N, mu=value).compute()

    assert dataset.mu.dtype == np.dtype("float64")
    assert dataset.mu.dtype.isnative
    assert (dataset.mu == 1).all()


@pytest.mark.parametrize(
    ("made", "given"), [(1, 2.0), (1, 2.5), (1.0, 1j), (True, 1), (np.int64(1), np.zeros(N)), (1.0, np.zeros(N, "c8"))]
)
def test_conditions_of_a_wider_kind_are_refused(made: Any, given: Any) -> None:
    dtype, wanted = np.asarray(given).dtype, np.asarray(made).dtype
    message = f"which cannot stand for a variable of dtype {wanted}; give values of dtype {wanted}"
    with pytest.raises(ArgumentError, match=exactly(f"condition 'x' has dtype {dtype}, {message}")):
        make_simulator(lambda: {"x": made}).sample(N, x=given)


@pytest.mark.parametrize(
    ("made", "given"),
    [
        (np.int8(1), 300),
        (np.int8(1), np.full(N, 300)),
        (np.uint8(1), -1),
        (np.uint8(1), np.full(N, -1)),
        (np.float32(1), 1e300),
    ],
)
def test_conditions_that_do_not_fit_are_refused(made: Any, given: Any) -> None:
    got = np.asarray(given).flat[0]
    message = f"condition 'x' has values that do not fit into {made.dtype}, the dtype of the variable; got {got!r}"
    with pytest.raises(ArgumentError, match=exactly(message)):
        make_simulator(lambda: {"x": made}).sample(N, x=given)


def test_lazy_conditions_that_do_not_fit_are_refused_when_computed() -> None:
    dataset = make_simulator(lambda: {"x": np.int8(1)}).sample(N, x=da.full(N, 300))

    with pytest.raises(ArgumentError, match=r"^condition 'x' has values that do not fit into int8"):
        dataset.compute()


@pytest.mark.parametrize("value", [200, np.uint64(200), np.full(N, 200)])
def test_integers_stand_for_integers_that_hold_them(value: Any) -> None:
    dataset = make_simulator(lambda: {"x": np.uint8(1)}).sample(N, x=value).compute()

    assert dataset.x.dtype == "uint8"
    assert (dataset.x == 200).all()


@pytest.mark.parametrize("value", ["a", None, {1, 2}, [None] * N, np.datetime64("2020"), 2**70])
def test_conditions_that_are_no_numbers_are_refused(value: Any, model: Model) -> None:
    with pytest.raises(
        ArgumentTypeError, match=r"(?s)^condition 'mu' must be boolean or numeric, at most float64 .*got"
    ):
        model.simulator().sample(N, mu=value)


def test_ragged_and_masked_conditions_are_refused(model: Model) -> None:
    with pytest.raises(ArgumentError, match=r"^condition 'mu' has rows of different shapes"):
        model.simulator().sample(2, mu=[[1], [1, 2]])
    with pytest.raises(ArgumentTypeError, match=r"^condition 'mu' is a masked array, whose mask would be lost"):
        model.simulator().sample(2, mu=np.ma.masked_array([1.0, 2.0], [True, False]))


# The defects of FIELD.md that remain


def test_conditions_and_contexts_are_the_same_in_any_order_of_execution() -> None:
    """B21: meta was drawn per row, global seeds did not reproduce, and rows could not be conditioned."""

    def meta(rng: Any) -> dict[str, Any]:
        return {"count": int(rng.integers(1, 100))}

    def stage(count: int, shift: Any) -> dict[str, Any]:
        return {"x": np.random.normal(shift) + count}

    simulator = make_simulator([stage], meta_fn=meta)
    arguments: dict[str, Any] = {"seed": 3, "sub_batch_size": 8, "shift": np.arange(64.0)}
    one = simulator.sample(64, chunk_size=64, **arguments).compute(scheduler="synchronous")
    many = simulator.sample(64, chunk_size=8, **arguments).compute(scheduler="threads")

    assert many.equals(one)
    assert one["count"].dtype == "int64"
    assert all(len(np.unique(one["count"][i : i + 8])) == 1 for i in range(0, 64, 8))
    assert len(np.unique(one["count"])) > 1
    assert len(np.unique(one.x)) == 64


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (1, 3)])
def test_every_simulator_keeps_all_batch_axes(shape: tuple[int, ...], model: Model) -> None:
    """B22: a function's (4, 3) became (12, 1), and a sequence crashed."""
    assert make_simulator(vector).sample(shape).v.shape == (*shape, 3)
    assert make_simulator(vector).sample(shape).v.dims == ("batch", "batch_1", "v_dim_0")
    assert model.simulator().sample(shape).compute().mu.shape == (*shape, 1)


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_function_sees_the_same_shapes_after_a_nested_simulator(is_nested: bool) -> None:
    """B24: the likelihood saw theta of shape (1,) where the prior was a sequence itself, else ()."""
    shapes = set()

    def prior(rng: Any) -> dict[str, Any]:
        return {"theta": np.float64(rng.normal())}

    def likelihood(theta: Any) -> dict[str, Any]:
        shapes.add(np.shape(theta))
        return {"x": theta}

    first = make_simulator([prior]) if is_nested else prior
    dataset = make_simulator([first, likelihood]).sample(4, seed=1).compute()

    assert shapes == {()}
    assert dataset.theta.shape == (4, 1)
    assert dataset.x.shape == (4, 1)


def test_no_samples_are_refused_in_words(model: Model) -> None:
    """B25: sample(0) said "Must provide at least one structure"."""
    with pytest.raises(ArgumentError, match=exactly("batch_shape must be >= 1; got 0")):
        model.simulator().sample(0)

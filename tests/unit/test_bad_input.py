"""Bad input: one clear error each, before anything is simulated or written."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from bits import file_bytes
from numpy.typing import NDArray

import dasksim
from dasksim import (
    ArgumentError,
    ArgumentTypeError,
    LambdaSimulator,
    OutputError,
    SequentialSimulator,
    SimulatorError,
    generate,
    make_simulator,
)


def scalar(rng: Any) -> dict[str, Any]:
    return {"x": rng.normal()}


def vector(x: Any) -> dict[str, Any]:
    return {"y": np.zeros(3) + x}


def returns(value: Any) -> Callable[[], Any]:
    return lambda: value


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def without_addresses(text: str) -> str:
    """What is said of a value, the same in each process: pytest-xdist compares the names of tests."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


# The number of samples


@pytest.mark.parametrize("n", [0, -1, (4, 0), np.int64(0)])
def test_sample_refuses_less_than_one_sample(n: Any) -> None:
    with pytest.raises(ArgumentError, match=exactly(f"batch_shape must be >= 1; got {n!r}")):
        make_simulator(scalar).sample(n)


@pytest.mark.parametrize("n", [2.0, True, np.True_, "10", b"10", (3, 2.5), (3, False), np.array(3), {"n": 3}])
def test_sample_refuses_what_is_no_integer(n: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=exactly(f"batch_shape must be an integer >= 1; got {n!r}")):
        make_simulator(scalar).sample(n)


def test_sample_refuses_a_batch_shape_without_axes() -> None:
    with pytest.raises(ArgumentError, match=exactly("batch_shape must have at least one axis; got ()")):
        make_simulator(scalar).sample(())


@pytest.mark.parametrize(("arguments", "got"), [({}, "neither"), ({"batch_shape": 3, "batch_size": 3}, "both")])
def test_sample_needs_one_of_batch_shape_and_its_synonym(arguments: dict[str, Any], got: str) -> None:
    message = f"give the number of samples as batch_shape or its synonym batch_size; got {got}"
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        make_simulator(scalar).sample(**arguments)


def test_the_synonym_is_named_in_its_own_messages() -> None:
    with pytest.raises(ArgumentError, match=exactly("batch_size must be >= 1; got 0")):
        make_simulator(scalar).sample(batch_size=0)


@pytest.mark.parametrize("n", [2**63, 10**30, (2**32, 2**32)])
def test_sample_refuses_more_samples_than_can_be_counted(n: Any) -> None:
    with pytest.raises(ArgumentError, match=exactly(f"batch_shape must hold fewer than 2**63 samples; got {n!r}")):
        make_simulator(scalar).sample(n)


def test_sample_refuses_more_chunks_than_a_graph_can_hold() -> None:
    message = (
        "chunks of 2 samples cut 1000000000000 samples into more than 10,000,000 chunks; give a chunk_size of at least "
        "100000"
    )
    with pytest.raises(ArgumentError, match=exactly(message)):
        make_simulator(scalar).sample(10**12, sub_batch_size=2, chunk_size=2)


@pytest.mark.parametrize("n", [3, np.int64(3), np.uint8(3), (3,), [3], (np.int32(3),)])
def test_sample_accepts_python_and_numpy_integers(n: Any) -> None:
    assert make_simulator(scalar).sample(n).sizes["batch"] == 3
    assert make_simulator(scalar).sample(batch_size=n).sizes["batch"] == 3


# Seeds and sizes


@pytest.mark.parametrize("seed", [-1, np.int64(-3)])
def test_seeds_below_zero_are_refused(seed: Any) -> None:
    with pytest.raises(ArgumentError, match=exactly(f"seed must be >= 0; got {seed!r}")):
        make_simulator(scalar).sample(3, seed=seed)


@pytest.mark.parametrize("seed", [1.0, True, "1", [1, 2]])
def test_seeds_that_are_no_integers_are_refused(seed: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=exactly(f"seed must be an integer >= 0 or None; got {seed!r}")):
        make_simulator(scalar).sample(3, seed=seed)


@pytest.mark.parametrize("seed", [0, np.uint64(2**63), 2**200])
def test_any_integer_from_zero_on_is_a_seed(seed: Any) -> None:
    simulator = make_simulator(scalar)

    assert simulator.sample(3, seed=seed).x.compute().equals(simulator.sample(3, seed=int(seed)).x.compute())


def test_seeds_that_differ_in_a_high_bit_give_other_samples() -> None:
    simulator = make_simulator(scalar)

    assert not np.any(simulator.sample(9, seed=2**200).x.values == simulator.sample(9, seed=2**200 + 2**199).x.values)


@pytest.mark.parametrize("name", ["sub_batch_size", "chunk_size"])
@pytest.mark.parametrize("size", [0, -1])
def test_sizes_below_one_are_refused(name: str, size: Any) -> None:
    with pytest.raises(ArgumentError, match=exactly(f"{name} must be >= 1; got {size}")):
        make_simulator(scalar).sample(10, **{name: size})


@pytest.mark.parametrize("name", ["sub_batch_size", "chunk_size"])
@pytest.mark.parametrize("size", [2.0, True, "3", (2,)])
def test_sizes_that_are_no_integers_are_refused(name: str, size: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=exactly(f"{name} must be an integer >= 1; got {size!r}")):
        make_simulator(scalar).sample(10, **{name: size})


@pytest.mark.parametrize(("chunk_size", "advice"), [(300, "use 256 or 384"), (30, "use 128")])
def test_chunks_that_cut_a_sub_batch_are_refused(chunk_size: int, advice: str) -> None:
    message = f"chunk_size={chunk_size} is not a multiple of sub_batch_size=128; {advice}, or leave chunk_size out"
    with pytest.raises(ArgumentError, match=exactly(message)):
        make_simulator(scalar).sample(1000, sub_batch_size=128, chunk_size=chunk_size)


# Simulators


@pytest.mark.parametrize("obj", [[], {}, ()])
def test_a_simulator_of_nothing_is_refused(obj: Any) -> None:
    with pytest.raises(ArgumentError, match=exactly("simulators must hold at least one simulator; got none")):
        make_simulator(obj)


@pytest.mark.parametrize(
    ("obj", "shown"),
    [
        ("prior", "'prior'"),
        (b"prior", "b'prior'"),
        (None, "None"),
        (3, "3"),
        ({3}, "{3}"),
        ([scalar, 3], "3"),
        ([scalar, "x"], "'x'"),
        ({"prior": scalar, "other": None}, "None"),
    ],
)
def test_what_cannot_be_called_is_no_simulator(obj: Any, shown: str) -> None:
    message = f"cannot make a simulator of {shown}; give a function, a Simulator, or a sequence or mapping of them"
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        make_simulator(obj)


def test_a_list_within_a_list_is_refused_with_the_way_to_nest() -> None:
    with pytest.raises(ArgumentTypeError, match=r"of \[3\]; wrap the inner one in make_simulator first$"):
        make_simulator([scalar, [3]])


@pytest.mark.parametrize("key", [1, "", None])
def test_keys_that_cannot_name_a_stage_are_refused(key: Any) -> None:
    message = f"the keys of simulators name stages and must be strings; got {key!r}"
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        make_simulator({key: scalar})


def test_sequential_simulator_takes_simulators_only() -> None:
    with pytest.raises(
        ArgumentTypeError, match=r"must hold Simulators; got <function scalar.*make_simulator can wrap$"
    ):
        SequentialSimulator([scalar])  # type: ignore[list-item]
    with pytest.raises(ArgumentTypeError, match=r"must be a sequence or a mapping of Simulators; got 3$"):
        SequentialSimulator(3)  # type: ignore[arg-type]


def test_lambda_simulator_takes_callables_only() -> None:
    with pytest.raises(ArgumentTypeError, match=exactly("sample_fn must be callable; got 3")):
        LambdaSimulator(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["expand_outputs", "replace_inputs", "is_batched"])
@pytest.mark.parametrize("value", [1, "no", None])
def test_flags_that_are_neither_true_nor_false_are_refused(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ArgumentTypeError, match=exactly(f"{name} must be True or False; got {value!r}")):
        make_simulator([scalar], **arguments)


@pytest.mark.parametrize("obj_kwargs", [[{}], [{}, {}, {}]])
def test_obj_kwargs_of_the_wrong_length_are_refused(obj_kwargs: Any) -> None:
    message = f"obj_kwargs has {len(obj_kwargs)} entries for 2 objects; give one for each, or None"
    with pytest.raises(ArgumentError, match=exactly(message)):
        make_simulator([scalar, vector], obj_kwargs=obj_kwargs)
    with pytest.raises(ArgumentError, match=exactly(message)):
        make_simulator({"a": scalar, "b": vector}, obj_kwargs=obj_kwargs)


@pytest.mark.parametrize(
    ("obj_kwargs", "message"),
    [
        (3, "obj_kwargs must be a mapping, or a sequence of mappings or None; got 3"),
        ("ab", "obj_kwargs must be a mapping, or a sequence of mappings or None; got 'ab'"),
        ([{}, 2], "obj_kwargs must hold a mapping, or None, for each function; got 2"),
        ({"a": 2}, "obj_kwargs must hold a mapping, or None, for each function; got 2"),
    ],
)
def test_obj_kwargs_that_hold_no_mappings_are_refused(obj_kwargs: Any, message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        make_simulator({"a": scalar, "b": vector}, obj_kwargs=obj_kwargs)


def test_obj_kwargs_of_a_single_function_must_be_one_mapping() -> None:
    with pytest.raises(
        ArgumentTypeError, match=exactly("obj_kwargs must be a mapping for a single function; got [{}]")
    ):
        make_simulator(scalar, obj_kwargs=[{}])


def test_unknown_keys_of_obj_kwargs_are_refused_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match=exactly("obj_kwargs holds 'is_batch'; did you mean 'is_batched'?")):
        make_simulator(scalar, obj_kwargs={"is_batch": True})
    with pytest.raises(
        ArgumentError, match=exactly("obj_kwargs has the key 'priro', which obj lacks; did you mean 'prior'?")
    ):
        make_simulator({"prior": scalar, "y": vector}, obj_kwargs={"priro": {}, "y": {}})


def test_options_of_a_function_are_refused_for_a_simulator() -> None:
    inner = make_simulator(scalar)
    with pytest.raises(
        ArgumentError, match=r"^obj_kwargs \{'is_batched': True\} is for a function, but got the simulator"
    ):
        make_simulator([inner, vector], obj_kwargs=[{"is_batched": True}, None])
    options: list[dict[str, Any]]
    options = [{"is_batched": True}, {"dims": {"x": []}}, {"coords": {"t": [1]}}, {"schema": {"x": ((), float)}}]
    for arguments in options:
        with pytest.raises(ArgumentError, match=r"belong to the simulator that is given; set them where it is made$"):
            make_simulator(inner, **arguments)


@pytest.mark.parametrize("meta_fn", [3, "n", [scalar]])
def test_a_meta_fn_that_cannot_be_called_is_refused(meta_fn: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=exactly(f"meta_fn must be callable; got {meta_fn!r}")):
        make_simulator([scalar], meta_fn=meta_fn)


# Stages that do not fit together


def test_two_stages_that_make_one_variable_are_refused() -> None:
    def other(rng: Any) -> dict[str, Any]:
        return {"x": rng.normal()}

    message = "stages 'scalar' and 'other' both make the variable 'x'; rename one of them"
    with pytest.raises(SimulatorError, match=exactly(message)):
        make_simulator([scalar, other]).sample(3)


def test_an_argument_that_nothing_provides_is_refused_with_the_nearest_name() -> None:
    def prior(rng: Any) -> dict[str, Any]:
        return {"theta": rng.normal(), "scale": 1.0}

    def likelihood(tehta: Any) -> dict[str, Any]:
        return {"x": tehta}

    message = "'tehta', but no earlier stage, context or condition provides it; did you mean 'theta'?"
    with pytest.raises(SimulatorError, match=exactly(f"stage 'likelihood' needs {message}")):
        make_simulator([prior, likelihood]).sample(3)


def test_an_argument_that_only_a_later_stage_provides_is_refused() -> None:
    with pytest.raises(
        SimulatorError, match=r"'vector' needs 'x', but no earlier stage, context or condition provides it"
    ):
        make_simulator([vector, scalar]).sample(3)


def test_an_unbatched_function_that_takes_batch_shape_is_refused() -> None:
    def stage(batch_shape: Any) -> dict[str, Any]:
        return {"x": np.zeros(batch_shape)}

    with pytest.raises(SimulatorError, match=r"^stage 'stage' takes batch_shape, but is not batched.*is_batched=True"):
        make_simulator(stage).sample(3)


def test_a_function_without_a_readable_signature_is_refused() -> None:
    with pytest.raises(
        SimulatorError, match=r"^cannot read the arguments of stage 'max' .*; wrap it in a function that"
    ):
        make_simulator(max).sample(3)


# What functions return


@pytest.mark.parametrize("is_batched", [False, True])
@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "NoneType None"), (3, "int 3"), ([1], "list [1]"), (np.zeros(2), "ndarray array([0., 0.])")],
)
def test_a_function_must_return_a_dict(value: Any, shown: str, is_batched: bool) -> None:
    message = f"stage '<lambda>' returned {shown}; a simulator function must return a dict of variables"
    with pytest.raises(OutputError, match=re.escape(message)):
        make_simulator(returns(value), is_batched=is_batched).sample(3)


def test_a_meta_fn_must_return_a_dict() -> None:
    with pytest.raises(OutputError, match=r"^stage 'constant' returned int 3; a simulator function must return a dict"):
        make_simulator([scalar], meta_fn=constant).sample(3)


def constant() -> Any:
    return 3


def test_a_function_must_return_a_variable() -> None:
    with pytest.raises(OutputError, match=r"returned an empty dict; return at least one variable"):
        make_simulator(returns({})).sample(3)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (1, "names of variables must be strings"),
        *(
            (name, "dasksim gives a meaning of its own; rename")
            for name in ("rng", "seed", "xp", "batch_shape", "batch")
        ),
        *((name, "cannot be empty, contain '/' or begin with '_' or '.'") for name in ("", "a/b", "_a", ".a")),
    ],
)
def test_names_that_a_variable_cannot_have_are_refused(name: Any, rule: str) -> None:
    with pytest.raises(OutputError, match=f"^stage '<lambda>' returned the variable {name!r}.*{re.escape(rule)}"):
        make_simulator(returns({name: 1.0})).sample(3)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        "text",
        [1, "a"],
        None,
        {1, 2},
        2**70,
        np.datetime64("2020"),
        np.array([None]),
        np.zeros(2, [("a", int)]),
        pytest.param(np.longdouble(1), marks=pytest.mark.skipif(np.longdouble(1).itemsize == 8, reason="is float64")),
    ],
    ids=lambda value: without_addresses(repr(value)),
)
def test_values_that_are_no_numbers_are_refused(value: Any) -> None:
    with pytest.raises(OutputError, match=r"(?s)returned 'x' as .* of dtype .*; variables must be boolean or numeric"):
        make_simulator(returns({"x": value})).sample(3)


def test_ragged_lists_are_refused() -> None:
    with pytest.raises(OutputError, match=r"^stage '<lambda>' returned 'x' as rows of different shapes"):
        make_simulator(returns({"x": [[1], [1, 2]]})).sample(3)


@pytest.mark.parametrize("value", [[], np.zeros((3, 0))])
def test_arrays_without_values_are_refused(value: Any) -> None:
    shape = re.escape(str(np.shape(value)))
    with pytest.raises(OutputError, match=f"returned 'x' with shape {shape}; a variable must have values"):
        make_simulator(returns({"x": value})).sample(3)


@pytest.mark.parametrize("value", [np.ma.masked_array([1.0, 2.0], [True, False]), np.ma.masked])
def test_masked_values_are_refused(value: Any) -> None:
    with pytest.raises(OutputError, match=r"returned 'x' as a masked array, whose mask would be lost"):
        make_simulator(returns({"x": value})).sample(3)


@pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
def test_a_batched_function_must_return_whole_batches(shape: tuple[int, ...]) -> None:
    def stage(batch_shape: Any) -> dict[str, Any]:
        return {"x": np.zeros(shape)}

    message = f"returned 'x' with shape {shape}; it is batched, so the shape must begin with batch_shape=(2,)"
    with pytest.raises(OutputError, match=re.escape(message)):
        make_simulator(stage, is_batched=True).sample(10)


# What functions return later, other than their probe did

N, SIZE, BAD = 1024, 256, 777


def rows(good: Any, bad: Any) -> Any:
    """A dataset of a function that returns something else at one sample."""

    def stage(i: Any) -> Any:
        return bad if i == BAD else good

    return make_simulator(stage).sample(N, seed=1, sub_batch_size=SIZE, i=np.arange(N))


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (None, "returned NoneType, expected a dict of ['x']"),
        ({}, "returned the variables [], expected ['x']; return the same variables every time"),
        ({"y": np.zeros(3)}, "returned the variables ['y'], expected ['x']"),
        ({"x": np.zeros(3), "y": 1.0}, "returned the variables ['x', 'y'], expected ['x']"),
        ({"x": np.zeros(2)}, "returned 'x' with shape (2,), expected (3,); return the same shape every time"),
        ({"x": np.zeros((3, 1))}, "returned 'x' with shape (3, 1), expected (3,)"),
        ({"x": np.zeros(0)}, "returned 'x' with shape (0,), expected (3,)"),
        ({"x": 0.0}, "returned 'x' with shape (), expected (3,)"),
        (
            {"x": np.zeros(3, "int64")},
            "returned 'x' with dtype int64, expected float64; return the same dtype every time",
        ),
        ({"x": np.zeros(3, "float32")}, "returned 'x' with dtype float32, expected float64"),
        ({"x": np.zeros(3, "complex128")}, "returned 'x' with dtype complex128, expected float64"),
        ({"x": np.zeros(3, "bool")}, "returned 'x' with dtype bool, expected float64"),
        (
            {"x": np.array([None] * 3)},
            "returned 'x' as ndarray array([None, None, None], dtype=object) of dtype object",
        ),
        ({"x": "abc"}, "returned 'x' as str 'abc' of dtype <U3; variables must be boolean or numeric arrays"),
        ({"x": [1.0, [2.0]]}, "returned 'x' as rows of different shapes"),
        ({"x": np.ma.masked_array(np.zeros(3), True)}, "returned 'x' as a masked array"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_row_unlike_its_probe_is_an_error_that_names_the_sample(bad: Any, problem: str) -> None:
    with pytest.raises(OutputError, match=re.escape(f"stage 'stage' at sample {BAD} {problem}")) as caught:
        rows({"x": np.zeros(3)}, bad).compute()

    assert any("in stage 'stage', sub-batch 3 (samples 768 to 1023); run it alone" in n for n in caught.value.__notes__)


@pytest.mark.parametrize(
    ("good", "bad", "problem"),
    [
        (1, 1.5, "returned 'x' with dtype float64, expected int64"),
        (1, float("nan"), "returned 'x' with dtype float64, expected int64"),
        (1, 2**63, "returned 'x' with dtype uint64, expected int64"),
        (True, 1, "returned 'x' with dtype int64, expected bool"),
        (1.0, 1j, "returned 'x' with dtype complex128, expected float64"),
        (1.0, np.float32(1), "returned 'x' with dtype float32, expected float64"),
        (np.float32(1), np.float64(1), "returned 'x' with dtype float64, expected float32"),
        (1.0, None, "returned 'x' as NoneType None of dtype object"),
        (1.0, np.ma.masked, "returned 'x' as a masked array"),
        (1.0, [1.0], "returned 'x' with shape (1,), expected ()"),
    ],
)
def test_a_scalar_unlike_its_probe_is_an_error_that_names_the_sample(good: Any, bad: Any, problem: str) -> None:
    with pytest.raises(OutputError, match=re.escape(f"stage 'stage' at sample {BAD} {problem}")):
        rows({"x": good}, {"x": bad}).compute()


@pytest.mark.parametrize(
    ("good", "narrow"),
    [(1.5, 0), (1.5, True), (np.float64(1.5), 0), (1, True), (1j, 0.5), ([1.5, 2.5], [0, 1]), (1.5, np.float64(0))],
)
def test_python_scalars_of_a_narrower_kind_are_allowed(good: Any, narrow: Any) -> None:
    values = rows({"x": good}, {"x": narrow}).x.values

    assert values.dtype == np.asarray(good).dtype
    np.testing.assert_array_equal(values[BAD], narrow)
    np.testing.assert_array_equal(values[BAD - 1], good)


def test_what_is_allowed_does_not_depend_on_the_rest_of_the_sub_batch() -> None:
    def stage(i: Any) -> dict[str, Any]:
        return {"x": 0 if 512 <= i < 768 else 1.5}

    values = make_simulator(stage).sample(N, seed=1, sub_batch_size=SIZE, i=np.arange(N)).x.values

    assert values.dtype == "float64"
    assert (values == 0).sum() == SIZE


def sub_batches(bad: Callable[[tuple[int, ...]], Any]) -> Any:
    """A dataset of a batched function that returns something else in sub-batch 3."""

    def stage(batch_shape: tuple[int, ...], i: NDArray[Any]) -> Any:
        return bad(batch_shape) if i[0] == 3 * SIZE else {"x": np.zeros((*batch_shape, 2))}

    return make_simulator(stage, is_batched=True).sample(N, seed=1, sub_batch_size=SIZE, i=np.arange(N))


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (lambda _: None, "returned NoneType, expected a dict of ['x']"),
        (lambda b: {"y": np.zeros(b)}, "returned the variables ['y'], expected ['x']"),
        (lambda b: {"x": np.zeros((*b, 3))}, "returned 'x' with shape (256, 3), expected (256, 2)"),
        (lambda b: {"x": np.zeros((b[0] - 1, 2))}, "returned 'x' with shape (255, 2), expected (256, 2)"),
        (lambda b: {"x": np.zeros((b[0] + 1, 2))}, "returned 'x' with shape (257, 2), expected (256, 2)"),
        (lambda _: {"x": 0.0}, "returned 'x' with shape (), expected (256, 2)"),
        (lambda b: {"x": np.zeros((*b, 2), "int64")}, "returned 'x' with dtype int64, expected float64"),
        (lambda b: {"x": np.zeros((*b, 2), "float32")}, "returned 'x' with dtype float32, expected float64"),
        (lambda b: {"x": np.full((*b, 2), None)}, "returned 'x' as ndarray array([[None"),
        (lambda _: {"x": [[1], [1, 2]]}, "returned 'x' as rows of different shapes"),
        (lambda b: {"x": np.ma.masked_array(np.zeros((*b, 2)), True)}, "returned 'x' as a masked array"),
    ],
)
def test_a_sub_batch_unlike_its_probe_is_an_error_that_names_the_samples(bad: Any, problem: str) -> None:
    message = f"stage 'stage' in sub-batch 3 (samples 768 to 1023) {problem}"
    with pytest.raises(OutputError, match=re.escape(message)):
        sub_batches(bad).compute()


def test_a_context_unlike_its_probe_is_an_error_that_names_the_samples() -> None:
    def meta(rng: Any) -> dict[str, Any]:
        return {"N": 3 if rng.bit_generator.seed_seq.spawn_key[1] != 3 else 3.5}

    dataset = make_simulator([scalar], meta_fn=meta).sample(N, seed=1, sub_batch_size=SIZE)

    message = "stage 'meta' in sub-batch 3 (samples 768 to 1023) returned 'N' with dtype float64, expected int64"
    with pytest.raises(OutputError, match=re.escape(message)):
        dataset.compute()


def test_arrays_of_another_byte_order_are_swapped() -> None:
    row = np.arange(3, dtype=">f8")

    values = make_simulator(returns({"x": row})).sample(3).x.values

    assert values.dtype == np.dtype("float64")
    assert values.dtype.isnative
    np.testing.assert_array_equal(values, [row] * 3)


# Dims and coordinates


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"dims": ["t"]}, "dims must be a mapping; got ['t']"),
        ({"coords": 3}, "coords must be a mapping; got 3"),
        *(
            (
                {"dims": {"y": names}},
                "dims['y'] must be a name or a list of names, such as ['time'], none of them empty or with '/'; got "
                + repr(names),
            )
            for names in ("", None, [1], [""], ["a/b"])
        ),
    ],
)
def test_labels_of_the_wrong_type_are_refused_where_they_enter(labels: Any, message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        make_simulator([scalar, vector], **labels)


def test_coordinates_that_no_store_can_hold_are_refused() -> None:
    with pytest.raises(
        ArgumentTypeError, match=r"^coords\['y_dim_0'\] must hold numbers, strings or times; got array\("
    ):
        make_simulator([scalar, vector], coords={"y_dim_0": [None, 1, object()]})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"dims": {"z": ["t"]}}, "dims names 'z', which is no variable of the simulator; known: 'x', 'y'"),
        (
            {"dims": {"y": ["t", "u"]}},
            "dims['y']=['t', 'u'] names 2 dims, but one sample of 'y' has shape (3,); name 1 dims",
        ),
        (
            {"dims": {"y": ["x"]}},
            "dim 'x' of 'y' has the name of a variable; xarray would take that variable for its coordinate: rename one "
            "of them",
        ),
        (
            {"dims": {"y": ["batch"]}},
            "dim 'batch' has size 3 in 'y' but belongs to the batch already; give the dims different names",
        ),
        (
            {"dims": {"x": ["t"], "y": ["t"]}},
            "dim 't' has size 3 in 'y' but belongs to 'x' with size 1 already; give the dims different names",
        ),
        (
            {"dims": {"y": ["time"]}, "coords": {"tiem": [1, 2, 3]}},
            "coords names 'tiem', which is no feature dim of the simulator; did you mean 'time'?",
        ),
        (
            {"coords": {"y_dim_0": [1, 2]}},
            "coords['y_dim_0'] has shape (2,), but dim 'y_dim_0' has size 3; give one value for each position",
        ),
        (
            {"coords": {"batch": [1, 2]}},
            "coords names 'batch', which is no feature dim of the simulator; known: 'scalar', 'y_dim_0'",
        ),
    ],
)
def test_labels_that_do_not_fit_the_variables_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(SimulatorError, match=exactly(message)):
        make_simulator([scalar, vector], **labels).sample(3)


def test_a_dim_named_twice_is_refused() -> None:
    simulator = make_simulator(returns({"m": np.zeros((3, 3))}), dims={"m": ["t", "t"]})
    with pytest.raises(SimulatorError, match=exactly("dims['m']=['t', 't'] names one dim twice")):
        simulator.sample(3)


def test_a_variable_with_the_name_of_another_batch_dim_is_refused() -> None:
    with pytest.raises(SimulatorError, match="variable 'batch_1' has the name of a dim, along which"):
        make_simulator(returns({"batch_1": 1.0})).sample((3, 2))


@pytest.mark.parametrize("schema", [[], 3, {}])
def test_a_schema_must_be_a_mapping(schema: Any) -> None:
    message = f"schema must be a mapping {{name: (shape, dtype)}}; got {schema!r}"
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        make_simulator(scalar, schema=schema)


@pytest.mark.parametrize(
    "entry", [3, ((3,),), ((3,), "nope"), (3, float), ((2.5,), float), ("3", float), (None, float)]
)
def test_an_entry_of_a_schema_must_be_a_shape_and_a_dtype(entry: Any) -> None:
    message = f"schema['x'] must be a pair (shape of one sample, dtype), such as ((3,), 'float64'); got {entry!r}"
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        make_simulator(scalar, schema={"x": entry})


@pytest.mark.parametrize("entry", [((0,), float), ((-1,), float), ((3,), object), ((3,), str), ((3,), None)])
def test_a_schema_must_be_of_values(entry: Any) -> None:
    message = f"schema['x'] must have sizes >= 1 and a boolean or numeric dtype; got {entry!r}"
    with pytest.raises(ArgumentError, match=exactly(message)):
        make_simulator(scalar, schema={"x": entry})


def test_a_schema_has_names_that_variables_can_have() -> None:
    with pytest.raises(
        ArgumentError, match=r"^schema declares the variable 'rng', a name that dasksim gives a meaning"
    ):
        make_simulator(scalar, schema={"rng": ((), float)})


def test_a_schema_of_a_sequence_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"^schema is for a single function; give obj_kwargs a mapping with 'schema'"
    ):
        make_simulator([scalar], schema={"x": ((), float)})


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"z": ((), float)}, "returned the variables ['x'], expected ['z']"),
        ({"x": ((2,), float)}, "returned 'x' with shape (), expected (2,)"),
        ({"x": ((), "float32")}, "returned 'x' with dtype float64, expected float32"),
    ],
)
def test_a_function_that_breaks_its_schema_is_an_error(schema: Any, problem: str) -> None:
    with pytest.raises(OutputError, match=re.escape(f"stage 'scalar' at sample 0 {problem}")):
        make_simulator(scalar, schema=schema).sample(3).compute()


# Functions that raise


class CholeskyError(Exception):
    """A user's own exception."""


def notes_of(error: BaseException) -> str:
    return "\n".join(error.__notes__)


def test_an_exception_of_a_row_says_where_and_how_to_reproduce_it() -> None:
    def stage(i: Any) -> dict[str, Any]:
        if i == 300:
            raise CholeskyError("not positive definite")
        return {"x": 1.0}

    simulator = make_simulator(stage)
    conditions: dict[str, Any] = {"i": np.arange(N)}
    with pytest.raises(CholeskyError, match=r"^not positive definite") as caught:
        simulator.sample(N, seed=5, sub_batch_size=SIZE, **conditions).compute()

    notes = notes_of(caught.value)
    assert "raised by stage 'stage' at sample 300" in notes
    assert "in stage 'stage', sub-batch 1 (samples 256 to 511); run it alone with" in notes
    with pytest.raises(CholeskyError, match=r"not positive definite"):
        eval(notes.splitlines()[-1].strip(), {"simulator": simulator, "conditions": conditions})


def test_an_exception_of_a_batched_stage_says_where_and_how_to_reproduce_it() -> None:
    def stage(batch_shape: Any, rng: Any) -> dict[str, Any]:
        x = rng.normal(size=batch_shape)
        if len(x) == SIZE and x[0, 0] == first:
            raise CholeskyError("not positive definite")
        return {"x": x}

    simulator = make_simulator(stage, is_batched=True)
    first = np.nan
    first = simulator.sample((N, 2), seed=5, sub_batch_size=SIZE).x.values[2 * SIZE, 0]
    with pytest.raises(CholeskyError, match=r"^not positive definite") as caught:
        simulator.sample((N, 2), seed=5, sub_batch_size=SIZE).compute()

    notes = notes_of(caught.value)
    assert "in stage 'stage', sub-batch 2 (samples 512 to 767); run it alone with" in notes
    with pytest.raises(CholeskyError, match=r"not positive definite"):
        eval(notes.splitlines()[-1].strip(), {"simulator": simulator})


def test_an_exception_of_a_probe_says_that_nothing_was_simulated() -> None:
    def stage() -> dict[str, Any]:
        raise KeyError("first")

    with pytest.raises(KeyError, match=r"first") as caught:
        make_simulator(stage).sample(3)

    assert caught.value.__notes__ == ["while stage 'stage' was probed, before any sample was simulated"]


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_generate_raises_the_user_s_own_exception(scheduler: str, tmp_path: Path) -> None:
    def stage(i: Any) -> dict[str, Any]:
        if i == BAD:
            raise FileNotFoundError("calibration.txt")
        return {"x": 1.0}

    with pytest.raises(FileNotFoundError, match=r"^calibration\.txt") as caught:
        generate(
            make_simulator(stage),
            tmp_path / "s.zarr",
            N,
            sub_batch_size=SIZE,
            chunk_size=SIZE,
            conditions={"i": np.arange(N)},
            scheduler=scheduler,
        )

    assert not isinstance(caught.value, dasksim.StoreError)
    assert "raised by stage 'stage' at sample 777" in notes_of(caught.value)


# Stores


SIMULATOR = make_simulator(scalar)
OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 8, "chunk_size": 16, "scheduler": "synchronous"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    generate(SIMULATOR, tmp_path / "kept.zarr", 64, **OPTIONS)
    return tmp_path / "kept.zarr"


def wide(rng: Any) -> dict[str, Any]:
    return {"x": rng.normal(size=1000)}


WIDE = make_simulator(wide)
NUMBERLESS = make_simulator(returns(3))
BAD_CALLS: Sequence[tuple[dict[str, Any], type[Exception], str]] = [
    ({"n_samples": 0}, ArgumentError, "^n_samples must be >= 1; got 0$"),
    ({"n_samples": 2.5}, ArgumentTypeError, r"^n_samples must be an integer >= 1; got 2\.5$"),
    ({"n_samples": None}, ArgumentTypeError, "^n_samples must be an integer >= 1; got None$"),
    ({"n_samples": 10**30}, ArgumentError, r"^n_samples must hold fewer than 2\*\*63 samples; got 10{30}$"),
    (
        {"simulator": 3},
        ArgumentTypeError,
        "^simulator must be a Simulator, such as make_simulator returns, or functions to make one of, .*; got 3",
    ),
    ({"seed": -1}, ArgumentError, "^seed must be >= 0; got -1$"),
    ({"seed": 1.5}, ArgumentTypeError, r"^seed must be an integer >= 0 or None; got 1\.5$"),
    ({"sub_batch_size": 0}, ArgumentError, "^sub_batch_size must be >= 1; got 0$"),
    ({"chunk_size": 0}, ArgumentError, "^chunk_size must be >= 1; got 0$"),
    ({"chunk_size": 12}, ArgumentError, "^chunk_size=12 is not a multiple of sub_batch_size=8; use 8 or 16, or leave"),
    ({"conditions": [1]}, ArgumentTypeError, r"^conditions must be a mapping of variables to values; got \[1\]$"),
    ({"conditions": {1: 3}}, ArgumentError, "^the call gives the variable 1; names of variables must be strings$"),
    (
        {"conditions": {"xx": 3}},
        ArgumentTypeError,
        "has no variable or argument 'xx' to give a value; did you mean 'x'",
    ),
    ({"dtypes": "nope"}, ArgumentTypeError, "^dtypes must hold NumPy dtypes; got 'nope'$"),
    ({"dtypes": {"x": None}}, ArgumentTypeError, "^dtypes must hold NumPy dtypes; got None$"),
    ({"dtypes": {"y": "float32"}}, ArgumentError, "^dtypes names 'y', which is no variable; known: 'x'$"),
    ({"dtypes": {"x": "int32"}}, ArgumentError, r"^dtypes\['x'\]=int32 cannot hold 'x' of dtype float64$"),
    ({"dtypes": object}, ArgumentError, r"^dtypes\['x'\]=object is neither boolean nor numeric, at most float64"),
    ({"dtypes": str}, ArgumentError, r"^dtypes\['x'\]=<U0 is neither boolean nor numeric, at most float64"),
    ({"overwrite": "yes"}, ArgumentTypeError, "^overwrite must be True or False; got 'yes'$"),
    ({"progress": "yes"}, ArgumentTypeError, "^progress must be True or False; got 'yes'$"),
    (
        {"scheduler": "thread"},
        ArgumentError,
        "^scheduler must be one of 'synchronous', 'threads', 'processes', a Client",
    ),
    (
        {"scheduler": 3},
        ArgumentTypeError,
        r"^scheduler must be None, a name, a distributed\.Client that is not asynchronous, or its address; got 3",
    ),
    ({"scheduler": "foo://x:1"}, ArgumentError, "^cannot reach a scheduler at scheduler='foo://x:1': unknown address"),
    (
        {"simulator": WIDE, "n_samples": 10**9, "sub_batch_size": 1000, "chunk_size": 10**9},
        ArgumentError,
        r"^chunk_size=1000000000 needs about 32,000\.0 GB for 1 worker, but this machine has .* at most \d+000$",
    ),
    (
        {"simulator": WIDE, "n_samples": 10**9, "sub_batch_size": 10**9, "chunk_size": 10**9},
        ArgumentError,
        "needs about .* GB for 1 worker, but this machine has .*; give a smaller sub_batch_size too$",
    ),
    (
        {"simulator": NUMBERLESS},
        OutputError,
        "^stage '<lambda>' returned int 3; a simulator function must return a dict",
    ),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD_CALLS, ids=lambda value: without_addresses(str(value)[:60]))
def test_generate_checks_its_arguments_before_it_removes_a_store(
    bad: dict[str, Any], error: type[Exception], message: str, store: Path
) -> None:
    before = file_bytes(store)
    with pytest.raises(error, match=message):
        generate(**{"simulator": SIMULATOR, "store": store, "n_samples": 64, **OPTIONS, "overwrite": True, **bad})

    assert file_bytes(store) == before


@pytest.mark.parametrize(("bad", "error", "message"), BAD_CALLS, ids=lambda value: without_addresses(str(value)[:60]))
def test_generate_checks_its_arguments_before_it_makes_a_store(
    bad: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        generate(**{"simulator": SIMULATOR, "store": tmp_path / "new.zarr", "n_samples": 64, **OPTIONS, **bad})

    assert not list(tmp_path.iterdir())


def test_a_size_of_zero_is_refused_where_a_store_is_continued(store: Path) -> None:
    with pytest.raises(ArgumentError, match=exactly("sub_batch_size must be >= 1; got 0")):
        generate(SIMULATOR, store, 64, seed=1, sub_batch_size=0)


def test_a_cluster_that_is_not_there_is_refused_before_a_store_is_removed(store: Path) -> None:
    before = file_bytes(store)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        pytest.raises(ArgumentError, match=r"^cannot reach a scheduler at scheduler='tcp://127.0.0.1:9': Timed out"),
    ):
        generate(SIMULATOR, store, 64, **{**OPTIONS, "scheduler": "tcp://127.0.0.1:9", "overwrite": True})

    assert file_bytes(store) == before


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (3, ArgumentTypeError, "store must be a path, a URL, .*; got 3"),
        (None, ArgumentTypeError, "store must be a path, a URL, .*; got None"),
        (b"s.zarr", ArgumentTypeError, "store must be a path, a URL, .*; got b's.zarr'"),
        ("nonsense://me:secret@bucket/s.zarr", ArgumentError, "store='nonsense://bucket/s.zarr' is no URL that fsspec"),
        ("file://host/s.zarr", ArgumentError, "must have the form 'file:///folder/train.zarr'"),
    ],
)
def test_what_is_no_store_is_refused(
    path: Any, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        generate(SIMULATOR, path, 64, **OPTIONS)

    assert not list(tmp_path.iterdir())

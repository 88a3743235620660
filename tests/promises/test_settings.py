"""A store is not gone on with under settings that would give other values: each one is named, with both values."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import bits, change_record, receipt_files
from variants import quick

from dasksim import (
    GraphicalSimulator,
    HierarchicalSimulator,
    LambdaSimulator,
    ModelComparisonSimulator,
    RejectionSimulator,
    SequentialSimulator,
    Simulator,
    StoreMismatchError,
    derive,
    extend,
    generate,
    make_simulator,
    verify,
)

OPTIONS: dict[str, Any] = {
    "seed": 1,
    "sub_batch_size": 4,
    "chunk_size": 8,
    "scheduler": "synchronous",
    "progress": False,
}
N = 24

Rng = np.random.Generator


def prior(rng: Rng) -> dict[str, Any]:
    return {"theta": rng.normal()}


def positive(theta: Any) -> Any:
    return theta > 0


def meta(rng: Rng) -> dict[str, Any]:
    return {"n": int(rng.integers(2, 5))}


def series(n: int, rng: Rng) -> dict[str, Any]:
    return {"x": rng.normal(size=n)}


def whole(rng: Rng) -> dict[str, Any]:
    return {"k": int(rng.integers(5))}


def rejecting(**options: Any) -> Simulator:
    return RejectionSimulator(make_simulator(prior), positive, **options)


def ragged(**options: Any) -> Simulator:
    return make_simulator(series, meta_fn=meta, **{"max_sizes": {"x_dim_0": 6}, **options})


def comparing(*, inner: Simulator | None = None, **options: Any) -> Simulator:
    return ModelComparisonSimulator({"a": inner or prior, "b": make_simulator([prior, whole])}, **options)


def graph(reps: Any = "n", **options: Any) -> Simulator:
    simulator = GraphicalSimulator(meta, **options)
    simulator.add_node("school", prior)
    simulator.add_node("pupil", lambda rng: {"y": rng.normal()}, reps=reps)
    return simulator


def declared(dtype: str | None = None) -> Simulator:
    return LambdaSimulator(prior, schema=None if dtype is None else {"theta": ((), dtype)})


def given(replace_inputs: bool) -> Simulator:
    def takes_default(x: float = 0.0) -> dict[str, Any]:
        return {"y": x}

    stages = [takes_default, lambda rng: {"x": rng.normal()}]
    return make_simulator(stages, replace_inputs=replace_inputs, expand_outputs=False)


def leveled(names: list[str]) -> Simulator:
    """A function that is drawn once for a group, or once for each member."""
    functions = {"a": lambda rng: {"a": rng.normal()}, "b": lambda rng: {"b": rng.normal()}}
    top = make_simulator({name: functions[name] for name in names}, expand_outputs=False)
    rest = make_simulator({n: f for n, f in functions.items() if n not in names} | {"c": lambda rng: {"c": 0.0}})
    return HierarchicalSimulator([top, rest])


SETTINGS: dict[str, tuple[Callable[[], Simulator], Callable[[], Simulator], str]] = {
    "sample_size": (rejecting, lambda: rejecting(sample_size=3), "sample_size: None in the store, 3 asked for"),
    "max_proposals": (
        lambda: rejecting(max_proposals=50),
        lambda: rejecting(max_proposals=60),
        "stage 'rejection': max_proposals: 50 in the store, 60 asked for",
    ),
    "fill_value": (ragged, lambda: ragged(fill_value=-1.0), "fill_value: 'nan' in the store, '-1.0' asked"),
    "max_sizes": (ragged, lambda: ragged(max_sizes={"x_dim_0": 7}), "max_sizes: {'x_dim_0': 6} in the store"),
    "p": (comparing, lambda: comparing(p=[0.3, 0.7]), "p: [0.5, 0.5] in the store, [0.3, 0.7] asked"),
    "logits": (lambda: comparing(logits=[0, 0]), lambda: comparing(logits=[0, 1]), "stage 'choice': p: [0.5, 0.5] in"),
    "is_mixed": (
        comparing,
        lambda: comparing(use_mixed_batches=False),
        "stage 'choice': use_mixed_batches: True in the store, False asked for",
    ),
    "key_conflicts": (
        lambda: comparing(key_conflicts="error", inner=make_simulator([prior, whole])),
        lambda: comparing(key_conflicts="fill", inner=make_simulator([prior, whole])),
        "stage 'merge': key_conflicts: 'error' in the store, 'fill' asked for",
    ),
    "fill_value of key_conflicts": (
        lambda: comparing(key_conflicts="fill", fill_value=1.0),
        lambda: comparing(key_conflicts="fill", fill_value=2.0),
        "stage 'merge': fill_value: '1.0' in the store, '2.0' asked for",
    ),
    "sample_size in a model": (
        lambda: comparing(inner=rejecting()),
        lambda: comparing(inner=rejecting(sample_size=2)),
        "stage 'a/rejection': sample_size: None in the store, 2 asked for",
    ),
    "max_proposals in a filter": (
        lambda: RejectionSimulator(comparing(inner=rejecting(max_proposals=80)), positive),
        lambda: RejectionSimulator(comparing(inner=rejecting(max_proposals=90)), positive),
        "stage 'a/rejection': max_proposals: 80 in the store, 90 asked for",
    ),
    "fill_value in a model": (
        lambda: ModelComparisonSimulator({"a": ragged(), "b": ragged()}),
        lambda: ModelComparisonSimulator({"a": ragged(fill_value=0.0), "b": ragged()}),
        "stage 'a/series': fill_value: 'nan' in the store, '0.0' asked for",
    ),
    "reps": (lambda: graph(2), lambda: graph(3), "plates: [['pupil', 2]] in the store, [['pupil', 3]] asked"),
    "max_sizes of a plate": (
        lambda: graph(max_sizes={"pupil": 5}),
        lambda: graph(max_sizes={"pupil": 6}),
        "stage 'pupil': max_sizes: {'pupil': 5} in the store, {'pupil': 6} asked for",
    ),
    "fill_value of a plate": (
        lambda: graph(max_sizes={"pupil": 5}),
        lambda: graph(max_sizes={"pupil": 5}, fill_value=0.0),
        "stage 'pupil': fill_value: 'nan' in the store, '0.0' asked for",
    ),
    "expand_outputs": (
        lambda: make_simulator([prior]),
        lambda: make_simulator([prior], expand_outputs=False),
        "stage 'prior': expand_outputs: True in the store, False asked for",
    ),
    "schema": (
        lambda: declared("float64"),
        lambda: declared("complex128"),
        "stage 'prior': schema: {'theta': [[], 'float64']} in the store, {'theta': [[], 'complex128']} asked for",
    ),
    "is_batched": (
        lambda: make_simulator(lambda rng: {"x": rng.normal(size=4)[0]}),
        lambda: make_simulator(lambda rng, batch_shape: {"x": rng.normal(size=batch_shape)}, is_batched=True),
        "stage '<lambda>': kind: 'RowStage' in the store, 'BatchedStage' asked for",
    ),
    "is_context": (
        lambda: LambdaSimulator(whole),
        lambda: SequentialSimulator([LambdaSimulator(whole, is_context=True)], False),
        "stage 'whole': kind: 'RowStage' in the store, 'ContextStage' asked for",
    ),
}


def without_settings(path: Path) -> None:
    """Make a store what an older version would have written: its stages say no settings."""
    root = json.loads((path / "zarr.json").read_text())
    record = json.loads(root["attributes"]["dasksim"])
    for stage in record["stages"]:
        del stage["settings"]
    root["attributes"]["dasksim"] = json.dumps(record)
    (path / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_store_is_not_gone_on_with_or_extended_under_another_setting(setting: str, tmp_path: Path) -> None:
    make, other, message = SETTINGS[setting]
    path = tmp_path / "s.zarr"
    generate(make(), path, N, **OPTIONS)
    receipt_files(path)[1].unlink()
    with pytest.raises(StoreMismatchError, match=re.escape(message)):
        generate(other(), path, N, **OPTIONS)
    with pytest.raises(StoreMismatchError, match=re.escape(message)):
        extend(path, other(), 2 * N, scheduler="synchronous", progress=False)


several = pytest.mark.parametrize("setting", quick(SETTINGS, "sample_size", "fill_value in a model", "reps", "schema"))


@several
def test_a_store_is_gone_on_with_and_extended_under_the_same_settings(setting: str, tmp_path: Path) -> None:
    make, _, _ = SETTINGS[setting]
    path = tmp_path / "s.zarr"
    generate(make(), path, N, **OPTIONS)
    receipt_files(path)[1].unlink()
    resumed = generate(make(), path, N, **OPTIONS)
    assert bits(resumed) == bits(make().sample(N, seed=1, sub_batch_size=4))
    extended = extend(path, make(), 2 * N, scheduler="synchronous", progress=False)
    assert bits(extended) == bits(make().sample(2 * N, seed=1, sub_batch_size=4))


@several
def test_a_store_that_says_no_settings_is_gone_on_with(setting: str, tmp_path: Path) -> None:
    make, _, _ = SETTINGS[setting]
    path = tmp_path / "s.zarr"
    generate(make(), path, N, **OPTIONS)
    without_settings(path)
    receipt_files(path)[1].unlink()
    generate(make(), path, N, **OPTIONS)
    assert bits(extend(path, make(), 2 * N, scheduler="synchronous", progress=False)) == bits(
        make().sample(2 * N, seed=1, sub_batch_size=4)
    )
    assert verify(path, make(), resimulate=2, progress=False).is_good


def test_level_of_a_function_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(leveled(["a", "b"]), path, (N, 2), **OPTIONS)
    with pytest.raises(StoreMismatchError, match="stage 'b': depth: 0 in the store, 1 asked for"):
        generate(leveled(["a"]), path, (N, 2), **OPTIONS)


def test_replace_inputs_is_told_where_a_condition_is_given(tmp_path: Path) -> None:
    path, conditions = tmp_path / "s.zarr", {"x": 1.0}
    generate(given(True), path, N, conditions=conditions, **OPTIONS)
    with pytest.raises(StoreMismatchError, match="replace_inputs: True in the store, False asked for"):
        generate(given(False), path, N, conditions=conditions, **OPTIONS)


def test_setting_without_influence_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(make_simulator([prior]), path, N, **OPTIONS)
    receipt_files(path)[1].unlink()
    generate(make_simulator([prior], fill_value=0.0, replace_inputs=False), path, N, **OPTIONS)


def test_change_that_leaves_samples_the_same_may_be_allowed(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(rejecting(max_proposals=500), path, N, **OPTIONS)
    receipt_files(path)[1].unlink()
    more = generate(rejecting(max_proposals=600), path, N, allow_changed=True, **OPTIONS)
    assert bits(more) == bits(rejecting().sample(N, seed=1, sub_batch_size=4))


def test_a_store_of_a_version_with_other_streams_is_not_gone_on_with(tmp_path: Path) -> None:
    def older(record: dict[str, Any]) -> None:
        for stage in record["stages"]:
            stage["settings"].pop("streams", None)

    def many(batch_shape: Any, rng: Rng) -> dict[str, Any]:
        return {"x": rng.normal(size=batch_shape)}

    plain, batched = make_simulator(prior), make_simulator(many, is_batched=True)
    for name, simulator in (("plain", plain), ("batched", batched)):
        generate(simulator, tmp_path / f"{name}.zarr", N, part=(0, 2), **OPTIONS)
        change_record(tmp_path / f"{name}.zarr", older)
    generate(batched, tmp_path / "batched.zarr", N, **OPTIONS)
    with pytest.raises(
        StoreMismatchError, match="stage 'prior': made by an older version of dasksim, in which it drew"
    ):
        generate(plain, tmp_path / "plain.zarr", N, **OPTIONS)


def test_settings_of_a_derivation_are_compared_too(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(make_simulator(prior), path, N, **OPTIONS)

    def twice(theta: Any) -> dict[str, Any]:
        return {"y": 2 * theta}

    derive(path, LambdaSimulator(twice, schema={"y": ((), "float64")}), scheduler="synchronous", progress=False)
    with pytest.raises(StoreMismatchError, match=r"schema: .*float64.* in the store, .*complex128.* asked for"):
        derive(path, LambdaSimulator(twice, schema={"y": ((), "complex128")}), scheduler="synchronous", progress=False)

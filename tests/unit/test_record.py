"""What a store says of itself: the nouns around its JSON."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasksim._core.attributes import as_coordinate
from dasksim._core.failures import VALID, Policy
from dasksim.store._entries import Derivation, StoredVariable
from dasksim.store._record import Record

PROVENANCE = {
    "version": "0.1.0",
    "seed": 1,
    "sub_batch_size": 4,
    "device": "cpu",
    "stages": [{"name": "f", "kind": "FunctionStage", "digest": "00", "inputs": [], "outputs": ["x"]}],
    "conditions": {"loc": 0.5},
    "packages": {"numpy": "2.1.0"},
}
X = StoredVariable(("batch", "time"), (3,), np.dtype("float32"))
MEAN = StoredVariable(("batch",), (), np.dtype("float64"))


def record(n_samples: int = 20, policy: Policy | None = None, **more: Any) -> Record:
    made = Record.of(
        PROVENANCE,
        shape=(n_samples, 2),
        chunk_size=8,
        policy=policy or Policy(),
        variables={"x": X},
        coords={"time": as_coordinate("time", [0, 1, 2])},
    )
    return Record({**made.document, **more})


def derivation(n_samples: int = 0) -> Derivation:
    return Derivation.of(PROVENANCE, ["x"], {"mean": MEAN}).with_length(n_samples)


@given(st.integers(1, 100))
def test_every_sample_is_in_one_chunk(n_samples: int) -> None:
    told = record(n_samples)
    rows = [range(n_samples)[told.samples(chunk)] for chunk in range(told.n_chunks)]

    assert [sample for chunk in rows for sample in chunk] == list(range(n_samples))
    assert [len(chunk) for chunk in rows] == [told.n_rows(chunk) for chunk in range(told.n_chunks)]


def test_variables_are_those_that_were_told() -> None:
    told = record()

    assert told.variables == {"x": X}
    assert told.shape == (20, 2)
    assert told.coords == {"time": ["0", "1", "2"]}
    assert X.sample_bytes == 12
    assert [(stage.name, stage.kind, stage.outputs) for stage in told.stages] == [("f", "FunctionStage", ("x",))]


def test_what_a_later_version_has_written_stays() -> None:
    told = record(of_a_later_version=[1, 2])
    longer = told.lengthened(30, told.conditions).with_derivations({"mean": derivation()})

    assert longer.document["of_a_later_version"] == [1, 2]
    assert longer.alone == told.lengthened(30, told.conditions)


def test_derived_variables_are_seen_when_they_are_complete_for_all_samples() -> None:
    told = record()

    assert list(told.with_derivations({"mean": derivation()}).visible_variables) == ["x"]
    assert list(told.with_derivations({"mean": derivation(20)}).visible_variables) == ["x", "mean"]
    assert list(told.lengthened(30, {}).with_derivations({"mean": derivation(20)}).visible_variables) == ["x"]


def test_view_of_a_derivation_stays_while_it_becomes_complete() -> None:
    begun, done = (record().with_derivations({"mean": derivation(n)}).view("mean") for n in (0, 20))

    assert begun == done
    assert begun is not None
    assert (begun.variables, begun.coords, begun.n_chunks) == ({"mean": MEAN}, {}, 3)
    assert begun.row_bytes == X.sample_bytes  # inner chunks are those of what was simulated
    assert record().view("mean") is None


def test_longer_store_knows_how_long_it_was() -> None:
    twice = record().lengthened(30, {}).lengthened(30, {}).lengthened(50, {"loc": 1.5})

    assert (twice.n_samples, twice.former_lengths, twice.shortest) == (50, (20, 30), 20)
    assert twice.chunk_counts == (7, 3, 4)
    assert twice.conditions == {"loc": 1.5}
    assert twice.is_same_store(record(created=twice.created))
    assert not twice.is_same_store(record(created=twice.created, seed=2))


def test_failures_that_ended_all_may_be_masked_from_now_on() -> None:
    wanted = record(policy=Policy("mask"))
    wanted = Record({**wanted.document, "variables": {**wanted.document["variables"], VALID: MEAN.told()}})

    assert record().differences(wanted)
    assert not record().continued(wanted).differences(wanted)
    assert wanted.continued(record()).differences(record()) == [
        "on_error: 'mask' in the store, 'raise' asked for",
        "variables: 'valid' is in the store, and not asked for",
    ]


def test_an_older_store_says_less() -> None:
    older = Record({k: v for k, v in record().document.items() if k not in ("device", "on_error", "on_nonfinite")})

    assert (older.device, older.policy) == ("cpu", Policy())
    assert not older.continued(record()).differences(record())


@pytest.mark.parametrize("attributes", [{}, {"dasksim": "{"}, {"dasksim": 3}, {"dasksim": "[1]"}])
def test_dataset_of_somebody_else_says_nothing(attributes: dict[str, Any]) -> None:
    assert not Record.of_dataset(attributes).document
    assert Record.of_dataset({"dasksim": record().text}) == record()


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="document"):
        record().document = {}  # type: ignore[misc]

"""What a store says of how it was made, and what is noticed of a change since."""

import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from bits import array_bytes, bits, chunk_files, file_bytes, receipt_files

from dasksim import (
    Simulator,
    StoreMismatchError,
    extend,
    generate,
    make_simulator,
    open_dataset,
    replay,
    status,
    verify,
)
from dasksim._engine.provenance import source_digest

N = 10
OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 2, "chunk_size": 4, "scheduler": "synchronous"}
ALONE: dict[str, Any] = {"scheduler": "synchronous"}


def first() -> Simulator:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal()}

    return make_simulator(prior)


def second() -> Simulator:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        theta = rng.normal()
        return {"theta": theta}

    return make_simulator(prior)


def renamed() -> Simulator:
    def a_priori(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal()}

    return make_simulator(a_priori)


def capturing(scale: float) -> Simulator:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal(scale=scale)}

    return make_simulator(prior)


def record(path: Path) -> Any:
    return json.loads(json.loads((path / "zarr.json").read_text())["attributes"]["dasksim"])


def test_store_says_when_and_where_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    generate(first(), path, N, **OPTIONS)
    created = record(path)["created"]
    assert created["host"] == platform.node()
    assert before <= datetime.datetime.fromisoformat(created["at"]) <= datetime.datetime.now(datetime.UTC)
    receipt_files(path)[1].unlink()
    generate(first(), path, N, **OPTIONS)
    extend(path, first(), 2 * N, **ALONE)
    assert record(path)["created"] == created


CHANGES: dict[str, tuple[Callable[[], Simulator], Callable[[], Simulator], str]] = {
    "source": (first, second, "stage 'prior': its source, its arguments or what it captures have changed"),
    "captured value": (lambda: capturing(1.0), lambda: capturing(2.0), "stage 'prior': its source, its arguments"),
    "name": (first, renamed, r"stages: \['prior'\] in the store, \['a_priori'\] asked for"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_stage_is_refused_and_recorded_where_it_is_allowed(change: str, tmp_path: Path) -> None:
    made, changed, message = CHANGES[change]
    path = tmp_path / "s.zarr"
    generate(made(), path, N, **OPTIONS)
    stages, before = record(path)["stages"], file_bytes(path)
    calls: tuple[Callable[..., Any], ...] = (
        lambda **options: generate(changed(), path, N, **OPTIONS, **options),
        lambda **options: extend(path, changed(), 2 * N, **ALONE, **options),
    )
    for call in calls:
        with pytest.raises(StoreMismatchError, match=message) as caught:
            call()
        assert "pass allow_changed=True" in str(caught.value)
        assert file_bytes(path) == before
    calls[1](allow_changed=True)
    assert status(path).is_complete
    assert record(path)["former_stages"] == [stages]
    assert record(path)["stages"] != stages
    calls[1](allow_changed=True)
    assert record(path)["former_stages"] == [stages], "nothing has changed since"
    with pytest.raises(StoreMismatchError, match="stage"):
        extend(path, made(), 2 * N, **ALONE)
    generate(made(), path, 2 * N, allow_changed=True, **ALONE)
    assert record(path)["stages"] == stages
    assert len(record(path)["former_stages"]) == 2
    assert verify(path).is_good


def test_a_stage_that_is_given_something_else_has_not_changed(tmp_path: Path) -> None:
    def likelihood(theta: float) -> dict[str, Any]:
        return {"x": theta + 1}

    def summary(x: float) -> dict[str, Any]:
        return {"s": 2 * x}

    def chain(scale: float) -> Simulator:
        def prior(rng: np.random.Generator) -> dict[str, Any]:
            return {"theta": rng.normal(scale=scale)}

        return make_simulator([prior, likelihood, summary])

    path = tmp_path / "s.zarr"
    generate(chain(1.0), path, N, **OPTIONS)
    with pytest.raises(StoreMismatchError, match="stage 'prior': its source") as caught:
        generate(chain(2.0), path, N, **OPTIONS)
    assert str(caught.value).count("stage '") == 1
    with pytest.raises(StoreMismatchError, match="'prior': what it makes was simulated in the store, and given now"):
        generate(chain(1.0), path, N, conditions={"theta": 0.5}, **OPTIONS)


def test_other_arguments_are_refused_even_where_a_change_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(first(), path, N, **OPTIONS)
    with pytest.raises(StoreMismatchError, match="seed: 1 in the store, 2 asked for"):
        generate(second(), path, N, allow_changed=True, **{**OPTIONS, "seed": 2})


def test_replay_and_verify_name_a_change_where_samples_differ(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(capturing(1.0), path, N, **OPTIONS)
    with pytest.raises(StoreMismatchError, match=r"sample 3 differs.*(?s:.)*stage 'prior': its source"):
        replay(path, capturing(2.0), 3)
    found = verify(path, capturing(2.0), resimulate=1)
    assert [problems[1][:13] for problems in found.problems.values()] == ["stage 'prior'"]


def call(*functions: Any, **options: Any) -> Any:
    return functions[0] if len(functions) == 1 else functions


def lambdas() -> dict[str, list[Any]]:
    """Return lambdas that are the same, in groups."""
    two = call(lambda rng: rng.normal(1), lambda rng: rng.normal(2))
    spread = call(
        lambda rng: rng.normal(
            1
        ),  # the same, with a comment
        option=3,
    )  # fmt: skip
    é, third = call(lambda rng: rng.normal(1)), 3
    nested: Callable[[], Any] = lambda: lambda rng: rng.normal(1)  # noqa: E731
    by_default = lambda rng, n=1: rng.normal(n)  # noqa: E731
    other_default = lambda rng, n=2: rng.normal(n)  # noqa: E731
    del third
    return {
        "one": [two[0], spread, é, nested()],
        "two": [two[1], call(lambda rng: rng.normal(2), dims="x")],
        "nested": [nested],
        "by default": [by_default],
        "other default": [other_default],
    }


def test_lambdas_are_told_apart_by_what_they_are_and_not_by_their_surroundings() -> None:
    digests = {name: {source_digest(function) for function in group} for name, group in lambdas().items()}
    assert {name: len(found) for name, found in digests.items()} == dict.fromkeys(digests, 1)
    assert len(set().union(*digests.values())) == len(digests)


def test_code_without_source_is_told_apart_by_its_constants() -> None:
    made: dict[str, Any] = {}
    exec("a = lambda: 1\nb = lambda: 2\ndef c():\n  return lambda: 3\ndef d():\n  return lambda: 4\n", made)
    assert len({source_digest(made[name]) for name in "abcd"}) == 4
    again: dict[str, Any] = {}
    exec("\n\na = lambda: 1\ndef d():\n  return lambda: 4\n", again)
    assert [source_digest(again[name]) for name in "ad"] == [source_digest(made[name]) for name in "ad"]


def test_lambda_that_has_moved_goes_on_with_its_store(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(make_simulator(lambda rng: {"x": rng.normal()}), path, N, **OPTIONS)
    simulator = make_simulator([lambda rng: {"x": rng.normal()}], expand_outputs=False)
    before = file_bytes(path)
    generate(simulator, path, N, **OPTIONS)
    assert file_bytes(path) == before


@pytest.mark.parametrize("jump", [-1e5, 0, 1e5])
def test_clock_of_this_machine_does_not_matter_to_leftovers(
    jump: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.zarr"
    generate(first(), path, N, **OPTIONS)
    ages = {"young": 0.0, "old": 3600.0, "of tomorrow": -86400.0}
    files = {name: path / "theta" / "c" / f"{i}.abc.partial" for i, name in enumerate(ages)}
    for name, file in files.items():
        file.write_bytes(b"cut off")
        stamp = file.stat().st_mtime - ages[name]
        os.utime(file, (stamp, stamp))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    generate(first(), path, N, **OPTIONS)
    assert [name for name, file in files.items() if file.exists()] == ["young", "of tomorrow"]


def test_writer_whose_file_was_taken_for_a_leftover_writes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace
    taken: list[Path] = []

    def replaced(self: Path, target: Any) -> Path:
        if not taken and "/theta/c/1" in str(target):
            taken.append(self)
            self.unlink()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    dataset = generate(first(), tmp_path / "s.zarr", N, **OPTIONS)
    assert taken
    assert bits(dataset) == bits(first().sample(N, seed=1, sub_batch_size=2))
    assert verify(tmp_path / "s.zarr").is_good


def conditioned() -> Simulator:
    return make_simulator([first(), lambda theta, rng: {"x": rng.normal(theta)}])


def lazy(shift: float, n: int = N) -> Any:
    return da.arange(float(n), chunks=3) + shift


@pytest.mark.parametrize("dtypes", [None, "float32"])
def test_other_lazy_values_are_noticed_when_a_store_is_gone_on_with(dtypes: Any, tmp_path: Path) -> None:
    path, how = tmp_path / "s.zarr", {**OPTIONS, "dtypes": dtypes}
    generate(conditioned(), path, N, conditions={"theta": lazy(0)}, **how)
    whole = array_bytes(path)
    receipt_files(path)[2].unlink()
    before = file_bytes(path)
    with pytest.raises(StoreMismatchError, match="condition 'theta' has other values in chunk 0 than the store"):
        generate(conditioned(), path, N, conditions={"theta": lazy(1)}, **how)
    with pytest.raises(StoreMismatchError, match="condition 'theta' has other values in chunk 0 than the store"):
        extend(path, conditioned(), 2 * N, conditions={"theta": lazy(1, 2 * N)}, **ALONE)
    assert file_bytes(path) == before
    generate(conditioned(), path, N, conditions={"theta": lazy(0)}, **how)
    assert array_bytes(path) == whole
    extend(path, conditioned(), 2 * N, conditions={"theta": lazy(0, 2 * N)}, **ALONE)
    assert open_dataset(path).sizes["batch"] == 2 * N


def test_complete_store_computes_no_more_than_a_chunk_of_a_lazy_condition(tmp_path: Path) -> None:
    path, rows = tmp_path / "s.zarr", []

    def counted(block: Any) -> Any:
        rows.append(len(block))
        return block

    values = da.arange(float(N), chunks=2).map_blocks(counted, dtype=float, meta=np.empty(0))
    generate(conditioned(), path, N, conditions={"theta": values}, **OPTIONS)
    rows.clear()
    generate(conditioned(), path, N, conditions={"theta": values}, **OPTIONS)
    assert sum(rows) <= 4
    assert len(chunk_files(path, "theta")) == 3

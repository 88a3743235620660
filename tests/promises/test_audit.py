"""What cannot be simulated again is said, and never stored in silence."""

import ctypes
import itertools
import os
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from variants import quick_where

import dasksim
from dasksim import IrreproducibleError, extend, generate, make_simulator, status
from dasksim._core.audits import AuditOutcome
from dasksim._execution import _audit

Rng = np.random.Generator


def prior(rng: Rng) -> dict[str, Any]:
    return {"theta": rng.normal(size=2)}


def likelihood(theta: Any, rng: Rng) -> dict[str, Any]:
    return {"x": rng.normal(theta)}


def by_the_clock(theta: Any) -> dict[str, Any]:
    return {"x": theta + time.perf_counter_ns()}


def by_the_process(theta: Any) -> dict[str, Any]:
    return {"x": theta + os.getpid()}


def by_the_hash_seed(theta: Any) -> dict[str, Any]:
    return {"x": theta + hash("a name")}


def from_call_to_call(theta: Any, rng: Rng, kept: Any = [0.0]) -> dict[str, Any]:  # noqa: B006
    before, kept[0] = kept[0], rng.normal()
    return {"x": theta + before}


def run(function: Any, path: Path, n: int = 200, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "stage .* returned different values")
        return generate(make_simulator([prior, function]), path / "s.zarr", n, seed=1, **options)


# --- what is found ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes", "cluster"])
def test_nothing_is_found_where_seeds_reach_all(scheduler: str, two_workers: Client, tmp_path: Path) -> None:
    run(likelihood, tmp_path, chunk_size=50, scheduler=two_workers if scheduler == "cluster" else scheduler)

    audit = status(tmp_path / "s.zarr").audit
    assert audit is not None
    assert audit.is_good
    assert audit.elsewhere == (scheduler in ("processes", "cluster"))
    assert audit.n_chunks >= 2
    assert "the same bits" in str(status(tmp_path / "s.zarr"))


CAUSES: dict[Any, str] = {
    by_the_clock: "Each call gives other values",
    by_the_process: "they depend on the process",
    by_the_hash_seed: "they depend on the process",
    from_call_to_call: "calls, keeps something from call to call|Each call gives other values",
}


@pytest.mark.parametrize(
    ("scheduler", "function"),
    quick_where(
        lambda scheduler, function: scheduler != "processes" or function is by_the_process,
        itertools.product(["synchronous", "threads", "processes", "cluster"], CAUSES),
    ),
)
def test_run_stops_at_its_first_chunk(scheduler: str, function: Any, two_workers: Client, tmp_path: Path) -> None:
    with pytest.raises(IrreproducibleError, match=CAUSES[function]) as raised:
        run(function, tmp_path, chunk_size=50, scheduler=two_workers if scheduler == "cluster" else scheduler)

    assert f"stage {function.__name__!r}: x = [" in str(raised.value)
    found = status(tmp_path / "s.zarr")
    assert found.audit is not None
    assert not found.audit.is_good
    assert "NOT REPRODUCIBLE" in str(found)


@pytest.mark.parametrize(("n", "chunk_size"), [(200, 50), (10, 50), (2, 50), (200, 2), (1, 50), (200, 1)])
def test_no_part_is_all_that_was_made(n: int, chunk_size: int) -> None:
    """A worker that made all of it, from the first sample on, would keep from call to call what the other one kept."""
    pipeline, plan = make_simulator([prior, from_call_to_call]).plan(
        (n,), seed=1, sub_batch_size=chunk_size, chunk_size=chunk_size, conditions={}
    )
    of_no_time = replace(pipeline, steps=tuple(replace(step, seconds=1e-9) for step in pipeline.steps))

    made, again = plan.n_rows(0), of_no_time.parts(plan)

    assert again.chunk_size == max(made // 2, 1)
    assert again.n_chunks > 1 or n == 1


def test_values_then_and_now_are_told(tmp_path: Path) -> None:
    with pytest.raises(IrreproducibleError, match="Each call gives other values") as raised:
        run(by_the_clock, tmp_path, n=10, scheduler="synchronous")

    sample = int(str(raised.value).split()[1])
    stored = dasksim.open_dataset(tmp_path / "s.zarr").x.values[sample]
    told = str(raised.value).partition("x = ")[2]
    assert told.startswith(np.array2string(stored, floatmode="unique"))
    assert " now, [" in told
    assert "once more" in told


def test_warning_in_place_of_an_error(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="came out otherwise"):
        run(by_the_clock, tmp_path, scheduler="synchronous", audit="warn")

    assert status(tmp_path / "s.zarr").is_complete
    assert "NOT REPRODUCIBLE" in str(status(tmp_path / "s.zarr"))


def test_no_audit(tmp_path: Path) -> None:
    run(by_the_clock, tmp_path, scheduler="synchronous", audit=False)

    assert status(tmp_path / "s.zarr").audit is None
    assert "audited  no" in str(status(tmp_path / "s.zarr"))


def test_what_differs_later_is_a_warning(tmp_path: Path) -> None:
    drawn = dasksim.make_simulator([prior]).sample(200, seed=1).theta.values[:, 0]
    late = set(drawn[50:])  # of a later chunk than the first

    def irregular(theta: Any) -> dict[str, Any]:
        return {"x": theta[0] + (time.perf_counter_ns() if theta[0] in late else 0)}

    with pytest.warns(UserWarning, match="came out otherwise"):
        run(irregular, tmp_path, chunk_size=50, scheduler="synchronous")

    assert status(tmp_path / "s.zarr").is_complete
    assert "NOT REPRODUCIBLE" in str(status(tmp_path / "s.zarr"))


@pytest.mark.parametrize(
    ("on_error", "told"), [("mask", "has failed now"), ("raise", "stage 'moody': raised ValueError: tired")]
)
def test_failure_that_comes_only_again(on_error: str, told: str, tmp_path: Path) -> None:
    calls = []

    def moody(theta: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) > 18:  # two by the probe, one for each sample
            raise ValueError("tired")
        return {"x": theta}

    with pytest.raises(IrreproducibleError, match=told):
        run(moody, tmp_path, n=16, scheduler="synchronous", on_error=on_error)


# --- streams that repeat ----------------------------------------------------------------------------------------------


def test_streams_that_repeat_are_told(tmp_path: Path) -> None:
    def of_each_chunk(batch_shape: Any) -> dict[str, Any]:
        return {"x": np.random.default_rng(1).normal(size=batch_shape)}

    with pytest.warns(UserWarning, match="4 of 4 chunks begin with .* samples 0 and 50 on"):
        generate(
            make_simulator(of_each_chunk, is_batched=True),
            tmp_path / "s.zarr",
            200,
            seed=1,
            sub_batch_size=50,
            chunk_size=50,
        )
    assert "begin with the samples" in str(status(tmp_path / "s.zarr"))


@pytest.mark.parametrize(
    "function",
    [
        lambda rng: {"coin": rng.integers(2)},
        lambda rng: {"rare": rng.uniform() < 1e-3},
        lambda rng: {"of_ten": 0.1 * rng.integers(10)},
        lambda: {"constant": 3.0},
    ],
)
def test_values_that_repeat_by_chance_are_not(function: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(make_simulator(function), tmp_path / "s.zarr", 100, seed=1, chunk_size=2, scheduler="threads")


def test_openings_alike_by_chance() -> None:
    rng = np.random.default_rng(1)
    few = {chunk: tuple(rng.integers(10, size=2).tolist()) for chunk in range(100)}
    many = {chunk: tuple(rng.integers(1 << 60, size=2).tolist()) for chunk in range(100)}

    assert _audit._alike(few) == []
    assert _audit._alike(many) == []
    assert _audit._alike({**many, 70: many[3]}) == [[3, 70]]
    assert _audit._alike({0: (1, 2), 1: (1, 2)}) == []  # of two nobody knows
    assert _audit._alike({}) == []


def test_conditions_may_repeat(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(
            make_simulator(lambda theta: {"x": theta**2}),
            tmp_path / "s.zarr",
            200,
            conditions={"theta": np.tile(np.arange(50.0), 4)},
            chunk_size=50,
            scheduler="synchronous",
        )


# --- every class, every way -------------------------------------------------------------------------------------------


def test_extension_is_audited_too(tmp_path: Path) -> None:
    simulator = make_simulator([prior, likelihood])
    run(likelihood, tmp_path, n=50, chunk_size=50, scheduler="synchronous")
    first = status(tmp_path / "s.zarr").audit
    extend(tmp_path / "s.zarr", simulator, 100, scheduler="synchronous")
    second = status(tmp_path / "s.zarr").audit

    assert first is not None
    assert second is not None
    assert (first.n_chunks, second.n_chunks) == (1, 2)


def test_each_part_is_audited(tmp_path: Path) -> None:
    for i in range(2):
        run(likelihood, tmp_path, chunk_size=50, scheduler="synchronous", part=(i, 2))

    audit = status(tmp_path / "s.zarr").audit
    assert audit is not None
    assert audit.n_chunks == 4


def test_what_takes_too_long_is_no_difference(tmp_path: Path) -> None:
    def hangs(theta: Any) -> dict[str, Any]:
        if theta[0] > 0.8:
            time.sleep(100)
        return {"x": theta}

    assert (make_simulator([prior]).sample(12, seed=1).theta.values[:, 0] > 0.8).any()
    run(hangs, tmp_path, n=12, scheduler="synchronous", timeout=0.3, on_error="mask")

    assert not status(tmp_path / "s.zarr").audit


def test_what_cannot_be_sent_is_simulated_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_audit, "_WORTH_A_PROCESS", 0.0)
    opened = (tmp_path / "a file").open("w")

    def holds(theta: Any) -> dict[str, Any]:
        return {"x": theta * (opened is not None)}

    run(holds, tmp_path, scheduler="threads")
    audit = status(tmp_path / "s.zarr").audit
    opened.close()

    assert audit is not None
    assert not audit.elsewhere


def test_long_run_is_audited_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_audit, "_WORTH_A_PROCESS", 0.0)
    run(likelihood, tmp_path, scheduler="threads")

    audit = status(tmp_path / "s.zarr").audit
    assert audit is not None
    assert audit.elsewhere


def test_argument_is_checked(tmp_path: Path) -> None:
    with pytest.raises(dasksim.ArgumentTypeError, match="audit must be True, False or 'warn'; got 'stop'"):
        run(likelihood, tmp_path, audit="stop")


@pytest.mark.parametrize("document", [{}, {"n_samples": "many"}, {"n_samples": 1, "n_chunks": 1, "found": 3}])
def test_damaged_outcome_is_left_out(document: Any) -> None:
    assert AuditOutcome.of_document(document) is None


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="loads the C library as POSIX does")
def test_calls_of_c_that_belong_together_are_not_torn_apart_by_threads(tmp_path: Path) -> None:
    def seeded(seed32: int) -> dict[str, Any]:
        c = ctypes.CDLL(None)
        c.srand(seed32)
        time.sleep(1e-4)  # another thread's turn
        return {"x": c.rand()}

    made = [
        generate(
            make_simulator(seeded), tmp_path / scheduler, 100, seed=1, chunk_size=10, scheduler=scheduler
        ).compute()
        for scheduler in ("synchronous", "threads")
    ]
    assert made[0].x.equals(made[1].x)

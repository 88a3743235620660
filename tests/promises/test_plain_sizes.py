"""Plain functions: sizes that follow what a sample takes, and what acts on single samples."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bits import bits
from distributed import Client

from dasksim import ModelComparisonSimulator, Simulator, StoreError, extend, generate, make_simulator, replay, status
from dasksim._core.failures import Failure, summed
from dasksim._core.plan import Cost, plan_samples
from dasksim._execution.progress import Progress
from dasksim.store import Store

Rng = np.random.Generator


def prior(rng: Rng) -> dict[str, Any]:
    return {"theta": rng.normal()}


def likelihood(theta: Any, rng: Rng) -> dict[str, Any]:
    return {"x": rng.normal(theta, size=3)}


def sizes(n: int, **cost: Any) -> tuple[int, int]:
    plan = plan_samples((n,), Cost(**{"n_bytes": 32, "is_by_cell": True, **cost}), seed=1)
    return plan.sub_batch_size, plan.chunk_size


def files(folder: Path) -> dict[str, bytes]:
    """Return the shards of a store; its documents tell when it was made, and of what."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if "/c/" in name and not name.startswith("_dasksim")}


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_a_probe_measures_what_a_sample_takes() -> None:
    def slow(rng: Rng) -> dict[str, Any]:
        time.sleep(0.05)
        return {"x": rng.normal()}

    pipeline, plan = make_simulator([prior, slow]).plan(
        (200,), seed=1, sub_batch_size=None, chunk_size=None, conditions={}
    )
    assert pipeline.cost(on_gpu=False).seconds >= 0.05
    assert plan.sub_batch_size <= 4
    assert plan.chunk_size <= 64


@pytest.mark.parametrize("n", [1, 10, 5000, 10**6, 10**10])
def test_a_chunk_is_at_most_about_a_minute_and_never_cut_to_n(n: int) -> None:
    for seconds in (s for s in (1e-6, 1e-4, 3e-3, 0.3, 2.0, 100.0) if n * s < 1e7):
        size, chunk = sizes(n, seconds=seconds)
        assert size * seconds <= 0.25 or size == 1
        assert chunk * seconds <= 60 or chunk == 1
        assert chunk % size == 0
        # until there are a thousand chunks, of two seconds or more
        if n * max(seconds, 60e-6) < 2000:
            assert chunk == sizes(1, seconds=seconds)[1]
    assert sizes(min(n, 10**6), n_bytes=8_000_000) == (1, 4)


@pytest.mark.parametrize("chunk_size", [1, 7, 1000, 5000, 100_000, 10_007])
def test_any_chunk_size_can_be_asked_for(chunk_size: int) -> None:
    plan = plan_samples((20_000,), Cost(32, is_by_cell=True), seed=1, chunk_size=chunk_size)
    assert plan.chunk_size == chunk_size
    assert chunk_size % plan.sub_batch_size == 0
    assert plan.sub_batch_size <= 4096


def test_sizes_on_which_values_depend_do_not_follow_time() -> None:
    context = make_simulator([prior, lambda n, rng: {"x": rng.normal() * n}], meta_fn=lambda rng: {"n": rng.poisson(3)})
    pipeline, plan = context.plan((2000,), seed=1, sub_batch_size=None, chunk_size=None, conditions={})
    assert not pipeline.is_by_cell
    assert plan.sub_batch_size == 512


def test_extension_of_a_few_samples_makes_the_files_of_all_at_once(tmp_path: Path) -> None:
    simulator = make_simulator([prior, likelihood])
    generate(simulator, tmp_path / "grown.zarr", 10, seed=1, scheduler="threads")
    extend(tmp_path / "grown.zarr", simulator, 70_000, scheduler="threads")
    generate(simulator, tmp_path / "once.zarr", 70_000, seed=1, scheduler="threads")

    assert len(files(tmp_path / "once.zarr")) == 4
    assert files(tmp_path / "grown.zarr") == files(tmp_path / "once.zarr")


@pytest.mark.parametrize("comes_first", [False, True])
def test_writers_take_the_sizes_of_the_one_that_came_first(
    comes_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.05

    def slow(rng: Rng) -> dict[str, Any]:
        time.sleep(seconds)
        return {"x": rng.normal()}

    simulator = make_simulator(slow)
    generate(simulator, tmp_path / "s.zarr", 16, seed=1, part=(0, 2), scheduler="threads")
    first = status(tmp_path / "s.zarr")
    seconds = 0.0
    if comes_first:  # between the look for a store and the claim
        find, found = Store.find_record, iter([None])
        monkeypatch.setattr(Store, "find_record", lambda self, **how: next(found, find(self, **how)))
    generate(make_simulator(slow), tmp_path / "s.zarr", 16, seed=1, part=(1, 2), scheduler="threads")
    monkeypatch.undo()

    then = status(tmp_path / "s.zarr")
    assert first.sub_batch_size <= 4
    assert (then.sub_batch_size, then.chunk_size) == (first.sub_batch_size, first.chunk_size)


# --- before and during work -------------------------------------------------------------------------------------------


def test_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = generate(make_simulator([prior, likelihood]), tmp_path / "s.zarr", 100_000, seed=1, dry_run=True)

    assert "100,000 samples (3.2 MB) in 2 chunks of 65,536, on " in capsys.readouterr().err
    assert dict(found.sizes) == {"batch": 100_000, "scalar": 1, "x_dim_0": 3}
    assert list(tmp_path.iterdir()) == []


def test_dry_run_counts_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"seed": 1, "chunk_size": 10, "scheduler": "synchronous"}
    generate(make_simulator(prior), tmp_path / "s.zarr", 100, part=(0, 2), **options)
    generate(make_simulator(prior), tmp_path / "s.zarr", 100, dry_run=True, **options)

    assert "50 samples (400 bytes) in 5 chunks of 10, in about a second" in capsys.readouterr().err


def test_what_cannot_fit_on_the_disk_is_refused_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))

    def never(rng: Rng) -> dict[str, Any]:
        called.append(1)
        return {"x": rng.normal()}

    called: list[int] = []
    with pytest.raises(StoreError, match=r"1 chunk.* need 8.0 kB, but 1.0 kB are free"):
        generate(make_simulator(never), tmp_path / "s.zarr", 1000, seed=1, scheduler="synchronous")
    assert len(called) == 2  # the probe


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes", "cluster"])
def test_progress_counts_samples_within_a_chunk(
    scheduler: str, two_workers: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(rng: Rng) -> dict[str, Any]:
        time.sleep(0.15)
        return {"x": rng.normal()}

    told: list[tuple[int, int]] = []
    monkeypatch.setattr(Progress, "tell", lambda self, chunk, n_done: told.append((chunk, n_done)))
    where: Any = two_workers if scheduler == "cluster" else scheduler
    generate(make_simulator(slow), tmp_path / "s.zarr", 14, seed=1, chunk_size=14, scheduler=where, progress=True)

    # how often it is told is up to the machine: at the least once in two seconds
    assert {chunk for chunk, _ in told} == {0}
    counts = [n_done for _, n_done in told]
    assert counts == sorted(counts)
    assert 0 < counts[0] < 14


def test_bar_takes_back_what_is_lost_with_a_worker() -> None:
    with Progress(30, 0, shown=True) as bar:
        bar.tell(0, 8)
        bar.tell(0, 2)  # begun again
        bar.advance(0, 10, 10, 10)
        bar.tell(0, 9)  # late
        assert bar._bar.n == 10


# --- single samples ---------------------------------------------------------------------------------------------------


def test_one_sample_that_hangs_is_masked_alone_and_its_parameters_stay(tmp_path: Path) -> None:
    def hangs(theta: Any, rng: Rng) -> dict[str, Any]:
        if theta == largest:
            time.sleep(100)
        return {"x": rng.normal(theta)}

    theta = make_simulator([prior]).sample(40, seed=4).theta.values
    largest = theta.max()
    found = generate(
        make_simulator([prior, hangs]), tmp_path / "s.zarr", 40, seed=4, timeout=1, on_error="mask", scheduler="threads"
    )

    np.testing.assert_array_equal(found.theta.values, theta)
    np.testing.assert_array_equal(found.valid.values, theta[:, 0] < largest)
    np.testing.assert_array_equal(np.isfinite(found.x.values), theta < largest)
    assert "failed   1 time in 40 samples (2.50%)" in str(status(tmp_path / "s.zarr"))
    failure = status(tmp_path / "s.zarr").failures[0]
    assert (failure.stage, failure.kind, failure.count) == ("hangs", "TimeoutError", 1)


def test_replay_runs_one_sample(tmp_path: Path) -> None:
    def counted(rng: Rng) -> dict[str, Any]:
        called.append(1)
        return {"x": rng.normal()}

    called: list[int] = []
    simulator = make_simulator(counted)
    generate(simulator, tmp_path / "s.zarr", 100, seed=1, scheduler="synchronous")
    before = len(called)

    assert replay(tmp_path / "s.zarr", simulator, 77).is_stored
    assert len(called) - before == 1


def fails(theta: Any, rng: Rng) -> dict[str, Any]:
    x = rng.normal(theta)
    if theta > 0.5:
        raise ValueError("too large")
    return {"x": x}


def infinite(theta: Any, rng: Rng) -> dict[str, Any]:
    x = rng.normal(theta)
    return {"x": x if theta < 0.5 else np.inf}


def last(x: Any, rng: Rng) -> dict[str, Any]:
    return {"z": rng.normal(x)}


def batched(theta: Any) -> dict[str, Any]:
    if (theta > 0.5).any():
        raise ValueError("too large")
    return {"x": 2 * theta}


def comparison() -> Simulator:
    models = [make_simulator([prior, fails, last]), make_simulator([prior, likely, last])]
    return ModelComparisonSimulator(models)


def likely(theta: Any, rng: Rng) -> dict[str, Any]:
    return {"x": rng.normal(theta)}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: make_simulator([prior, fails, last]), {"on_error": "mask"}),
        (lambda: make_simulator([prior, infinite, last]), {"on_nonfinite": "mask"}),
        (lambda: make_simulator([make_simulator(prior), make_simulator(batched, is_batched=True), last]), {}),
        (comparison, {"on_error": "mask"}),
    ],
    ids=["raises", "infinite", "batched", "comparison"],
)
def test_masks_keep_what_was_made_before_the_failure(
    make: Callable[[], Simulator], options: dict[str, Any], tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    found = generate(
        make(), store, 60, seed=1, sub_batch_size=5, scheduler="threads", **(options or {"on_error": "mask"})
    ).compute()
    valid = found.valid.values

    assert 5 < valid.sum() < 55
    assert np.isfinite(found.theta.values).all()
    assert np.isnan(found.x.values[~valid]).all()
    assert np.isnan(found.z.values[~valid]).all()
    assert np.isfinite(found.x.values[valid]).all()
    if "model_indices" in found:
        assert (found.theta.values[~valid] > 0.5).all()
        assert (found.model_indices.values[~valid] == [1, 0]).all()
    else:
        theta = make_simulator([prior]).sample(60, seed=1).theta.values if options else found.theta.values
        np.testing.assert_array_equal(found.theta.values.ravel(), theta.ravel())


def test_masks_keep_what_was_made_before_a_failure_at_a_redraw(tmp_path: Path) -> None:
    """What is kept belongs to the attempt that was masked."""

    def once(theta: Any, rng: Rng) -> dict[str, Any]:
        if theta > 0.5:
            raise ValueError("too large")
        return {"x": theta if theta < 0 else np.inf}

    simulator = make_simulator([prior, once])
    options: dict[str, Any] = {"seed": 1, "on_error": "redraw", "on_nonfinite": "mask", "scheduler": "threads"}
    found = generate(simulator, tmp_path / "s.zarr", 200, **options).compute()
    valid = found.valid.values

    assert 50 < valid.sum() < 180
    assert (found.theta.values[valid] < 0).all()
    assert ((found.theta.values[~valid] >= 0) & (found.theta.values[~valid] <= 0.5)).all()
    other = generate(simulator, tmp_path / "o.zarr", 200, sub_batch_size=7, chunk_size=70, **options)
    assert bits(other) == bits(found)


def test_messages_that_differ_in_numbers_count_as_one() -> None:
    failures = [
        Failure("f", "ValueError", "no root x1 in [0.5, -1e-3] at 0x7f12", 2, 9),
        Failure("f", "ValueError", "no root x1 in [2, nan] at 0x88ab", 3, 4),
        Failure("f", "ValueError", "no root x2 in [2, 3] at 0x1", 1, 1),
        Failure("g", "ValueError", "step 3", 1, 1),
    ]
    assert [(f.message, f.count, f.sample) for f in summed(failures)] == [
        ("no root x1 in [#, #] at #", 5, 4),
        ("no root x2 in [2, 3] at 0x1", 1, 1),
        ("step 3", 1, 1),
    ]

"""Stores of filtered samples: their counts, and what becomes of runs that are interrupted."""

import itertools
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import array_bytes, bits, chunk_files, receipt_files
from distributed import Client
from killing import arrays, kill_at, n_receipts
from variants import quick_where

from dasksim import RejectionSimulator, generate, make_simulator, open_dataset, status

Rng = np.random.Generator


def square(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
    return {"x": rng.uniform(-1, 1, batch_shape), "y": rng.uniform(-1, 1, batch_shape)}


def point(rng: Rng) -> dict[str, Any]:
    return {"x": rng.uniform(-1, 1), "y": rng.uniform(-1, 1)}


def measure(x: float, y: float, rng: Rng) -> dict[str, Any]:
    return {"r": np.hypot(x, y) + rng.normal(size=2)}


CIRCLES: dict[str, RejectionSimulator] = {
    "batched": RejectionSimulator(make_simulator(square, is_batched=True), lambda x, y: x**2 + y**2 < 1),
    "unbatched": RejectionSimulator(make_simulator([point, measure]), lambda x, y: x**2 + y**2 < 1),
}

OPTIONS: dict[str, Any] = {"seed": 3, "sub_batch_size": 50, "chunk_size": 100}


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    ("kind", "scheduler"),
    quick_where(
        lambda kind, scheduler: scheduler != "processes" or kind == "unbatched",
        itertools.product(CIRCLES, ["synchronous", "threads", "processes", "cluster"]),
    ),
)
def test_generated_store_equals_sample(kind: str, scheduler: str, two_workers: Client, tmp_path: Path) -> None:
    where = two_workers if scheduler == "cluster" else scheduler
    ds = generate(CIRCLES[kind], tmp_path / "s.zarr", 430, scheduler=where, **OPTIONS)
    assert bits(ds) == bits(CIRCLES[kind].sample(430, **OPTIONS), scheduler="synchronous")


@pytest.mark.parametrize("kind", CIRCLES)
def test_rejection_sample_is_the_simulator(kind: str) -> None:
    simulator = CIRCLES[kind]
    by_method = simulator.simulator.rejection_sample(130, simulator.predicate, **OPTIONS)
    assert bits(by_method) == bits(simulator.sample(130, **OPTIONS))


@pytest.mark.parametrize("kind", CIRCLES)
def test_store_tells_its_acceptance(kind: str, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    generate(CIRCLES[kind], store, 2000, scheduler="threads", **OPTIONS)
    found = status(store)
    assert 2000 <= found.n_accepted < found.n_proposals
    assert found.acceptance_rate == found.n_accepted / found.n_proposals
    # five standard deviations of a share of at least 2000 proposals
    assert abs(found.acceptance_rate - np.pi / 4) < 5 * np.sqrt(np.pi / 4 * (1 - np.pi / 4) / 2000)
    assert open_dataset(store).attrs["acceptance_rate"] == found.acceptance_rate
    assert "proposals" in repr(found) + str(found)


def test_store_without_rejection_has_no_acceptance(tmp_path: Path) -> None:
    ds = generate(CIRCLES["batched"].simulator, tmp_path / "s.zarr", 300, scheduler="threads", **OPTIONS)
    assert "acceptance_rate" not in ds.attrs
    assert status(tmp_path / "s.zarr").acceptance_rate == 1


@pytest.mark.parametrize("kind", CIRCLES)
def test_interrupted_store_is_resumed_to_the_same_bytes(kind: str, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    generate(CIRCLES[kind], store, 430, scheduler="threads", **OPTIONS)
    wanted, before = array_bytes(store), status(store)
    for chunk in (0, 2, 4):
        receipt_files(store)[chunk].unlink()
        chunk_files(store, "x")[chunk].unlink()
    partial = status(store)
    assert not partial.is_complete
    assert partial.n_proposals < before.n_proposals
    generate(CIRCLES[kind], store, 430, scheduler="synchronous", **OPTIONS)
    assert array_bytes(store) == wanted
    assert (status(store).n_proposals, status(store).n_accepted) == (before.n_proposals, before.n_accepted)


SIMULATORS = """
import dasksim

def square(batch_shape, rng):
    return {"x": rng.uniform(-1, 1, batch_shape), "y": rng.uniform(-1, 1, batch_shape)}

def measure(x, y, rng):
    return {"r": (x + y)[..., None] + rng.normal(size=(*x.shape, 2))}

def normal(scale, rng):
    return {"data": rng.normal(scale=scale, size=3)}

def student(scale, rng):
    return {"data": scale * rng.standard_t(3, size=3)}

rejection = dasksim.RejectionSimulator(
    dasksim.make_simulator([square, measure], is_batched=True), lambda x, y: x**2 + y**2 < 0.2
)
comparison = dasksim.ModelComparisonSimulator(
    [normal, student], p=[0.3, 0.7], shared_simulator=lambda batch_shape, rng: {"scale": rng.uniform(size=batch_shape)}
)
"""

#: Options of runs of about two seconds and a hundred chunks, by simulator.
RUNS = {
    "rejection": ["-n", "800000", "--chunk-size", "8192", "--sub-batch-size", "2048", "--scheduler", "threads"],
    "comparison": ["-n", "200000", "--chunk-size", "2048", "--sub-batch-size", "1024", "--scheduler", "processes"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_killed_run_is_resumed_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    (tmp_path / "simulators.py").write_text(SIMULATORS)

    def command(store: Path) -> list[str]:
        target = f"{tmp_path / 'simulators.py'}:{name}"
        return [sys.executable, "-m", "dasksim", "generate", target, str(store), "--seed", "2025", *RUNS[name]]

    reference = tmp_path / "undisturbed.zarr"
    subprocess.run(command(reference), check=True, stderr=subprocess.DEVNULL)
    expected, whole = arrays(reference), status(reference)
    moments = random.Random(2025)
    cut = []
    for i in range(5):
        store = tmp_path / f"killed-{i}.zarr"
        fraction, delay = (0.0, moments.uniform(0, 1.5)) if i == 3 else (moments.random(), moments.uniform(0, 0.02))
        kill_at(fraction, delay, command(store), store, whole.n_chunks)
        cut.append(n_receipts(store))
        subprocess.run(command(store), check=True, stderr=subprocess.DEVNULL)

        found = status(store)
        assert found.is_complete
        assert (found.n_proposals, found.n_accepted) == (whole.n_proposals, whole.n_accepted)
        assert arrays(store) == expected
    print(f"{name}: 5 runs of {whole.n_chunks} chunks killed with {cut} chunks complete, all resumed to the same")
    assert sum(0 < n < whole.n_chunks for n in cut) >= 2

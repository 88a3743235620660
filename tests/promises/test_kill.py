"""The command line, killed at random moments and run again, gives the bytes of an undisturbed run."""

import random
from pathlib import Path

import pytest
from killing import RUNS, SIMULATOR, arrays, command, kill_at, n_receipts
from processes import run_python
from variants import quick

import dasksim


def check_kills(folder: Path, scheduler: str, n_kills: int, seed: int, part_of_samples: float = 1.0) -> None:
    (folder / "simulators.py").write_text(SIMULATOR)

    def run_undisturbed(store: Path) -> None:
        run = run_python(*command(folder, scheduler, store, part_of_samples)[1:], cwd=folder)
        assert run.returncode == 0, run.stderr

    reference = folder / "undisturbed.zarr"
    run_undisturbed(reference)
    expected, n_chunks = arrays(reference), dasksim.status(reference).n_chunks
    moments = random.Random(seed)
    cut = []
    for i in range(n_kills):
        store = folder / f"killed-{i}.zarr"
        # one in four while Python starts and the store is made, the others among its chunks
        fraction, delay = (0.0, moments.uniform(0, 1.5)) if i % 4 == 3 else (moments.random(), moments.uniform(0, 0.02))
        kill_at(fraction, delay, command(folder, scheduler, store, part_of_samples), store, n_chunks)
        cut.append(n_receipts(store))
        run_undisturbed(store)

        assert dasksim.status(store).is_complete
        assert arrays(store) == expected
    print(
        f"{scheduler}: {n_kills} runs of {n_chunks} chunks killed with {cut} chunks complete, all resumed to the same"
    )
    assert sum(0 < n < n_chunks for n in cut) >= max(1, n_kills // 2)


@pytest.mark.parametrize("scheduler", quick(RUNS, "threads"))
def test_killed_run_is_resumed_to_the_same_bytes(scheduler: str, tmp_path: Path) -> None:
    check_kills(tmp_path, scheduler, n_kills=1, seed=4, part_of_samples=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", RUNS)
def test_runs_killed_at_20_moments_are_resumed_to_the_same_bytes(scheduler: str, tmp_path: Path) -> None:
    check_kills(tmp_path, scheduler, n_kills=20, seed=2025)

"""A store filled by many processes that do not know of each other."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import array_bytes, bits, file_bytes, finished_bytes, receipt_files
from calls import Calls, counted_simulator
from processes import ended, run_at_once

from dasksim import (
    ArgumentError,
    ArgumentTypeError,
    IncompleteStoreError,
    Simulator,
    StoreError,
    StoreMismatchError,
    generate,
    make_simulator,
    open_dataset,
    status,
)
from dasksim.cli import main

# 18 samples in chunks of 4: 5 chunks, the last one short.
N = 18
OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 2, "chunk_size": 4, "scheduler": "synchronous"}

SIMULATOR = """
import time
import numpy as np

def prior(rng):
    time.sleep(0.002)
    return {"theta": rng.normal(size=2)}

def likelihood(theta, rng):
    return {"x": rng.normal(theta[0], size=3)}

simulator = [prior, likelihood]
"""


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal(size=2)}


def simulator() -> Simulator:
    return make_simulator(prior)


def command(folder: Path, store: Path, part: str, *options: str) -> list[str]:
    file = folder / "simulators.py"
    if not file.exists():  # a process that starts meanwhile would read half of it
        file.write_text(SIMULATOR)
    target = f"{file}:simulator"
    sizes = ["-n", "400", "--sub-batch-size", "5", "--chunk-size", "10", "--scheduler", "synchronous"]
    more = ["--part", part] if part else []
    return [sys.executable, "-m", "dasksim", "generate", target, str(store), *sizes, "--no-progress", *more, *options]


def start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(arguments, stderr=subprocess.PIPE)


def test_two_processes_fill_a_store_and_one_of_them_is_killed_and_started_again(tmp_path: Path) -> None:
    path, alone = tmp_path / "s.zarr", tmp_path / "alone.zarr"
    runs = [start(command(tmp_path, path, f"{i}/2", "--seed", "1")) for i in range(2)]
    with ended(runs):
        while not any(chunk >= 20 for chunk in receipt_files(path)):
            assert runs[1].poll() is None
            time.sleep(0.01)
        os.kill(runs[1].pid, signal.SIGKILL)
        runs[1].communicate()
        assert any(last >= 20 for _, last in status(path).missing)
        again = command(tmp_path, path, "1/2")[1:]  # with the seed of the store
        run_at_once([again, command(tmp_path, alone, "", "--seed", "1")[1:]], cwd=tmp_path)
        error = runs[0].communicate()[1].decode()
        assert runs[0].returncode == 0, error
    assert status(path).is_complete
    assert finished_bytes(path) == array_bytes(alone)


def test_processes_without_a_seed_agree_on_one(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    run_at_once([command(tmp_path, path, part)[1:] for part in ("0/3", "1/3", "2/3", "1/3")], cwd=tmp_path)
    found = status(path)
    assert found.is_complete
    run_at_once([command(tmp_path, tmp_path / "alone.zarr", "", "--seed", str(found.seed))[1:]], cwd=tmp_path)
    assert array_bytes(path) == array_bytes(tmp_path / "alone.zarr")


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))][::2])
def test_parts_make_up_the_whole(order: tuple[int, ...], tmp_path: Path) -> None:
    calls, path = Calls(tmp_path), tmp_path / "s.zarr"
    counted = counted_simulator(calls)
    counted.sample(N)  # it is probed once
    calls.take()
    for i in order:
        generate(counted, path, N, part=(i, 3), audit=False, **OPTIONS)
    assert calls.take()["noise"] == N
    assert status(path).is_complete
    generate(counted, tmp_path / "alone.zarr", N, **OPTIONS)
    assert array_bytes(path) == array_bytes(tmp_path / "alone.zarr")


@pytest.mark.parametrize("m", [1, 2, 3, 5, 7])
def test_part_returns_its_samples(m: int, tmp_path: Path) -> None:
    path, sampled = tmp_path / "s.zarr", simulator().sample(N, seed=1, sub_batch_size=2)
    first = 0
    for i in range(m):
        dataset = generate(simulator(), path, N, part=(i, m), **OPTIONS)
        stop = first + dataset.sizes["batch"]
        assert bits(dataset) == bits(sampled.isel(batch=slice(first, stop)))
        first = stop
    assert first == N


def test_more_parts_than_chunks_leave_some_empty(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    sizes = [generate(simulator(), path, N, part=(i, 20), **OPTIONS).sizes["batch"] for i in range(20)]
    assert sorted(sizes, reverse=True)[:6] == [4, 4, 4, 4, 2, 0]
    assert status(path).is_complete


def test_status_says_which_runs_of_chunks_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 36, part=(1, 3), **OPTIONS)
    assert status(path).missing == ((0, 2), (6, 8))
    receipt_files(path)[4].unlink()
    assert status(path).missing == ((0, 2), (4, 4), (6, 8))
    assert main(["status", str(path)]) == 1
    assert "  missing  0-2, 4, 6-8\n" in capsys.readouterr().out
    with pytest.raises(IncompleteStoreError, match="has 2 of 9 chunks"):
        open_dataset(path)


def test_many_missing_runs_are_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 100, **OPTIONS)
    for chunk in range(0, 25, 2):
        receipt_files(path)[chunk].unlink()
    assert status(path).missing == tuple((chunk, chunk) for chunk in range(0, 25, 2))
    assert "  missing  0, 2, 4, 6, 8, 10, 12, 14, and 5 more runs\n" in str(status(path))


def test_call_without_a_part_finishes_what_parts_have_left(tmp_path: Path) -> None:
    calls, path = Calls(tmp_path), tmp_path / "s.zarr"
    counted = counted_simulator(calls)
    generate(counted, path, N, part=(1, 3), **OPTIONS)
    calls.take()
    generate(counted, path, N, part=(1, 3), **OPTIONS)
    assert calls.take() == {}
    dataset = generate(counted, path, N, scheduler="synchronous", audit=False)
    assert calls.take()["noise"] == N - 8
    assert bits(dataset) == bits(counted.sample(N, seed=1, sub_batch_size=2))


def test_parts_of_different_numbers_can_be_mixed(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    for part in ((0, 4), (1, 2), (0, 2), (2, 3)):
        generate(simulator(), path, N, part=part, **OPTIONS)
    assert status(path).is_complete
    assert bits(open_dataset(path)) == bits(simulator().sample(N, seed=1, sub_batch_size=2))


def test_last_part_leaves_a_store_that_readers_open_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    for i in (1, 0):
        assert "consolidated_metadata" not in (path / "zarr.json").read_text() if i == 0 else True
        generate(simulator(), path, N, part=(i, 2), **OPTIONS)
    assert "consolidated_metadata" in (path / "zarr.json").read_text()


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        ((4, 4), ArgumentError, r"needs 0 <= i < m, with i counted from 0; got \(4, 4\)"),
        ((-1, 2), ArgumentError, r"needs 0 <= i < m, with i counted from 0; got \(-1, 2\)"),
        ((0, 0), ArgumentError, r"needs 0 <= i < m"),
        (("a", 2), ArgumentTypeError, r"part must be a pair of integers \(i, m\).*got \('a', 2\)"),
        ((0.0, 2), ArgumentTypeError, "part must be a pair of integers"),
        ((True, 2), ArgumentTypeError, "part must be a pair of integers"),
        ((0, 1, 2), ArgumentTypeError, "part must be a pair of integers"),
        ("0/4", ArgumentTypeError, "part must be a pair of integers"),
        (3, ArgumentTypeError, "part must be a pair of integers"),
    ],
)
def test_wrong_part_is_refused(part: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        generate(simulator(), tmp_path / "s.zarr", N, part=part, **OPTIONS)
    assert not (tmp_path / "s.zarr").exists()


def test_numbers_of_a_job_array_may_be_of_numpy(tmp_path: Path) -> None:
    dataset = generate(simulator(), tmp_path / "s.zarr", N, part=(np.int64(0), np.int32(2)), **OPTIONS)  # type: ignore[arg-type]
    assert dataset.sizes["batch"] == 8


def test_part_does_not_go_with_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, N, **OPTIONS)
    before = file_bytes(path)
    with pytest.raises(ArgumentError, match="each part would remove what the others made"):
        generate(simulator(), path, N, part=(0, 2), overwrite=True, **OPTIONS)
    assert file_bytes(path) == before


def test_part_of_another_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, N, part=(0, 2), **OPTIONS)
    before = file_bytes(path)
    with pytest.raises(StoreMismatchError, match="seed: 1 in the store, 2 asked for"):
        generate(simulator(), path, N, part=(1, 2), **{**OPTIONS, "seed": 2})
    with pytest.raises(StoreError, match="n_samples: 18 in the store, 19 asked for"):
        generate(simulator(), path, 19, part=(1, 2), **OPTIONS)
    assert file_bytes(path) == before


@pytest.mark.parametrize("part", ["3/3", "a/2", "1", "1/2/3", "/", "-1/2", "1/0"])
def test_wrong_part_on_the_command_line_exits_with_2(part: str, tmp_path: Path) -> None:
    arguments = ["generate", "two_moons", str(tmp_path / "s.zarr"), "-n", "10", f"--part={part}"]
    try:
        code: Any = main(arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert not (tmp_path / "s.zarr").exists()

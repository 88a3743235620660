"""How fast a store grows, and whether anything still writes it."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import obstore.store
import pytest
import zarr.storage
from bits import receipt_files
from processes import ended, wait_for
from zarr.abc.store import Store

import dasksim
from dasksim.cli import INCOMPLETE, main
from dasksim.store._pace import Pace, pace_of

WRITER = """
import time
import dasksim

def slow(rng):
    time.sleep(0.01)
    return {"x": rng.normal()}

if __name__ == "__main__":
    dasksim.generate(
        dasksim.make_simulator(slow), "s.zarr", 100_000, seed=1, chunk_size=10, sub_batch_size=10,
        scheduler="synchronous", audit=False, progress=False,
    )
"""


def pace(written: list[float], seconds: float, now: float, n_missing: int = 1000) -> Pace:
    n = len(written)
    found = pace_of(np.array(written), np.full(n, seconds), np.full(n, 10), n_missing, now)
    assert found is not None
    return found


def test_one_worker() -> None:
    found = pace([10.0 * i for i in range(100)], 10.0, now=995.0)

    assert found == Pace(age=5.0, interval=10.0, samples_per_second=1.0, seconds_left=1000.0, is_late=False)
    assert str(found) == "1.00 samples/s; last chunk 5 s ago, 17 min left"


def test_workers_that_finish_together_are_not_taken_for_a_faster_one() -> None:
    # 200 workers, chunks of 60 s
    found = pace([60.0 * (i // 200) + i % 200 * 1e-3 for i in range(1000)], 60.0, now=290.0)

    assert found.samples_per_second == pytest.approx(200 * 10 / 60, rel=0.35)
    assert not found.is_late


def test_one_chunk_tells_as_much_as_it_took() -> None:
    assert pace([100.0], 5.0, now=101.0).samples_per_second == 2.0


def test_the_night_between_two_runs_is_no_part_of_the_pace() -> None:
    first, second = [float(i) for i in range(20)], [40_000.0 + i for i in range(5)]

    assert pace(first + second, 1.0, now=40_005.0).samples_per_second == 10.0


def test_a_last_chunk_that_is_old_for_the_pace_is_told() -> None:
    found = pace([20.0 * i for i in range(50)], 20.0, now=49 * 20.0 + 720.0)

    assert found.is_late
    assert str(found) == (
        "no chunk for 12 min, where a run made one every 20 s (0.50 samples/s); none seems to write now"
    )
    many = pace([i / 100 for i in range(500)], 0.01, now=100.0)
    assert "a run made 100 a second (1,000 samples/s)" in str(many)


def test_where_nothing_tells_the_time_there_is_no_pace() -> None:
    assert pace_of(np.array([math.nan]), np.ones(1), np.ones(1, "int64"), 5, 1.0) is None
    assert pace_of(np.ones(0), np.ones(0), np.ones(0, "int64"), 5, 1.0) is None
    assert pace_of(np.ones(1), np.zeros(1), np.ones(1, "int64"), 5, 1.0) is None


def test_a_clock_of_files_that_is_ahead_gives_no_negative_age() -> None:
    assert pace([100.0], 5.0, now=90.0).age == 0


def test_a_clock_of_files_that_is_half_a_minute_behind_makes_no_store_late() -> None:
    written = [i / 100 for i in range(500)]
    assert not pace(written, 0.01, now=written[-1] + 30).is_late
    assert pace(written, 0.01, now=written[-1] + 90).is_late


def test_status_of_a_store_that_another_process_writes_and_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "writer.py").write_text(WRITER)
    path = tmp_path / "s.zarr"
    writer = subprocess.Popen([sys.executable, "writer.py"], cwd=tmp_path)
    with ended([writer]):
        wait_for(lambda: len(receipt_files(path)) >= 10)
        found = dasksim.status(path)
        writer.kill()

    assert found.pace is not None
    assert 20 < found.pace.samples_per_second <= 100
    assert found.pace.age < 10
    assert not found.pace.is_late
    missing = found.n_samples - found.n_complete_samples
    assert found.pace.seconds_left == pytest.approx(missing / found.pace.samples_per_second)
    assert f"  pace     {found.pace}" in str(found).splitlines()

    # as it is seen some minutes later
    for file in receipt_files(path).values():
        written = file.stat().st_mtime - 300
        os.utime(file, (written, written))
    assert main(["status", str(path), "--json"]) == INCOMPLETE
    told = json.loads(capsys.readouterr().out)["pace"]
    assert told["is_late"]
    assert told["age"] > 300
    assert main(["status", str(path)]) == INCOMPLETE
    assert re.search(r"  pace     no chunk for [\d.]+ min, where a run made ", capsys.readouterr().out)


def quick(rng: np.random.Generator) -> dict[str, object]:
    time.sleep(0.001)
    return {"x": rng.normal()}


def test_stores_that_are_complete_have_no_pace_and_empty_ones_an_unknown_one(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    dasksim.generate(dasksim.make_simulator(quick), path, 20, seed=1, chunk_size=10, sub_batch_size=10, audit=False)
    found = dasksim.status(path)
    assert found.pace is None
    assert "  pace " not in str(found)

    for file in receipt_files(path).values():
        file.unlink()
    assert "  pace     unknown" in str(dasksim.status(path)).splitlines()


@pytest.mark.parametrize("is_known", [True, False])
def test_object_stores_tell_the_pace_and_others_do_not(is_known: bool) -> None:
    store: Store = zarr.storage.ObjectStore(obstore.store.MemoryStore()) if is_known else zarr.storage.MemoryStore()
    how: dict[str, Any] = {"chunk_size": 10, "sub_batch_size": 10, "scheduler": "synchronous", "audit": False}
    dasksim.generate(dasksim.make_simulator(quick), store, 40, seed=1, part=(0, 2), **how)

    found = dasksim.status(store)

    assert (found.pace is not None) == is_known
    assert ("  pace     unknown" in str(found)) != is_known


def test_a_store_of_which_files_were_copied_without_their_times_is_read_as_before(tmp_path: Path) -> None:
    path, other = tmp_path / "s.zarr", tmp_path / "t.zarr"
    simulator = dasksim.make_simulator(quick)
    dasksim.generate(simulator, path, 40, seed=1, chunk_size=10, sub_batch_size=10, audit=False, part=(0, 2))
    shutil.copytree(path, other, copy_function=shutil.copyfile)

    assert dasksim.status(other).n_complete == 2
    assert dasksim.verify(other, simulator, resimulate=1).is_good

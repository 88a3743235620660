"""Several derivations of one store at the same time: none is lost, by our own reading or by xarray's."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from processes import run_at_once

from dasksim import derive, generate, make_simulator, open_dataset, verify
from dasksim.store._location import Location

N = 40
OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 4, "chunk_size": 8, "scheduler": "synchronous"}
SCRIPT = """
import sys, dasksim
store, first, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(first, stop):
    dasksim.derive(store, lambda x, number=number: {f"d{number}": x + number}, scheduler="synchronous", progress=False)
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    generate(make_simulator(lambda rng: {"x": rng.normal()}), tmp_path / "s.zarr", N, **OPTIONS)
    return tmp_path / "s.zarr"


def check(store: Path, n: int) -> None:
    opened, shown = open_dataset(store), xr.open_zarr(store)
    for number in range(n):
        for dataset in (opened, shown):
            np.testing.assert_array_equal(dataset[f"d{number}"], opened.x + number)
    assert verify(store).is_good


def test_processes_that_derive_at_the_same_time_lose_nothing(store: Path) -> None:
    n, each = 3, 3
    commands: list[list[str | Path]] = [["-c", SCRIPT, store, str(i * each), str((i + 1) * each)] for i in range(n)]
    run_at_once(commands, cwd=store.parent)
    check(store, n * each)


@pytest.mark.parametrize("which", range(3))
def test_derivation_that_another_overtakes_at_a_write_loses_nothing(
    which: int, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole other derivation runs between what one reads and each of the roots that it writes."""
    write, roots = Location.write, []

    def overtaken(self: Location, key: str, content: bytes) -> None:
        if key == "zarr.json" and threading.current_thread() is threading.main_thread():
            roots.append(key)
            if len(roots) == which + 1:
                other = threading.Thread(
                    target=lambda: derive(store, lambda x: {"d1": x + 1}, scheduler="synchronous", progress=False)
                )
                other.start()
                other.join()
        write(self, key, content)

    monkeypatch.setattr(Location, "write", overtaken)
    derive(store, lambda x: {"d0": x + 0.0}, scheduler="synchronous")
    if len(roots) <= which:
        derive(store, lambda x: {"d1": x + 1}, scheduler="synchronous")
    assert len(roots) >= 2
    check(store, 2)

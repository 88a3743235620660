"""Disks that are full or cannot be written: an error that says so, and a store that is gone on with."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import array_bytes, bits, chunk_files, file_bytes, receipt_files
from processes import run_python

from dasksim import (
    IncompleteStoreError,
    Simulator,
    StoreError,
    extend,
    generate,
    make_simulator,
    open_dataset,
    status,
    verify,
)

OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 10, "chunk_size": 20, "scheduler": "synchronous"}

FULL = """
import resource, sys
sys.path.extend(sys.argv[4:])
import dasksim
from test_disk import OPTIONS, simulator
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    if sys.argv[3] == "generate":
        dasksim.generate(simulator(), sys.argv[1], 70, **OPTIONS)
    else:
        dasksim.extend(sys.argv[1], simulator(), 150, scheduler="synchronous")
except dasksim.StoreError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)  # for the file that holds this output
    print(*[error, *error.__notes__] if hasattr(error, "__notes__") else [error])
"""


def simulator() -> Simulator:
    def prior(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal(size=batch_shape), "x": rng.normal(size=(*batch_shape, 100))}

    return make_simulator(prior, is_batched=True)


def run_on_full_disk(path: Path, largest_file: int, what: str = "generate") -> str:
    """Make a store where no file can be larger than some bytes, and return what the error says."""
    here = [Path(__file__).parent, *filter(None, sys.path)]
    run = run_python("-c", FULL, path, str(largest_file), what, *map(str, here), cwd=path.parent)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_full_disk_is_an_error_and_a_store_to_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    assert "cannot write a store at" in run_on_full_disk(path, 100)
    message = run_on_full_disk(path, 5000)
    assert "writing to" in message
    assert "File too large" in message
    assert "kept 0 complete chunks; run generate again" in message
    assert status(path).n_complete == 0
    assert not list(path.rglob("*.partial"))
    dataset = generate(simulator(), path, 70, **OPTIONS)
    assert bits(dataset) == bits(simulator().sample(70, seed=1, sub_batch_size=10))
    assert "File too large" in run_on_full_disk(path, 5000, "extend")
    assert verify(path).is_good
    with pytest.raises(IncompleteStoreError, match="has 3 of 8 chunks"):
        open_dataset(path)
    extend(path, simulator(), 150, scheduler="synchronous")
    generate(simulator(), tmp_path / "at_once.zarr", 150, **OPTIONS)
    assert array_bytes(path) == array_bytes(tmp_path / "at_once.zarr")


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Make a folder read-only; for root, who may write everywhere, by mounting it so."""
    if os.getuid():
        folders = [path, *(child for child in path.rglob("*") if child.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        try:
            yield
        finally:
            for folder in folders:
                folder.chmod(0o755)
        return
    where = str(path)
    if subprocess.run(["mount", "--bind", where, where], capture_output=True).returncode:
        pytest.skip("root may write to what is read-only, and may not mount here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", where], check=True)
        yield
    finally:
        subprocess.run(["umount", where], check=True)


def test_complete_store_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 70, **OPTIONS)
    leftover = path / "x" / "c" / "0" / "0.abc.partial"
    leftover.write_bytes(b"cut off")
    an_hour_ago = time.time() - 3600
    os.utime(leftover, (an_hour_ago, an_hour_ago))
    before, expected = file_bytes(path), bits(simulator().sample(70, seed=1, sub_batch_size=10))
    with read_only(path):
        assert status(path).is_complete
        assert verify(path, simulator(), resimulate=1).is_good
        for dataset in (
            open_dataset(path),
            generate(simulator(), path, 70, **OPTIONS),
            extend(path, simulator(), 70, scheduler="synchronous"),
        ):
            assert bits(dataset) == expected
        part = generate(simulator(), path, 70, part=(1, 2), **OPTIONS)
        assert bits(part) == bits(open_dataset(path).isel(batch=slice(40, 70)))
        with pytest.raises(StoreError, match="cannot write to the store at"):
            extend(path, simulator(), 90, scheduler="synchronous")
        with pytest.raises(StoreError, match="cannot write to the store at"):
            generate(simulator(), path, 70, repair=True, **OPTIONS)
        with pytest.raises(StoreError, match="cannot remove the store at"):
            generate(simulator(), path, 70, overwrite=True, **OPTIONS)
    assert file_bytes(path) == before


def test_incomplete_store_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 70, **OPTIONS)
    receipt_files(path)[1].unlink()
    chunk_files(path, "x")[1].unlink()
    with read_only(path), pytest.raises(StoreError, match=r"writing to .* failed"):
        generate(simulator(), path, 70, **OPTIONS)
    assert status(path).missing == ((1, 1),)


def test_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    with read_only(parent), pytest.raises(StoreError, match="cannot write a store at"):
        generate(simulator(), parent / "s.zarr", 70, **OPTIONS)
    assert list(parent.iterdir()) == []

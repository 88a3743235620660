"""Kill a run at each of its changes to the file system, in a fork each; run as a script by test_kill.

Usage: crash_points.py FOLDER new|overwrite|overwrite_derived|extend|derive|derive_anew|mask|changed FIRST STEP
"""

import functools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from bits import array_bytes, finished_bytes

from dasksim import (
    Simulator,
    StoreMismatchError,
    derive,
    extend,
    generate,
    make_simulator,
    open_dataset,
    status,
    verify,
)

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
SIZES: dict[str, Any] = {"n_samples": 10, "sub_batch_size": 2, "chunk_size": 4, "scheduler": "synchronous"}
LONGER: dict[str, Any] = {**SIZES, "n_samples": 17}


def simulator(*, is_changed: bool = False) -> Simulator:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal(size=2)}

    def likelihood(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"k": int(rng.integers(9)) + int(theta[0])}

    def changed(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"k": int(theta[0]) + int(rng.integers(9))}

    stages = {"prior": prior, "likelihood": changed if is_changed else likelihood}
    return make_simulator(stages, dims={"theta": ["p"]}, coords={"p": ["a", "b"]})


def switch(path: Path, mode: str) -> None:
    """Go on with a complete store in a way that its record tells."""
    if mode == "mask":
        generate(simulator(), path, seed=2, on_error="mask", **SIZES)
    else:  # to the same values
        generate(simulator(is_changed=True), path, seed=2, allow_changed=True, **SIZES)


def summaries(theta: Any, k: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"norm": float(np.hypot(*theta)), "noisy": theta + k + rng.normal(size=2)}


def derived(path: Path, seed: int, **options: Any) -> None:
    derive(path, summaries, seed=seed, scheduler="synchronous", **options)


def in_fork(run: Callable[[], Any]) -> int:
    """Run in a fork and return its exit status; 0 where it returned."""
    child = os.fork()
    if child == 0:
        try:
            run()
        except BaseException as error:  # noqa: BLE001
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def kill_at(change: int, run: Callable[[], Any]) -> Callable[[], Any]:
    """Return a run that dies just before its `change`-th change to the file system."""

    def killed() -> None:
        count = [0]

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & 3):
                count[0] += 1
                if count[0] > change:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        run()

    return killed


def finish(path: Path, old: dict[str, bytes], new: dict[str, bytes]) -> None:
    """Go on after a kill, as the same call would, and check what is there."""
    try:
        generate(simulator(), path, seed=2, **SIZES)
    except StoreMismatchError:  # the old store is there still, perhaps with less in it
        generate(simulator(), path, seed=1, **SIZES)
        assert set(open_dataset(path)) >= {"theta", "k"}
        found = array_bytes(path)  # beside what was derived, if that is there still
        assert {name: found[name] for name in old if not name.endswith("zarr.json")} == {
            name: old[name] for name in old if not name.endswith("zarr.json")
        }
        for name in set(open_dataset(path)) - {"theta", "k"}:
            assert not open_dataset(path)[name].isnull().any(), name
        generate(simulator(), path, seed=2, overwrite=True, **SIZES)
    check(path, new)


def finish_longer(path: Path, old: dict[str, bytes], new: dict[str, bytes]) -> None:
    """Go on with an extension after a kill."""
    assert verify(path).is_good
    extend(path, simulator(), LONGER["n_samples"], scheduler="synchronous")
    check(path, new)
    assert verify(path).is_good


def finish_derived(path: Path, old: dict[str, bytes], new: dict[str, bytes]) -> None:
    """Go on with a derivation after a kill."""
    check_shown(path)
    assert verify(path).is_good
    try:
        derived(path, 4)
    except StoreMismatchError:  # the old one is there still
        derived(path, 4, overwrite=True)
    check(path, new)
    assert verify(path).is_good


def finish_switched(path: Path, old: dict[str, bytes], new: dict[str, bytes], mode: str) -> None:
    """Go on with a store whose record was being changed."""
    assert verify(path).is_good
    assert len(open_dataset(path)) in (2, 3)
    switch(path, mode)
    check(path, new)


def check_shown(path: Path) -> None:
    """Check that xarray shows derived variables that are complete, or none."""
    shown = xr.open_zarr(path)
    assert not shown["theta"].isnull().any()
    if {"norm", "noisy"} & set(shown):
        assert "complete" in str(status(path))
        assert not shown["norm"].isnull().any()
        assert not shown["noisy"].isnull().any()


def check(path: Path, new: dict[str, bytes]) -> None:
    found = finished_bytes(path)
    assert found == new, {name for name in found.keys() | new.keys() if found.get(name) != new.get(name)}
    assert status(path).is_complete


def main(folder: Path, mode: str, first: int, step: int) -> None:
    old_path, new_path, path = folder / "old.zarr", folder / "new.zarr", folder / "s.zarr"
    is_longer, is_switch, is_derived = mode == "extend", mode in ("mask", "changed"), mode in ("derive", "derive_anew")
    calls: dict[str, Callable[[], Any]] = {
        "new": lambda: generate(simulator(), path, seed=2, **SIZES),
        "overwrite": lambda: generate(simulator(), path, seed=2, overwrite=True, **SIZES),
        "overwrite_derived": lambda: generate(simulator(), path, seed=2, overwrite=True, **SIZES),
        "extend": lambda: extend(path, simulator(), LONGER["n_samples"], scheduler="synchronous"),
        "derive": lambda: derived(path, 4),
        "derive_anew": lambda: derived(path, 4, overwrite=True),
        "mask": lambda: switch(path, mode),
        "changed": lambda: switch(path, mode),
    }
    old_seed = 1 if mode in ("new", "overwrite", "overwrite_derived") else 2
    assert in_fork(lambda: generate(simulator(), old_path, seed=old_seed, **SIZES)) == 0
    assert in_fork(lambda: generate(simulator(), new_path, seed=2, **(LONGER if is_longer else SIZES))) == 0
    if is_switch:
        assert in_fork(lambda: switch(new_path, mode)) == 0
    if is_derived:
        assert in_fork(lambda: derived(new_path, 4)) == 0
    plain = array_bytes(old_path)
    if mode in ("derive_anew", "overwrite_derived"):
        assert in_fork(lambda: derived(old_path, 3)) == 0
    old, new = array_bytes(old_path) if is_derived else plain, array_bytes(new_path)
    finished: Callable[..., None] = finish_longer if is_longer else finish_derived if is_derived else finish
    if is_switch:
        finished = functools.partial(finish_switched, mode=mode)
    for change in range(first, 10_000, step):
        if mode != "new":
            shutil.copytree(old_path, path)
        was_killed = os.WIFSIGNALED(in_fork(kill_at(change, calls[mode])))
        if in_fork(lambda: finished(path, old, new)) != 0:
            sys.exit(f"after a kill before change {change}")
        shutil.rmtree(path)
        if not was_killed:
            print(change)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

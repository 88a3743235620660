"""A run killed just before any of its changes to the file system is finished by the same call, to the same bytes."""

from pathlib import Path

import pytest
from bits import finished_bytes
from crash_points import SIZES, derived, simulator
from processes import run_python
from variants import quick

from dasksim import generate, open_dataset
from dasksim.store import _location

MODES = ["new", "overwrite", "overwrite_derived", "extend", "derive", "derive_anew", "mask", "changed"]
#: Where a run makes few changes, each is tried: what a store says of itself is changed in several.
STEPS = {"mask": (0, 2), "changed": (0, 1)}
SCRIPT = Path(__file__).parents[1] / "support" / "crash_points.py"


def check_crash_points(folder: Path, mode: str, first: int, step: int) -> None:
    run = run_python("-W", "error", SCRIPT, folder, mode, str(first), str(step), cwd=folder, timeout=1800)
    assert run.returncode == 0, run.stderr
    least = 3 if mode == "changed" else 10 if mode == "mask" else 50 if mode in ("new", "overwrite") else 30
    assert int(run.stdout) > least, "a run made fewer changes than there are files, so some were not counted"


@pytest.mark.parametrize("mode", quick(MODES, "new", "overwrite", "derive", "changed"))
def test_run_killed_at_some_changes_is_finished(mode: str, tmp_path: Path) -> None:
    check_crash_points(tmp_path, mode, *STEPS.get(mode, (3, 29)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_run_killed_at_any_change_is_finished(mode: str, tmp_path: Path) -> None:
    check_crash_points(tmp_path, mode, first=0, step=1)


def test_record_that_was_not_yet_in_place_is_put_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was left out beside the unfinished file of a writer that was killed, and stood in the root only."""
    generate(simulator(), tmp_path / "whole.zarr", seed=1, **SIZES)
    store, create = tmp_path / "s.zarr", _location.Location.create

    def cut_off(self: _location.Location, key: str, content: bytes) -> None:
        if key == _location.ROOT:
            create(self, key, content)
            return
        (store / key).parent.mkdir()
        (store / key).with_suffix(".0.partial").write_bytes(content[:9])
        raise KeyboardInterrupt

    monkeypatch.setattr(_location.Location, "create", cut_off)
    with pytest.raises(KeyboardInterrupt):
        generate(simulator(), store, seed=1, **SIZES)
    monkeypatch.undo()
    assert not (store / "_dasksim" / "zarr.json").exists()

    generate(simulator(), store, seed=1, **SIZES)
    assert finished_bytes(store) == finished_bytes(tmp_path / "whole.zarr")


def test_removal_that_was_cut_off_within_a_derivation_leaves_none_in_sight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder was there and its entry was not, so that the root counted, which still showed it."""
    store = tmp_path / "s.zarr"
    generate(simulator(), store, seed=1, **SIZES)
    derived(store, 3)
    remove = _location._remove

    def cut_off(path: Path) -> None:
        if path.name == "derived":
            next(path.glob("*/zarr.json")).unlink()
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(_location, "_remove", cut_off)
    with pytest.raises(KeyboardInterrupt):
        generate(simulator(), store, seed=2, overwrite=True, **SIZES)
    monkeypatch.undo()

    generate(simulator(), store, seed=1, **SIZES)
    assert set(open_dataset(store)) == {"theta", "k"}

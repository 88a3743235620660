"""A run killed just before any of its changes to the file system is finished by the same call, to the same bytes."""

from pathlib import Path

import pytest
from processes import run_python
from variants import quick

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

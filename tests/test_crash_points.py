"""A run killed just before any of its changes to the file system is finished by the same call, to the same bytes."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "crash_points.py"


def check_crash_points(folder: Path, mode: str, first: int, step: int) -> None:
    strict = ["-W", "error", "-W", "ignore::DeprecationWarning"]  # Python 3.12 deprecates forks beside threads
    arguments = [str(folder), mode, str(first), str(step)]
    run = subprocess.run([sys.executable, *strict, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    least = 50 if mode in ("new", "overwrite") else 30
    assert int(run.stdout) > least, "a run made fewer changes than there are files, so some were not counted"


@pytest.mark.parametrize("mode", ["new", "overwrite", "extend", "derive", "derive_anew"])
def test_run_killed_at_some_changes_is_finished(mode: str, tmp_path: Path) -> None:
    check_crash_points(tmp_path, mode, first=3, step=13)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["new", "overwrite", "extend", "derive", "derive_anew"])
def test_run_killed_at_any_change_is_finished(mode: str, tmp_path: Path) -> None:
    check_crash_points(tmp_path, mode, first=0, step=1)

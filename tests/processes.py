"""Processes that tests start, none of which outlives its test."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["ended", "run_at_once"]


@contextmanager
def ended(processes: Sequence["subprocess.Popen[Any]"]) -> Iterator[None]:
    """Kill those that still run when the block ends, where it fails."""
    try:
        yield
    finally:
        for process in processes:
            with process:
                process.kill()


def run_at_once(commands: Sequence[Sequence[str]]) -> None:
    """Run programs that read a byte before they begin, all at the same time, and check that none fails."""
    runs = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
    with ended(runs):
        for run in runs:
            assert run.stdin is not None
            run.stdin.write(b"!")
            run.stdin.flush()
        errors = [run.communicate()[1].decode() for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), errors

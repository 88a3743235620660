"""Processes that tests start, none of which outlives its test."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ended", "run_at_once", "run_python", "wait_for"]

SERVER = Path(__file__).parent / "preloaded.py"


@contextmanager
def ended(processes: Sequence["subprocess.Popen[Any]"]) -> Iterator[None]:
    """Kill those that still run when the block ends, where it fails."""
    try:
        yield
    finally:
        for process in processes:
            with process:
                process.kill()


def run_at_once(commands: Sequence[Sequence[str | Path]], cwd: Path) -> None:
    """Run Python with several lists of arguments in a folder at the same time, and check that none fails."""
    runs = _run(commands, cwd, 120, {})
    assert [run.returncode for run in runs] == [0] * len(runs), [run.stderr for run in runs]


def run_python(
    *arguments: str | Path, cwd: Path, timeout: float = 120, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run Python with arguments in a folder.

    Where what is tested is how a process starts, or that it is killed, a test starts it itself.
    """
    return _run([arguments], cwd, timeout, environment)[0]


def _run(
    commands: Sequence[Sequence[str | Path]], cwd: Path, timeout: float, environment: dict[str, str]
) -> "list[subprocess.CompletedProcess[str]]":
    """Run programs at once in forks of a process that has imported dasksim, and return what each wrote."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        files = [(Path(folder) / f"out{i}", Path(folder) / f"err{i}") for i in range(len(commands))]
        programs = [
            {"arguments": [*map(str, command)], "folder": str(cwd), "out": str(out), "err": str(err)}
            | {"environment": environment}
            for command, (out, err) in zip(commands, files, strict=True)
        ]
        server.stdin.write(json.dumps(programs) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], timeout)[0]:
            _end(server)
            raise subprocess.TimeoutExpired(repr(commands), timeout, *(file.read_bytes() for file in files[0]))
        statuses = json.loads(server.stdout.readline())
        return [
            subprocess.CompletedProcess([*map(str, command)], status, out.read_text(), err.read_text())
            for command, status, (out, err) in zip(commands, statuses, files, strict=True)
        ]


_servers: "list[subprocess.Popen[str]]" = []


def _server() -> "subprocess.Popen[str]":
    """Return the process that runs programs, started at the first."""
    if not _servers:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        _servers.append(subprocess.Popen([sys.executable, str(SERVER)], start_new_session=True, **pipes))
        atexit.register(_end, _servers[0])
    return _servers[0]


def _end(server: "subprocess.Popen[str]") -> None:
    """Kill a server and what it runs; the next program starts another."""
    if server in _servers:
        _servers.remove(server)
        with server:
            os.killpg(server.pid, signal.SIGKILL)


def wait_for(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120  # so that a test that fails ends
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError("waited for 120 s")
        time.sleep(0.01)

"""Processes that tests start, none of which outlives its test."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ended", "run_at_once", "run_python"]

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


def run_python(
    *arguments: str | Path, cwd: Path, timeout: float = 120, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run Python with arguments in a folder, in a fork of a process that has imported dasksim.

    Where what is tested is how a process starts, or that it is killed, a test starts it itself.
    """
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        files = out, err = Path(folder) / "out", Path(folder) / "err"
        command = [str(argument) for argument in arguments]
        program = {"arguments": command, "folder": str(cwd), "out": str(out), "err": str(err)}
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps({**program, "environment": environment}) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], timeout)[0]:
            _end(server)
            raise subprocess.TimeoutExpired(command, timeout, *(file.read_bytes() for file in files))
        return subprocess.CompletedProcess(command, int(server.stdout.readline()), out.read_text(), err.read_text())


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

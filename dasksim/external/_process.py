"""One run of a program, from its start until nothing of it is left."""

import contextlib
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dasksim.errors import SimulatorError

__all__ = ["STREAMS", "run_program", "tail"]

#: Files of a run's folder that stand for the streams. Unlike pipes they cannot block, and keep no run from its end
#: that a child of the program still holds open.
STREAMS = ("stdin", "stdout", "stderr")

_TAIL_BYTES = 2000

# How often to look whether a program has ended, where the system cannot tell.
_LOOK_SECONDS = 0.01
_MAX_MILLISECONDS = 2**31 - 1  # what poll takes: 24 days


def run_program(
    command: Sequence[str], folder: Path, *, timeout: float | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Run a program in a folder, in a process group of its own, and kill what is left of the group at the end.

    Raises
    ------
    SimulatorError
        If there is no such program.
    subprocess.CalledProcessError, subprocess.TimeoutExpired
        If it fails, or takes too long.
    """
    stdin, stdout, stderr = (folder / stream for stream in STREAMS)
    with (
        (stdin if stdin.exists() else Path(os.devnull)).open("rb") as given,
        stdout.open("wb") as out,
        stderr.open("wb") as err,
    ):
        try:
            process = subprocess.Popen(
                command,
                stdin=given,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=None if env is None else {**os.environ, **env},
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            raise SimulatorError(
                f"cannot start the program {command[0]!r}: {error.strerror}; install it, on every worker too, or give "
                "its path"
            ) from error
        try:
            _wait(process, timeout)
        finally:
            # not reaped yet, so that the group is still its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, tail(stdout), tail(stderr))


def _wait(process: "subprocess.Popen[bytes]", timeout: float | None) -> None:
    """Wait for a process to end, but leave it to be reaped: until then its group can be no other's."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):  # older than Linux 5.3
            return _wait_for(process, timeout, os.pidfd_open(process.pid))
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return _wait_for_event(process, timeout)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            raise subprocess.TimeoutExpired(process.args, timeout or 0)
        time.sleep(_LOOK_SECONDS)
    return None


def _wait_for(process: "subprocess.Popen[bytes]", timeout: float | None, pidfd: int) -> None:
    """Wait at once, rather than by looking again and again."""
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(None if timeout is None else min(1000 * timeout, _MAX_MILLISECONDS)) and timeout is not None:
            raise subprocess.TimeoutExpired(process.args, timeout)
    finally:
        os.close(pidfd)


def _wait_for_event(process: "subprocess.Popen[bytes]", timeout: float | None) -> None:
    """Wait by the events of BSD."""
    bsd: Any = select
    queue = bsd.kqueue()
    try:
        end = bsd.kevent(process.pid, bsd.KQ_FILTER_PROC, bsd.KQ_EV_ADD, bsd.KQ_NOTE_EXIT)
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            if not queue.control([end], 1, timeout) and timeout is not None:
                raise subprocess.TimeoutExpired(process.args, timeout)
    finally:
        queue.close()


def tail(path: Path) -> str:
    """Return the end of a file, or nothing if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL_BYTES, 0))
            text = file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
    return f"...{text}" if size > _TAIL_BYTES else text

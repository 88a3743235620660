"""One run of a program, from its start until nothing of it is left."""

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from dasksim.errors import SimulatorError

__all__ = ["STREAMS", "run_program", "tail"]

#: Files of a run's folder that stand for the streams. Unlike pipes they cannot block, and keep no run from its end
#: that a child of the program still holds open.
STREAMS = ("stdin", "stdout", "stderr")

_TAIL_BYTES = 2000
_MAX_MILLISECONDS = 2**31 - 1  # what poll takes: 24 days


def run_program(
    command: Sequence[str], folder: Path, *, timeout: float | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Run a program in a folder, in a process group of its own, and kill what is left of the group at the end.

    Parameters
    ----------
    command
        The program and its arguments.
    folder
        Where it runs. Its standard streams are files there; without ``stdin`` there is no input.
    timeout
        Seconds after which it is killed.
    env
        Environment variables besides those of this process.

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
            # not reaped yet where _wait saw it end, so that the group is still its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, tail(stdout), tail(stderr))


def _wait(process: "subprocess.Popen[bytes]", timeout: float | None) -> None:
    """Wait for a process to end, at once rather than by looking again and again, as Popen does with a timeout."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux, or older than Linux 5.3
        process.wait(timeout)
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(None if timeout is None else min(1000 * timeout, _MAX_MILLISECONDS)) and timeout is not None:
            raise subprocess.TimeoutExpired(process.args, timeout)
    finally:
        os.close(pidfd)


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

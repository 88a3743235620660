"""How a chunk tells, while it is simulated, how many of its samples are done: from a thread, a process, or a cluster.

Nothing waits for it, and nothing is lost with a worker that dies: what is done is known from receipts alone.
"""

import contextlib
import os
import struct
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["Tell", "rarely", "telling"]

#: What is called with the number of a chunk and how many of its samples are done.
Tell = Callable[[int, int], None]

# Seconds between two messages on one chunk.
_INTERVAL = 0.5

_MESSAGE = struct.Struct("<QQ")


def rarely(tell: Tell, chunk: int) -> Callable[[int], None]:
    """Return what is called with the samples of a chunk that are done, as often as one likes."""
    latest = time.monotonic()

    def told(n_done: int) -> None:
        nonlocal latest
        if time.monotonic() - latest > _INTERVAL:
            tell(chunk, n_done)
            latest = time.monotonic()

    return told


@contextlib.contextmanager
def telling(scheduler: Any, tell: Tell) -> Iterator[tuple[Tell, Callable[[], None]]]:
    """Give what chunks call wherever they are simulated, and what is to be called now and then to hear it here."""
    if scheduler in ("synchronous", "threads"):
        yield tell, lambda: None
    elif isinstance(scheduler, str):
        with tempfile.TemporaryDirectory(prefix="dasksim-") as folder:
            path = Path(folder) / "done"
            path.touch()
            with path.open("rb", buffering=0) as told:
                yield _Appended(str(path), tell), lambda: _hear(told, tell)
                _hear(told, tell)
    else:
        topic = f"dasksim-done-{uuid.uuid4().hex}"
        scheduler.subscribe_topic(topic, lambda event: tell(*event[1]))
        try:
            yield _Logged(topic), lambda: None
        finally:
            if scheduler.status == "running":
                scheduler.unsubscribe_topic(topic)


class _Appended:
    """Tells by appending to a file, of which each message is written whole, without a lock that may die with a process.

    Parameters
    ----------
    path
        The file.
    tell
        What is told at once, in the process that listens.
    """

    def __init__(self, path: str, tell: Tell | None = None) -> None:
        self.path = path
        self._tell = tell

    def __reduce__(self) -> tuple[Any, ...]:
        return _Appended, (self.path,)

    def __call__(self, chunk: int, n_done: int) -> None:
        if self._tell is not None:
            self._tell(chunk, n_done)
            return
        # when the run has ended, the file is gone
        with contextlib.suppress(OSError):
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, _MESSAGE.pack(chunk, n_done))
            finally:
                os.close(file)


class _Logged:
    """Tells by an event of the cluster.

    Parameters
    ----------
    topic
        The topic of the events.
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic

    def __call__(self, chunk: int, n_done: int) -> None:
        from distributed import get_worker  # only a worker of a cluster calls this

        get_worker().log_event(self.topic, (chunk, n_done))


def _hear(told: Any, tell: Tell) -> None:
    content = told.read()
    for chunk, n_done in _MESSAGE.iter_unpack(content[: len(content) // _MESSAGE.size * _MESSAGE.size]):
        tell(chunk, n_done)

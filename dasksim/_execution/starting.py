"""The start of other processes, which Ctrl-C must not reach before they ignore it."""

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker

__all__ = ["ignore_interrupts", "starting"]


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start processes here: Ctrl-C waits in them, and in this thread until the block ends.

    It goes to all processes of a terminal. One that is starting would print an error of Python's own and end.
    """
    # before: where it is started for the first process, it lets signals through again
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_interrupts() -> None:
    """Let the process that was started leave Ctrl-C to the one that started it, which decides what ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # what waited is forgotten, and programs that a function starts have no signal that waits
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

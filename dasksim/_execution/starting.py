"""Ctrl-C: it must not reach other processes before they ignore it, and not be lost in this one."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from types import FrameType

__all__ = ["ignore_interrupts", "interruptible", "leave_interrupts", "starting"]


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start processes here: Ctrl-C waits in them, and here until the block ends or it comes again.

    It goes to all processes of a terminal. One that is starting would print an error of Python's own, and one that is
    half started when this process goes on elsewhere would be waited for.
    """
    # before: where it is started for the first process, it lets signals through again
    resource_tracker.ensure_running()
    with _interrupts_after():
        # for the processes, which have this thread's mask; here any other thread may take the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _interrupts_after() -> Iterator[None]:
    """Let the main thread, where Python handles signals, have a Ctrl-C when the block ends, or a second one at once."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    n_came = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal n_came
        n_came += 1
        if n_came > 1 and callable(handler):  # what starts may hang
            handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if n_came == 1:
            signal.raise_signal(signal.SIGINT)


def ignore_interrupts() -> None:
    """Let the process that was started leave Ctrl-C to the one that started it, which decides what ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # what waited is forgotten, and programs that a function starts have no signal that waits
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def leave_interrupts(process: int, group: int) -> None:
    """Leave Ctrl-C to the process of the same terminal that has started this worker of a cluster.

    When that closes the cluster thereafter, the worker says nothing of the chunks that it drops.
    """
    if os.getpid() != process and os.getpgrp() == group and threading.current_thread() is threading.main_thread():
        ignore_interrupts()
        logging.getLogger("distributed.worker.state_machine").addFilter(_is_told)


def _is_told(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Async instruction for")


class _Remembered:
    """Raises KeyboardInterrupt as Python does, and knows that it came."""

    came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.default_int_handler(number, frame)

    def check(self) -> None:
        """Raise it again if something has swallowed it."""
        if self.came:
            raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Give what is to be called now and then to raise a KeyboardInterrupt that was lost.

    Python ignores exceptions in callbacks of its garbage collection, of which distributed has one, and in finalizers.
    """
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, _Remembered):
        yield handler.check
    elif handler is signal.default_int_handler and threading.current_thread() is threading.main_thread():
        remembered = _Remembered()
        signal.signal(signal.SIGINT, remembered)
        try:
            yield remembered.check
        finally:
            signal.signal(signal.SIGINT, handler)
    else:
        yield lambda: None  # somebody else decides what Ctrl-C does

"""Integers that processes share."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import get_spawning_popen
from typing import Any

__all__ = ["SharedIntegers"]


class SharedIntegers:
    """Integers, all 0 at first, that a process shares with those that it starts, forked or spawned.

    Any other copy has zeros of its own.

    Parameters
    ----------
    n
        How many.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        # locks of the context "spawn" go to both kinds of processes, those of "fork" do not
        self._values: Any = multiprocessing.get_context("spawn").Array("q", max(n, 1))

    def __reduce__(self) -> Any:
        # shared memory and its lock can go along only while a process is being started
        if get_spawning_popen() is None:
            return SharedIntegers, (self._n,)
        return _rebuilt, (self._n, self._values)

    @contextmanager
    def held(self) -> Iterator[Any]:
        """Give the integers, which nobody else sees or changes in the meantime."""
        with self._values.get_lock():
            yield self._values.get_obj()


def _rebuilt(n: int, values: Any) -> SharedIntegers:
    made = SharedIntegers.__new__(SharedIntegers)
    made._n, made._values = n, values
    return made

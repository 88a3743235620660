"""The one way to other processes: packed once where it is, and unpacked once in each process that it reaches."""

import threading
import uuid
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from dasksim._execution._unsendable import THREADS, pack, unpacked
from dasksim.errors import ArgumentError

__all__ = ["Cache", "Packed", "forget", "once"]

T = TypeVar("T")
V = TypeVar("V")


class Cache(Generic[V]):
    """The latest values by key, for several threads.

    Parameters
    ----------
    most
        How many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Hashable, V] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """Return the value of a key, made if there is none; two threads may both make it, and share one."""
        with self._lock:
            if key in self._values:
                return self._values[key]
        # without the lock: to unpack may take long, and others want what is there already
        made = make()
        with self._lock:
            found = self._values.setdefault(key, made)
            while len(self._values) > self._most:
                del self._values[next(iter(self._values))]
            return found

    def pop(self, key: Hashable) -> V | None:
        """Forget a key, and return its value if there is one."""
        with self._lock:
            return self._values.pop(key, None)


# The latest that this process has unpacked: programs of lazy datasets, and jobs of the runs in which it takes part.
_unpacked: Cache[Any] = Cache(16)


def once(token: str, payload: bytes) -> Any:
    """Return what some bytes hold, unpacked once in this process."""
    return _unpacked.get(token, lambda: unpacked(payload))


def forget(token: str) -> Any:
    """Forget what was unpacked here, and return it if there is something."""
    return _unpacked.pop(token)


class Packed(Generic[T]):
    """An object on its way to other processes.

    Parameters
    ----------
    value
        The object.
    advice
        What to do if it cannot be sent.
    """

    def __init__(self, value: T, advice: str = THREADS) -> None:
        self.token = uuid.uuid4().hex
        self._value = value
        self._advice = advice
        self._sent: tuple[Any, ...] | None = None

    @property
    def value(self) -> T:
        """The object; elsewhere it is unpacked when it is first asked for."""
        return self._value

    @property
    def n_bytes(self) -> int:
        """Bytes of what it was packed into."""
        return len(self._sent[1][-1]) if self._sent else 0

    def pack(self) -> "Packed[T]":
        """Pack it now.

        Raises
        ------
        ArgumentError
            If it holds something that cannot be sent; the message says which stage holds it, and by what path.
        """
        self._sent = _Arrived, (self.token, pack(self._value, self._advice))
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # once, though each task of a graph may hold it
        if self._sent is None:
            try:
                self.pack()
            except ArgumentError as error:  # Dask would put an error of its own in place of it
                self._sent = _Refused, (str(error),)
        return self._sent or ()


class _Arrived:
    """A packed object in another process."""

    def __init__(self, token: str, payload: bytes) -> None:
        self.token = token
        self.payload = payload

    @property
    def value(self) -> Any:
        return once(self.token, self.payload)


class _Refused:
    """Stands for an object that could not be sent, and says why where it is asked for."""

    def __init__(self, message: str) -> None:
        self.message = message

    @property
    def value(self) -> Any:
        raise ArgumentError(self.message)

"""Exceptions of other processes, as data: the exception itself, if it can be made again, else what it says."""

import contextlib
import re
import sys
from dataclasses import dataclass
from typing import Any

from dasksim._core.tracebacks import Frame, frames_of, rebuilt
from dasksim._execution._unsendable import can_send
from dasksim._execution.pickling import dumps, is_by_name, loads

__all__ = ["Raised"]

# Exceptions that led to each other, and are shown.
_MOST_CAUSES = 5

_UNREADABLE = "<its text cannot be read>"


@dataclass(frozen=True)
class Raised:
    """What a call raised in another process.

    No live traceback is among it: one that is too deep to be pickled comes out of a cluster as an exception never, and
    out of worker processes as the end of the worker.

    Parameters
    ----------
    packed
        The exception as bytes, unless it cannot be made again of any.
    kind, text, notes
        The name of its type, and what it says.
    frames
        Its traceback, cut.
    cause, context, hides_context
        The exceptions that led to it, and whether the second is not to be shown.
    parts
        Those of a group.
    """

    packed: bytes | None
    kind: str
    text: str
    notes: tuple[str, ...]
    frames: tuple[Frame, ...]
    cause: "Raised | None"
    context: "Raised | None"
    hides_context: bool
    parts: tuple["Raised", ...]

    @classmethod
    def of(cls, error: BaseException, depth: int = 0) -> "Raised":
        """Return an exception as data."""

        def led(other: BaseException | None) -> Raised | None:
            # the limit ends circles of exceptions too
            return None if other is None or depth == _MOST_CAUSES else cls.of(other, depth + 1)

        parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        return cls(
            _packed(error),
            type(error).__qualname__,
            _text(error),
            tuple(map(_text, _notes(error))),
            frames_of(error.__traceback__),
            led(error.__cause__),
            None if error.__suppress_context__ else led(error.__context__),
            error.__suppress_context__,
            tuple(cls.of(part, depth + 1) for part in parts) if depth < _MOST_CAUSES else (),
        )

    def error(self) -> BaseException:
        """Return the exception, or one that says the same."""
        with contextlib.suppress(Exception):  # such as ImportError: this process may lack what the other has
            found = loads(self.packed) if self.packed is not None else None
            if isinstance(found, BaseException):
                return self._completed(found)
        if self.parts:
            text = self.text.rpartition(" (")[0]  # a group adds how many it has
            return self._completed(BaseExceptionGroup(text, [part.error() for part in self.parts]))
        return self._completed(RuntimeError(f"{self.kind}: {self.text}" if self.text else self.kind))

    def _completed(self, error: BaseException) -> BaseException:
        """Return an exception with all that pickling leaves out; its class may have a ``__setattr__`` of its own."""
        error.with_traceback(rebuilt(self.frames))
        set_attribute: Any = object.__setattr__
        set_attribute(error, "__cause__", self.cause and self.cause.error())
        set_attribute(error, "__context__", self.context and self.context.error())
        # after the cause, which sets it too
        set_attribute(error, "__suppress_context__", self.hides_context)
        if self.notes:
            set_attribute(error, "__notes__", list(self.notes))
        if isinstance(error, BaseExceptionGroup):
            # parts that were pickled with their group have lost their tracebacks, and what led to them; beyond the
            # limit of depth there is nothing to give back
            for part, raised in zip(error.exceptions, self.parts, strict=False):
                raised._completed(part)
        return error


def _packed(error: BaseException) -> bytes | None:
    """Return bytes of which an exception can be made again that says the same, or None."""
    # by parts first where a class goes by value: else a copy of the caller's own class would come back
    ways = (dumps, _by_parts) if is_by_name(type(error)) else (_by_parts, dumps)
    for pack in ways:
        with contextlib.suppress(Exception):
            # made again at once: some can be packed, and fail only then, or say more at each call of their class
            packed = pack(error)
            again = loads(packed)
            if type(again) is type(error) and _told(again) == _told(error):
                return packed
    return None


def _by_parts(error: BaseException) -> bytes:
    """Return bytes of which an exception is made without a call of its class, which may take other arguments.

    Attributes that cannot be pickled are left out.
    """
    state = {name: value for name, value in vars(error).items() if name != "__notes__" and can_send(value)}
    arguments = error.args if can_send(error.args) else (_text(error),)
    kind = type(error)
    # the class as bytes of its own, which are unpacked only where none of its name is found
    return dumps(_Parts(kind.__module__, kind.__qualname__, dumps(kind), arguments, state))


class _Parts:
    """What becomes an exception where it is unpacked."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_parts, self.parts


def _of_parts(module: str, name: str, packed: bytes, arguments: tuple[Any, ...], state: dict[str, Any]) -> Any:
    kind = _found(module, name) or loads(packed)
    error = kind.__new__(kind, *arguments)
    # past what the class says of setting attributes, as a frozen dataclass does
    BaseException.args.__set__(error, arguments)  # type: ignore[attr-defined]
    vars(error).update(state)
    return error


def _found(module: str, name: str) -> Any:
    """Return the class of that name, if there is one: the caller's own, rather than a copy that went there and back."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _text(obj: object) -> str:
    try:
        return str(obj)
    except Exception:  # noqa: BLE001
        return _UNREADABLE


def _told(error: BaseException) -> str:
    """Return an exception's text without addresses in memory."""
    return re.sub("0x[0-9a-f]+", "0x", _text(error))


def _notes(error: BaseException) -> tuple[object, ...]:
    notes = getattr(error, "__notes__", ())
    return tuple(notes) if isinstance(notes, list | tuple) else ()

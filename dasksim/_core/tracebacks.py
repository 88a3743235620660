"""Tracebacks as users see them, without the frames of dasksim, Dask and their executors; and as data that travels."""

import ast
import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

__all__ = ["MOST_SHOWN", "Frame", "chain", "frames_of", "rebuilt", "shorten", "shortened"]

#: Set to 1, it shows all frames.
FULL = "DASKSIM_FULL_TRACEBACK"

# Packages whose frames lead to a user's function, and say nothing of it; models are functions as users write them.
_INTERNAL = ("dasksim", "dask", "xarray", "distributed", "loky", "concurrent.futures", "contextlib", "importlib")
_MODELS = "dasksim.models"

#: Frames of one exception that are shown, of those that have travelled and by the command line.
MOST_SHOWN = 6

# And that travel.
_MOST_SENT = 100


class shortened(contextlib.ContextDecorator):  # noqa: N801  (used as a decorator)
    """Cuts internal frames from exceptions that leave a function.

    Those of the function itself, which a ``with`` statement can leave out since the exception passes on from there as
    it is.

    Parameters
    ----------
    most
        How many frames are left at most; None for all of the user's, which a debugger shows.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            shorten(error, self.most)


def shorten(error: BaseException, most: int | None = None) -> None:
    """Cut internal frames from an exception and those that led to it, and the middle of more than ``most``."""
    for one in chain(error):
        one.with_traceback(_cut(one.__traceback__, most))


def chain(error: BaseException) -> Iterator[BaseException]:
    """Return an exception and those that led to it, or are its parts, each once."""
    found: dict[int, BaseException] = {}
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in found:
            found[id(one)] = one
            todo += [one.__cause__, one.__context__]
            todo += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
    return iter(found.values())


@dataclass(frozen=True)
class Frame:
    """One line of a traceback: where it is, and in which function.

    Parameters
    ----------
    file, module, name
        The file, and the names of the module and of the function.
    position
        First and last line, first column and the one after the last, as :pep:`657` has them.
    """

    file: str
    module: str
    name: str
    position: tuple[int, int, int, int]


def frames_of(trace: TracebackType | None) -> tuple[Frame, ...]:
    """Return a traceback as data, without its middle where it is long."""
    return tuple(map(_frame, _without_middle(_links(trace), _MOST_SENT)))


def rebuilt(frames: Sequence[Frame]) -> TracebackType | None:
    """Return the traceback that some data stand for, cut; its frames have the same files and lines, and no values."""
    return _cut(_joined([_raised_at(frame) for frame in frames]), MOST_SHOWN)


def _cut(trace: TracebackType | None, most: int | None) -> TracebackType | None:
    shown = _links(trace)
    if os.environ.get(FULL, "") in ("", "0"):
        # only those that lead to the user's function: what it calls itself, be it Dask, stays; where all are internal,
        # the last one tells where it was
        shown = list(itertools.dropwhile(_is_internal, shown)) or shown[-1:]
    elif most is not None:
        most = _MOST_SENT
    return _joined(shown if most is None else _without_middle(shown, most))


def _without_middle(links: list[TracebackType], most: int) -> list[TracebackType]:
    if len(links) <= most:
        return links
    gap = _raised_at(Frame(f"more frames, {FULL}=1 shows some", "", "...", (1, 1, -1, -1)))
    return [*links[: most // 3 - 1], gap, *links[-(most - most // 3) :]]


def _joined(links: Sequence[TracebackType]) -> TracebackType | None:
    joined: TracebackType | None = None
    for link in reversed(links):
        joined = TracebackType(joined, link.tb_frame, link.tb_lasti, link.tb_lineno)
    return joined


def _links(trace: TracebackType | None) -> list[TracebackType]:
    links = []
    while trace is not None:
        links.append(trace)
        trace = trace.tb_next
    return links


def _is_internal(link: TracebackType) -> bool:
    # with the dot, so that only whole names match: a user's `dask_models` is not Dask's
    module = f"{link.tb_frame.f_globals.get('__name__')}."
    return any(module.startswith(f"{name}.") for name in _INTERNAL) and not module.startswith(f"{_MODELS}.")


def _frame(link: TracebackType) -> Frame:
    code = link.tb_frame.f_code
    # tb_lasti counts bytes, and each position stands for two of them
    found = next(itertools.islice(code.co_positions(), link.tb_lasti // 2, None), (None,) * 4)
    first = max(link.tb_lineno or 1, 1)
    last, start, stop = (-1 if value is None else value for value in found[1:])
    columns = (start, stop) if start >= 0 and stop >= 0 else (-1, -1)
    module = str(link.tb_frame.f_globals.get("__name__", ""))
    return Frame(code.co_filename, module, code.co_name, (first, max(last, first), *columns))


def _raised_at(frame: Frame) -> TracebackType:
    """Return the traceback of an exception that code at the place of a frame raises."""
    first, last, start, stop = frame.position
    # only code that runs has a frame: some is made that raises at the very lines and columns of the one asked for
    tree = ast.parse("raise error")
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.expr):
            node.lineno, node.end_lineno, node.col_offset, node.end_col_offset = first, last, start, stop
    code = compile(tree, frame.file, "exec").replace(co_name=frame.name)
    try:
        exec(code, {"__name__": frame.module, "error": _Marker()})
    except _Marker as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            # the first entry is that of this function
            return error.__traceback__.tb_next
    raise RuntimeError("the code of a frame raises no exception")


class _Marker(BaseException):
    pass

"""What cannot be sent to another process, and where it is held."""

import dis
import functools
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

from dasksim._execution.pickling import dumps, loads
from dasksim.errors import ArgumentError

__all__ = ["THREADS", "can_send", "pack", "unpacked"]

#: What to do about it.
THREADS = "use scheduler='threads', which sends nothing"

# Objects that are looked at to find the one that cannot be sent.
# Each look packs all that an object holds.
_MOST = 1000

#: What leads from one object to another: the labels so far and the objects, the last one included.
_Trail = tuple[tuple[str, object], ...]


def pack(obj: object, advice: str = THREADS) -> bytes:
    """Return an object as bytes.

    Raises
    ------
    ArgumentError
        If it holds something that cannot be sent; the message says which stage holds it, and by what path.
    """
    try:
        return dumps(obj)
    except ArgumentError:
        raise
    except Exception as error:  # noqa: BLE001
        raise ArgumentError(f"{_told(_culprit(obj), error)}; make it within the function, or {advice}") from None


def unpacked(packed: bytes) -> Any:
    """Return what was packed in another process; what is raised says what to do."""
    try:
        return loads(packed)
    except ImportError as error:
        error.add_note(
            "The worker process cannot import a module that the simulator uses: make it importable there, "
            "or send it along with cloudpickle.register_pickle_by_value(module)."
        )
        raise
    except Exception as error:
        error.add_note(f"The worker process cannot make again what the simulator holds: {THREADS}.")
        raise


def can_send(obj: object) -> bool:
    """Whether an object can be sent to another process."""
    try:
        dumps(obj)
    except Exception:  # noqa: BLE001
        return False
    return True


def _culprit(root: object) -> _Trail:
    """Return the way to an object that cannot be sent though all that it holds can."""
    found: _Trail = (("", root),)
    # breadth first, so that of several ways to it a shortest is told
    todo = deque([found])
    seen = {id(root)}
    while todo and len(seen) < _MOST:
        found = todo.popleft()
        # only what cannot be sent leads on; where nothing does, the object itself is at fault
        bad = [(label, part) for label, part in _parts(found[-1][1]) if not can_send(part)]
        if not bad:
            return found
        for label, part in bad:
            # objects lead back to each other, as functions that call each other do
            if id(part) not in seen:
                seen.add(id(part))
                todo.append((*found, (label, part)))
    return found


def _told(trail: _Trail, error: Exception) -> str:
    # the path begins at the user's object: what leads there is internal
    first = next((i for i, (_, obj) in reversed(list(enumerate(trail))) if _is_own(obj)), -1) + 1
    stages = [obj for _, obj in trail[:first] if hasattr(obj, "functions") and hasattr(obj, "name")]
    who = f"stage {stages[-1].name!r}" if stages else "what is run"
    held = trail[first:] or trail[-1:]
    steps = [_name(held[0][1]), *(label for label, _ in held[1:])]
    what = f"{type(held[-1][1]).__module__}.{type(held[-1][1]).__qualname__}".removeprefix("builtins.")
    return f"{who} cannot be sent to another process: {' -> '.join(steps)} is of type {what} ({error})"


def _is_own(obj: object) -> bool:
    module = f"{type(obj).__module__}."
    # models and programs are functions as users give them
    return module.startswith("dasksim.") and not module.startswith(("dasksim.models.", "dasksim.external."))


def _name(obj: Any) -> str:
    return str(getattr(obj, "__name__", None) or type(obj).__name__)


def _parts(obj: Any) -> Iterator[tuple[str, object]]:
    """Return what an object holds that is sent with it, and what that is called there."""
    if isinstance(obj, types.FunctionType):
        yield from _of_function(obj)
    elif isinstance(obj, types.MethodType):
        yield from (("its object", obj.__self__), ("its function", obj.__func__))
    elif isinstance(obj, functools.partial):
        yield ("its function", obj.func)
        yield from ((f"argument {i}", value) for i, value in enumerate(obj.args))
        yield from ((f"argument {name!r}", value) for name, value in obj.keywords.items())
    elif isinstance(obj, dict):
        yield from ((f"key {key!r}", value) for key, value in list(obj.items()))
    elif isinstance(obj, list | tuple | set | frozenset):
        yield from ((f"element {i}", value) for i, value in enumerate(obj))
    elif isinstance(obj, type):
        yield from ((f"attribute {name!r}", value) for name, value in vars(obj).items())
    elif isinstance(obj, staticmethod | classmethod | property | functools.cached_property):
        inner = (getattr(obj, name, None) for name in ("__func__", "fget", "fset", "func"))
        yield from (("its function", function) for function in inner if function is not None)
    elif hasattr(obj, "cache_parameters"):
        yield ("its function", obj.__wrapped__)
    else:
        yield from _of_instance(obj)


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        # an empty cell, of a name that is bound later, cannot be read
        if cell != types.CellType():
            yield f"closure {name!r}", cell.cell_contents
    for name in _globals_of(function.__code__):
        if name in function.__globals__:
            yield f"global {name!r}", function.__globals__[name]
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield "a default", value
    yield from ((f"attribute {name!r}", value) for name, value in vars(function).items())


def _globals_of(code: types.CodeType) -> Iterator[str]:
    yield from dict.fromkeys(i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_of(constant)


def _of_instance(obj: Any) -> Iterator[tuple[str, object]]:
    """Return what an object says that it is made again of."""
    try:
        # as pickle asks, so that only what would be sent is looked at
        reduced = obj.__reduce_ex__(4)
    except Exception:  # noqa: BLE001
        reduced = ""
    if isinstance(reduced, str):
        return
    _, arguments, state, *items = (*reduced, None, None)[: max(len(reduced), 3)]
    yield from (("its parts" if i else "its class", value) for i, value in enumerate(arguments))
    states = state if isinstance(state, tuple) else (state,)
    for attributes in states:
        if isinstance(attributes, dict):
            yield from ((f"attribute {name!r}", value) for name, value in attributes.items())
        elif attributes is not None:
            yield "its state", attributes
    for iterator in items:
        if iterator is not None and not callable(iterator):
            yield from ((f"element {i}", value) for i, value in enumerate(iterator))

"""What a function keeps of what it returned, and may change at its next call: such values are copied in time.

Two threads that call such a function at once write to the same memory, so that they take turns.

Memory that nothing else refers to is new and stays as it is, for the price of counting references. What is kept may
never change, as a constant does not; it is copied nevertheless, unless it is read-only.
"""

import copy
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import as_host
from dasksim._core.labelled import is_labelled
from dasksim._core.variables import is_supported
from dasksim._streams.process_wide import locked

__all__ = ["Turns", "are_kept", "are_new", "copied"]

T = TypeVar("T")

_SCALARS = frozenset({bool, int, float, complex})


def are_new(outputs: list[Any], columns: Mapping[str, list[Any]]) -> bool:
    """Whether outputs are plainly new: dicts of scalars and of arrays with memory of their own, that nobody else holds.

    It costs 0.1 microseconds a row, and says nothing where it is not so.
    """
    # a sum is enough, since no value has fewer references than these
    if not columns or _references(outputs) != _ALONE * len(outputs):
        return False
    for column in columns.values():
        kinds = set(map(type, column))
        if not (_are_new_arrays(column) if kinds == {np.ndarray} else all(map(_is_immutable, kinds))):
            return False
    return True


def _are_new_arrays(column: list[Any]) -> bool:
    """Whether arrays, each held by a container and this list, own their memory, or view what nobody else does."""
    if _references(column) != (_ALONE + 1) * len(column):
        return False
    bases = [array.base for array in column]
    kinds = set(map(type, bases))
    if kinds == {type(None)}:
        return not (_has_no_owner(column[0]) or _has_no_owner(column[-1]))
    if kinds != {np.ndarray} or _references(bases) != (_ALONE + 1) * len(bases):
        return False
    return {type(base.base) for base in bases} == {type(None)} and not _has_no_owner(bases[0])


def are_kept(outputs: list[Any], inputs: Iterable[Any] = ()) -> bool:
    """Whether anything else may hold, and so change, what a function returned at each of several calls.

    The caller holds it by this list alone. Memory of the inputs is the caller's, and stays as it is.
    """
    arrays = _arrays_in(outputs)
    if arrays is None:
        return True
    if _are_alone(arrays):
        return False
    # once more without the inputs' memory, and that which is read-only; `arrays` now holds the rest as well
    given = {id(_owner(value)) for value in inputs}
    return not _are_alone([a for a in arrays if id(_owner(a)) not in given and not _is_constant(_owner(a))], 1)


def copied(value: Any) -> Any:
    """Return a value as no call to come can change it, of the same kind as far as checks of outputs go."""
    if _is_immutable(type(value)):
        return value
    if is_labelled(value):
        return copy.deepcopy(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {name: copied(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [copied(part) for part in value]
    if _is_array(type(value)):
        return copy.deepcopy(value)
    try:
        array = np.array(as_host(value))
    except Exception:  # noqa: BLE001  # the check of the outputs says what it is
        return value
    if not is_supported(array.dtype):
        return value
    return array if hasattr(value, "dtype") else _Copy(array)


class Turns:
    """Lets threads call a function at the same time until it is found to keep what it returns, and then in turn.

    Parameters
    ----------
    keeps_outputs
        Whether it is known to.
    """

    def __init__(self, keeps_outputs: bool = False) -> None:
        self.keeps_outputs = keeps_outputs
        self._changed = threading.Condition()
        self._n_free = 0  # calls under way that others do not wait for

    def __reduce__(self) -> tuple[Any, ...]:
        # locks cannot be pickled, and the calls under way are this process's
        return type(self), (self.keeps_outputs,)

    def run(self, work: Callable[[bool], T], is_kept: Callable[[T], bool]) -> T:
        """Return ``work(False)``, or where the function keeps what it returned ``work(True)``, which copies it.

        It is then called anew: another thread may have called it before what it returned was seen.
        """
        if self._begin():
            try:
                result = work(False)
                if not is_kept(result):
                    return result
                self.keeps_outputs = True
            finally:
                self._end()
        with self._changed:
            # calls that began before this was known may still write to the memory
            self._changed.wait_for(lambda: not self._n_free)
        # the one of the process, since several functions may keep the same memory
        with locked():
            return work(True)

    def _begin(self) -> bool:
        with self._changed:
            self._n_free += not self.keeps_outputs
            return not self.keeps_outputs

    def _end(self) -> None:
        with self._changed:
            self._n_free -= 1
            self._changed.notify_all()


class _Copy:
    """A copy of what is no array but can become one, such as a memoryview: its dtype is none that the user chose."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self._array if dtype is None else self._array.astype(dtype)


def _references(values: list[Any]) -> int:
    """Return how many references there are to values; each counts as often as it stands in the list."""
    return sum(map(sys.getrefcount, values))


# Those to a value that a list alone holds. Versions of Python count differently, but the same everywhere.
_ALONE = _references([object()])


def _is_immutable(kind: type) -> bool:
    # a void, such as a row of a structured array, can be written to
    return kind in _SCALARS or (issubclass(kind, np.generic) and kind is not np.void)


def _is_array(kind: type) -> bool:
    """Whether values of a kind own their memory, or say by ``base`` who does: NumPy's and CuPy's."""
    return issubclass(kind, np.ndarray) or (hasattr(kind, "__cuda_array_interface__") and hasattr(kind, "get"))


def _arrays_in(values: list[Any], n_containers: int = 0) -> list[Any] | None:
    """Return all arrays in values, each held by this list and some containers; None if containers may be kept."""
    kinds = set(map(type, values))
    if all(map(_is_immutable, kinds)):
        return []
    if all(map(_is_array, kinds)):
        return list(values)
    containers: list[Any] = [value for value in values if isinstance(value, dict | list)]
    if any(not (_is_immutable(k) or _is_array(k) or issubclass(k, dict | list | tuple)) for k in kinds):
        return None
    if _references(containers) != (_ALONE + 1 + n_containers) * len(containers):
        return None
    arrays = [value for value in values if _is_array(type(value))]
    # others may hold a tuple, which cannot change, but what is in it may
    containers += [value for value in values if isinstance(value, tuple)]
    parts = [part for c in containers for part in (c.values() if isinstance(c, dict) else c)]
    inner = _arrays_in(parts, 1) if parts else []
    return None if inner is None else [*arrays, *inner]


def _are_alone(arrays: list[Any], n_lists: int = 0) -> bool:
    """Whether arrays, each held by a container, this list and some more, share their memory with no others."""
    bases = [base for base in _bases(arrays) if base is not None]
    if not all(map(_is_array, set(map(type, bases)))):
        bases = [base for base in bases if not _is_counted_alone(base)]
    if not all(map(_is_array, set(map(type, bases)))) or set(map(type, _bases(bases))) - {type(None)}:
        return False
    # each once: many arrays may view one, which may be returned too
    owners = list({id(owner): owner for owner in chain(arrays, bases)}.values())
    if any(map(_has_no_owner, owners[:1] + owners[-1:])):
        return False
    # an array is held by its container and `arrays` besides, a base by the array that views it and `bases`
    return _references(owners) == _ALONE * len(owners) + (2 + n_lists) * len(arrays) + 2 * len(bases)


def _has_no_owner(array: Any) -> bool:
    """Whether nobody says whose an array's memory is: it is compiled code's own."""
    return isinstance(array, np.ndarray) and array.base is None and not array.flags.owndata


def _bases(arrays: list[Any]) -> list[Any]:
    """Return what owns the memory of each array, or None for itself."""
    if set(map(type, arrays)) <= {np.ndarray}:
        return [array.base for array in arrays]
    return [getattr(array, "base", None) for array in arrays]


def _is_counted_alone(base: Any) -> bool:
    """Whether an owner counts references to its memory by itself, as Numba's does, and there is but one."""
    return getattr(base, "refcount", None) == 1


def _owner(array: Any) -> Any:
    """Return what owns the memory of an array."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


def _is_constant(owner: Any) -> bool:
    return isinstance(owner, np.ndarray) and owner.flags.owndata and not owner.flags.writeable

"""The one way of users' objects to other processes: pickled once, by value where the other side cannot import them."""

import io
import pickle
from typing import Any

import cloudpickle

from dasksim._global_state import by_reference

__all__ = ["dumps", "loads"]

#: Unpack what :func:`dumps` packed.
loads = pickle.loads


def dumps(obj: object) -> bytes:
    """Return an object as bytes.

    The generators of the whole process go by reference: what keeps the one of ``numpy.random`` here, such as a frozen
    distribution of scipy, keeps the other process's own there, which is seeded like it.
    """
    with io.BytesIO() as file:
        _Pickler(file).dump(obj)
        return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is made again, or NotImplemented where the usual way will do."""
        reduced = by_reference(obj)
        return super().reducer_override(obj) if reduced is None else reduced

"""What dasksim uses of Dask that Dask does not document; nothing else in dasksim takes such names from it.

``DataNode``, ``Task``, ``TaskRef``
    The elements of a graph as Dask runs it. The layers of stages make their tasks when they are asked for, and a
    scheduler then takes them as they are; the documented form, a tuple that begins with a function, is first converted,
    in which Dask searches all arguments for keys, a whole simulator among them. It replaces them should they go: a
    tuple ``(function, *arguments)`` for a ``Task``, a key for a ``TaskRef``, a value for a ``DataNode``.
"""

import dask.array as da
from dask._task_spec import DataNode, Task, TaskRef

from dasksim.errors import ArgumentError

__all__ = ["DataNode", "Task", "TaskRef", "check_graphs"]


def check_graphs(instead: str) -> None:
    """Raise an ArgumentError where Dask plans the queries of arrays, which are then no graphs but expressions.

    As of Dask 2026.8 xarray can neither reduce, join, mask nor write them, and Dask itself cannot take one apart into
    its chunks.
    """
    # by function: the option may be unset, and its default is going to change
    if da.array_expr_enabled():
        raise ArgumentError(
            "Dask's option array.query-planning is on, and with it xarray can neither reduce nor write Dask arrays; "
            "turn it off before dask.array is imported, by DASK_ARRAY__QUERY_PLANNING=False in the environment or by "
            f"dask.config.set({{'array.query-planning': False}}), or {instead}"
        )

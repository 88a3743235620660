"""What dasksim uses of Dask that Dask does not document; nothing else in dasksim takes such names from it.

``DataNode``, ``Task``, ``TaskRef``
    The elements of a graph as Dask runs it. The layers of stages make their tasks when they are asked for, and a
    scheduler then takes them as they are; the documented form, a tuple that begins with a function, is first converted,
    in which Dask searches all arguments for keys, a whole simulator among them. It replaces them should they go: a
    tuple ``(function, *arguments)`` for a ``Task``, a key for a ``TaskRef``, a value for a ``DataNode``.
"""

from dask._task_spec import DataNode, Task, TaskRef

__all__ = ["DataNode", "Task", "TaskRef"]

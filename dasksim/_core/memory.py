"""The memory that a process may have, and what it keeps of it for the arrays to come."""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["FREED_BYTES", "keep_freed_memory", "machine_memory"]

#: Larger than what functions make of a sub-batch, some arrays at a time.
FREED_BYTES = 1 << 24


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep what the arrays of one sub-batch give back, for those of the next.

    glibc at first maps each array of more than 128 KiB anew, which costs the kernel up to twice the time that NumPy
    needs to fill it. When it has seen a larger array come and go, it keeps memory for arrays of that size
    (``M_MMAP_THRESHOLD`` in mallopt(3)); here it is shown one, of which no page is touched. Where the environment says
    how memory is kept, as that of Dask's workers does, glibc goes by that alone.
    """
    np.empty(FREED_BYTES, np.uint8)


def machine_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use: the machine's, or fewer by its control groups."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([memory, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    """Return the limits of the control groups that the process is in, and of those that hold them; see cgroups(7)."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            # version 2, whose one line names no controllers
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(path.strip("/"))
        for folder in (group, *group.parents):  # in a container the path may be the host's, and only the top is there
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                yield int((mount / folder / name).read_text())

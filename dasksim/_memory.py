"""The memory that a process keeps for the arrays to come."""

import functools

import numpy as np

__all__ = ["keep_freed_memory"]

# Larger than what functions make of a sub-batch, some arrays at a time.
_BYTES = 1 << 24


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep what the arrays of one sub-batch give back, for those of the next.

    glibc at first maps each array of more than 128 KiB anew, which costs the kernel up to twice the time that NumPy
    needs to fill it. When it has seen a larger array come and go, it keeps memory for arrays of that size
    (``M_MMAP_THRESHOLD`` in mallopt(3)); here it is shown one, of which no page is touched. Where the environment says
    how memory is kept, as that of Dask's workers does, glibc goes by that alone.
    """
    np.empty(_BYTES, np.uint8)

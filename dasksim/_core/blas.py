"""One thread for BLAS while samples are simulated.

A product of matrices adds up in an order that depends on how many threads BLAS has, and so do its last bits: a laptop,
a server and a worker of a cluster, which has one, would disagree. And as many threads as cores in each of as many
worker processes stand in each other's way.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from threadpoolctl import get_cached_controller

__all__ = ["one_blas_thread"]

_lock = threading.Lock()
_n_blocks = 0
_first: Any = None


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let every BLAS of the process have one thread; where blocks overlap, until the last of them ends."""
    global _n_blocks, _first
    with _lock:
        # each block limits it: where BLAS rests on OpenMP, the number is that of the calling thread
        _let_this_thread_set()
        limit = get_cached_controller().limit(limits=1, user_api="blas")
        _first = limit if not _n_blocks else _first
        _n_blocks += 1
    try:
        yield
    finally:
        with _lock:
            _n_blocks -= 1
            _let_this_thread_set()
            if limit is not _first:
                # which found one thread, but for OpenMP
                limit.restore_original_limits()
            if not _n_blocks:
                _first.restore_original_limits()


def _let_this_thread_set() -> None:
    """Let this thread set the number: threadpoolctl obeys only the first that did, but here they agree."""
    for library in get_cached_controller().select(internal_api="openblas").lib_controllers:
        library.clear_controlling_thread(force=True)

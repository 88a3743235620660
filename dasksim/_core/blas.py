"""One thread for BLAS while samples are simulated.

A product of matrices adds up in an order that depends on how many threads BLAS has, and so do its last bits: a laptop,
a server and a worker of a cluster, which has one, would disagree. And as many threads as cores in each of as many
worker processes stand in each other's way.
"""

import contextlib
import functools
import sys
import threading
from collections.abc import Iterator
from typing import Any

from threadpoolctl import ThreadpoolController

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
        limit = _limit(_libraries(len(sys.modules)))
        _first = limit if not _n_blocks else _first
        _n_blocks += 1
    try:
        yield
    finally:
        with _lock:
            _n_blocks -= 1
            if limit is not _first:
                # which found one thread, but for OpenMP
                _lift(limit)
            if not _n_blocks:
                _lift(_first)


def _limit(libraries: Any) -> Any:
    _let_any_thread_set(libraries)
    return libraries.limit(limits=1, user_api="blas")


def _lift(limit: Any) -> None:
    _let_any_thread_set(_libraries(len(sys.modules)))
    limit.restore_original_limits()


def _let_any_thread_set(libraries: Any) -> None:
    """Let this thread set the number: threadpoolctl 3.8 obeys only the first that did, but here they agree."""
    for library in libraries.select(internal_api="openblas").lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


@functools.lru_cache(maxsize=1)
def _libraries(n_modules: int) -> Any:
    """Return what sets the threads of the libraries that are loaded; looked for again where there are more modules."""
    return ThreadpoolController()

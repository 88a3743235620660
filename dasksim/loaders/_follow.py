"""Batches of a store that is being generated."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy.typing as npt

from dasksim.errors import ArgumentError, ArgumentTypeError, StoreError
from dasksim.loaders._request import Augmentations, LoaderRequest, augmented
from dasksim.loaders._store_blocks import StoreBlocks, take_snapshot
from dasksim.loaders._windows import plan_reading
from dasksim.store import Store, StoreLike

__all__ = ["follow"]

Batch = dict[str, npt.NDArray[Any]]


def follow(
    store: StoreLike,
    batch_size: int,
    *,
    variables: Sequence[str] | None = None,
    seed: int = 0,
    split: tuple[str, Mapping[str, float]] | None = None,
    augmentations: Augmentations | None = None,
    masked: Literal["refuse", "drop", "keep"] = "refuse",
    buffer_bytes: int = 1 << 27,
    patience: float = 600.0,
    poll_seconds: float = 1.0,
) -> Iterator[Batch]:
    """Read each sample of a store once, while it is being generated.

    Chunks are read when they are complete, those that are there at the same time shuffled together; the end comes when
    all chunks of the store have been read. Which chunks come together depends on time.

    Parameters
    ----------
    store, batch_size, variables, seed, split, augmentations, masked, buffer_bytes
        As in :func:`batches`.
    patience
        Seconds to wait for the next chunk.
    poll_seconds
        Seconds from one look at the store to the next.

    Returns
    -------
    iterator of dict
        Batches as :func:`batches` yields them.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used.
    StoreError
        While reading, if there is no store or no new chunk for too long, or it cannot be read.
    """
    for name, value in (("patience", patience), ("poll_seconds", poll_seconds)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ArgumentTypeError(f"{name} must be a number of seconds; got {value!r}")
        if not value > 0:
            raise ArgumentError(f"{name} must be greater than 0; got {value!r}")
    request = LoaderRequest.checked(
        store,
        batch_size,
        variables=variables,
        seed=seed,
        split=split,
        masked=masked,
        partial=True,
        buffer_bytes=buffer_bytes,
    )
    if len(request.sources) > 1 or not isinstance(request.sources[0], Store):
        raise ArgumentTypeError(f"store must be one store, which is being generated; got {store!r}")
    return _followed(request, request.sources[0], augmentations, patience, poll_seconds)


def _followed(
    request: LoaderRequest, store: Store, augmentations: Augmentations | None, patience: float, poll_seconds: float
) -> Iterator[Batch]:
    seen: set[int] = set()
    deadline = time.monotonic() + patience
    # a store that is not there yet has no chunks, and is waited for; one that is may be made longer
    while not seen or len(seen) < _n_chunks(store):
        new = _complete(store) - seen
        if not new:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"no chunk of the store at {store.name!r} became complete for {patience:g} s; if its "
                    "generation was stopped, run generate again with the same arguments"
                )
            time.sleep(poll_seconds)
            continue
        source = StoreBlocks(request, store, take_snapshot(store, partial=True, without=seen))
        if source.counts.sum():
            # what was seen stands for the number of the epoch, so that each part has an order of its own
            reading = plan_reading(request, source, len(seen))
            try:
                for batch in reading.batches():
                    yield augmented(batch, augmentations)
            finally:
                reading.close()
        # more than the new ones, if others became complete before the snapshot
        seen.update(source.snapshot.chunks)
        # anew from here, as the caller may have trained for long between batches
        deadline = time.monotonic() + patience


def _n_chunks(store: Store) -> int:
    record = store.find_record()
    return record.n_chunks if record is not None else 0


def _complete(store: Store) -> set[int]:
    return store.complete_chunks() if store.find_record() is not None else set()

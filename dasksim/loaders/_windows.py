"""Windows: the samples that are shuffled together, read ahead in the background."""

import contextlib
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.memory import keep_freed_memory
from dasksim.errors import StoreError
from dasksim.loaders._blocks import Blocks, Part
from dasksim.loaders._order import Epoch, Piece, plan_epoch
from dasksim.loaders._request import LoaderRequest
from dasksim.loaders._stretch import Stretch, Terms

__all__ = ["Reading", "plan_reading"]

Array = npt.NDArray[Any]
Window = dict[str, Array]

# Windows that are read ahead, each by a thread. From far away, more threads read a window together.
_N_AHEAD = 2
_REMOTE_THREADS = 16

# More samples are not shuffled better, and no longer fit into a processor's cache.
_WINDOW_BLOCKS = 64


def plan_reading(request: LoaderRequest, source: Blocks, number: int) -> "Reading":
    """Return the batches of an epoch.

    Raises
    ------
    ArgumentError
        If a batch does not fit into the buffer, or ranks cannot have the same number of batches.
    """
    request.check_sizes(source.row_bytes, source.block_rows, int(source.counts.sum()), source.kind)
    rank, world = request.shard
    # memory is shared by the window that is given out and those read ahead, which may each be larger by a block
    rows = request.buffer_bytes // (1 + _N_AHEAD) // max(source.row_bytes, 1) - source.block_rows
    if request.within is None:
        rows = min(rows, max(_WINDOW_BLOCKS * source.block_rows, request.batch_size))
    terms = Terms(
        batch_size=request.batch_size,
        window_rows=rows,
        shuffle=request.shuffle,
        drop_last=request.drop_last,
        seed=request.seed,
        epoch=number,
        world=world,
        keeps_windows=request.within is not None,
    )
    # those of all ranks, since how many batches one has depends on the others
    epochs = []
    for each in range(world):
        stretch = Stretch(terms, each, source.blocks, source.counts)
        epochs.append(Epoch(terms, each, stretch, _counts(source, stretch)))
    return Reading(source, plan_epoch(epochs, rank))


def _counts(source: Blocks, stretch: Stretch) -> Array:
    counts = np.zeros((stretch.n_windows, source.n_groups), np.int64)
    for window in range(stretch.n_windows):
        segments = stretch.segments(window)
        # without groups segments tell how many there are, and no block has to be looked at
        if source.contexts is None:
            counts[window, 0] = sum(segment.stop - segment.start for segment in segments)
            continue
        for segment in segments:
            rows = source.rows(segment.block)[segment.start : segment.stop]
            counts[window] += np.bincount(source.groups(segment.block, rows), minlength=source.n_groups)
    return counts


class Reading:
    """Reads the batches of one epoch, in any order, but fast in theirs only.

    Parameters
    ----------
    source
        The store.
    epoch
        Which samples are in which batch.
    """

    def __init__(self, source: Blocks, epoch: Epoch) -> None:
        self.epoch = epoch
        self._source = source
        self._windows: dict[int, Future[Window]] = {}
        keep_freed_memory()  # that of batches, which come and go
        self._free: list[Window] = []  # to be used again: new memory costs the system more than filling it
        self._capacity = int(epoch.counts.sum(1).max(initial=0))
        self._listed: tuple[int, list[list[Piece]]] = (0, [])
        self._ahead = ThreadPoolExecutor(_N_AHEAD, "dasksim-ahead")
        self._readers = ThreadPoolExecutor(_REMOTE_THREADS, "dasksim-read") if source.is_far else None

    def __len__(self) -> int:
        return self.epoch.n_batches

    def close(self) -> None:
        """Stop reading ahead."""
        self._ahead.shutdown(wait=False, cancel_futures=True)
        if self._readers is not None:
            self._readers.shutdown(wait=False, cancel_futures=True)
        self._windows.clear()
        self._free.clear()

    def batches(self, first: int = 0, stop: int | None = None) -> Iterator[dict[str, Array]]:
        """Yield batches in their order."""
        stop = len(self) if stop is None else stop
        while first < stop:
            window = self.epoch.window_of(first)
            base, listed = self.epoch.batches(window)
            arrays: list[tuple[str, Array]] = []
            for pieces in listed[first - base : stop - base]:
                if pieces[0].window < window:
                    yield self._joined(pieces)
                    continue
                arrays = arrays or list(self._opened(window, window).items())
                rows = slice(pieces[0].start, pieces[0].stop)
                # a copy: the memory of the window is used again, and batches may be kept and changed
                yield {name: array[rows].copy() for name, array in arrays}
            first = base + len(listed)

    def batch(self, number: int) -> dict[str, Array]:
        """Return a batch, as arrays that nothing else refers to.

        Raises
        ------
        StoreError
            If it cannot be read.
        StoreMismatchError
            If the store was made anew in the meantime.
        """
        first, listed = self._listed
        if not 0 <= number - first < len(listed):
            first, listed = self._listed = self.epoch.batches(self.epoch.window_of(number))
        return self._joined(listed[number - first], n_behind=1)  # threads are not always in the order of batches

    def _joined(self, pieces: list[Piece], n_behind: int = 0) -> dict[str, Array]:
        first, last = pieces[0].window, pieces[-1].window
        windows = {window: self._opened(window, first - n_behind) for window in range(first, last + 1)}
        parts = [(windows[piece.window], slice(piece.start, piece.stop)) for piece in pieces]
        if len(parts) == 1:
            return {name: array[parts[0][1]].copy() for name, array in parts[0][0].items()}
        return {name: np.concatenate([window[name][rows] for window, rows in parts]) for name in windows[last]}

    def _opened(self, number: int, first: int) -> Window:
        """Return a window; those before the first one are given up, and those after it are read ahead."""
        for old in [window for window in self._windows if window < first]:
            # waited for, as nothing else may be read into its memory before
            self._free.append(self._windows.pop(old).result())
        last = min(first + _N_AHEAD, self.epoch.stretch.n_windows - 1)
        for each in range(number, max(number, last) + 1):
            self._start(each)
        return self._windows[number].result()

    def _start(self, number: int) -> "Future[Window]":
        if number not in self._windows:
            self._windows[number] = self._ahead.submit(self._load, number)
        return self._windows[number]

    def _memory(self) -> Window:
        with contextlib.suppress(IndexError):  # another thread may take the last one
            return self._free.pop()
        forms = self._source.forms
        return {name: np.empty((self._capacity, *form.row_shape), form.dtype) for name, form in forms.items()}

    def _load(self, number: int) -> Window:
        source, segments = self._source, self.epoch.stretch.segments(number)
        rows = [source.rows(segment.block)[segment.start : segment.stop] for segment in segments]
        groups = None
        if source.contexts is not None:
            groups = np.concatenate([source.groups(s.block, r) for s, r in zip(segments, rows, strict=True)])
        # samples are moved once, from where they were read to their places in the window
        places = self.epoch.places(number, groups)
        ends = list(itertools.accumulate(map(len, rows), initial=0))
        # by chunk, so that a shard is opened once, and its inner chunks that touch are read at once
        chunks: dict[Any, dict[int, tuple[Array, Any]]] = defaultdict(dict)
        for segment, own, start, stop in zip(segments, rows, ends, ends[1:], strict=False):
            chunk, inner = source.place(segment.block)
            chunks[chunk][inner] = own, slice(start, stop) if places is None else places[start:stop]
        window = self._memory()
        parts = [
            (window, part, wanted) for chunk, wanted in chunks.items() for part in source.parts(chunk, sorted(wanted))
        ]
        try:
            for _ in (map if self._readers is None else self._readers.map)(_fill, *zip(*parts, strict=True)):
                pass
        except StoreError:
            source.check_unchanged()  # this says more, if it is why
            raise
        # once more, since a store that was made anew may be read without an error
        source.check_unchanged()
        return window


def _fill(window: Window, part: Part, wanted: dict[int, tuple[Array, Any]]) -> None:
    for inner, read in part:
        rows, places = wanted[inner]
        for name, values in read.items():
            items = _as_items(window[name])
            # items are views of whole rows, so that values must lie in order and have the dtype of the window
            source = _as_items(np.ascontiguousarray(values, window[name].dtype))
            items[places] = source if len(rows) == len(source) else source[rows]


# Rows of so few bytes are moved as one item each, several times faster than as rows of numbers.
_ITEM_BYTES = 256


def _as_items(array: Array) -> Array:
    """Return a view of an array that has one item for each row, if rows are small."""
    n_bytes = math.prod(array.shape[1:]) * array.dtype.itemsize
    if not 0 < n_bytes <= _ITEM_BYTES:
        return array
    return array.reshape(-1).view(f"u{n_bytes}" if n_bytes in (1, 2, 4, 8) else f"V{n_bytes}")

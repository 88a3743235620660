"""Stores as datasets of Keras, and so of BayesFlow."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Unpack

import keras
import numpy as np
import numpy.typing as npt

from dasksim.errors import ArgumentError
from dasksim.loaders._batches import batches
from dasksim.loaders._request import Augmentations, BatchOptions, augmented
from dasksim.loaders._rows import Rows
from dasksim.loaders._shared import SharedIntegers
from dasksim.loaders._windows import Reading
from dasksim.store import SamplesLike

__all__ = ["StoreDataset"]

Batch = dict[str, npt.NDArray[Any]]


class StoreDataset(keras.utils.PyDataset):
    """Shuffled batches of a store, for ``fit`` of Keras and of BayesFlow's approximators.

    It goes where BayesFlow's ``OfflineDataset`` and ``DiskDataset`` go. Each batch comes once in an epoch, in whatever
    order Keras asks for them, with any number of workers. Threads share what is read; with ``use_multiprocessing`` each
    process reads for itself, which pays only if augmentations or the adapter are slow.

    Parameters
    ----------
    store, batch_size
        As in :func:`~dasksim.loaders.batches`.
    adapter
        What is called with each batch after the augmentations, such as an adapter of BayesFlow.
    augmentations
        As in :func:`~dasksim.loaders.batches`.
    workers, use_multiprocessing, max_queue_size
        As in ``keras.utils.PyDataset``.
    **options
        ``variables``, ``shuffle``, ``seed``, ``drop_last``, ``split``, ``shard``, ``within``, ``masked``, ``partial``
        and ``buffer_bytes`` of :func:`~dasksim.loaders.batches`. With ``partial``, chunks are those that were complete
        when this was made.
    """

    def __init__(
        self,
        store: SamplesLike,
        batch_size: int,
        adapter: Callable[[Batch], Any] | None = None,
        *,
        augmentations: Augmentations | None = None,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(workers=workers, use_multiprocessing=use_multiprocessing, max_queue_size=max_queue_size)
        if "epochs" in options:
            raise ArgumentError("epochs is no option of a dataset: fit says how many there are")
        self._batches = batches(store, batch_size, **options)
        # Keras was told how many batches there are
        self._batches.is_fixed = True
        self.adapter = adapter
        self.augmentations = augmentations
        self.batch_size = batch_size
        self.num_samples = self._batches.n_samples
        self._n_batches = self._batches.n_batches
        self.epoch = 0
        # how many batches were given, and the number of the batch that was given for each index, from 1
        self._given = SharedIntegers(1 + self._n_batches)
        self._forget()

    def _forget(self) -> None:
        """Forget what belongs to a process."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._reading: Reading | None = None
        self._rows: Rows | None = None

    def _own_lock(self) -> threading.Lock:
        if self._process != os.getpid():  # forked, without the threads that read
            self._forget()
        return self._lock

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_lock", "_reading", "_rows")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def num_batches(self) -> int:
        return self._n_batches

    def __len__(self) -> int:
        return self._n_batches

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self._n_batches:
            raise IndexError(f"batches are numbered from 0 to {self._n_batches - 1}; got {index}")
        number = self._number_for(index)
        with self._own_lock():
            if self._reading is None:
                self._reading = self._batches.reading(self.epoch)
            batch = self._reading.batch(number)
        # without the lock, so that threads can augment at the same time
        return self._finished(batch)

    def _number_for(self, index: int) -> int:
        """Return which batch is given for an index: the next one that was not, so that reading goes straight on.

        Keras shuffles indices by default, while batches are read fast in their own order only.
        """
        with self._given.held() as given:
            # within an epoch an index that is asked for again gets the same batch
            if not given[1 + index]:
                given[0] += 1
                given[1 + index] = given[0]
            return int(given[1 + index]) - 1

    def get_batch_by_sample_indices(self, indices: Any) -> Any:
        """Return a batch of any samples, numbered from 0 to ``num_samples - 1``, as BayesFlow's ensembles ask for them.

        This is fast if the samples fit into ``buffer_bytes``.
        """
        with self._own_lock():
            if self._rows is None:
                self._rows = Rows(self._batches.source(), self._batches.request.buffer_bytes)
            batch = self._rows.take(np.asarray(indices))
        return self._finished(batch)

    def _finished(self, batch: Batch) -> Any:
        batch = augmented(batch, self.augmentations)
        return batch if self.adapter is None else self.adapter(batch)

    def on_epoch_end(self) -> None:
        with self._lock:
            if self._reading is not None:
                self._reading.close()
            self._reading = None
            self.epoch += 1
            with self._given.held() as given:
                given[:] = [0] * (1 + self._n_batches)

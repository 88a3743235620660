"""Stores as datasets of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from dasksim.errors import ArgumentError
from dasksim.loaders._batches import batches
from dasksim.loaders._request import Augmentations, BatchOptions, SampleOptions, augmented
from dasksim.loaders._rows import Rows
from dasksim.loaders._shared import SharedIntegers
from dasksim.store import SamplesLike

__all__ = ["StoreBatches", "StoreSamples"]

Tensors = dict[str, torch.Tensor]

# How many data loaders that go through one dataset at the same time are told from each other.
_LOADERS = 16


class StoreBatches(IterableDataset):
    """Shuffled batches of a store, as dicts of tensors.

    Give it to a ``DataLoader`` with ``batch_size=None``. Workers share out the batches of an epoch: they are the same
    for any number of them. Going through it again is the next epoch. In a process group of ``torch.distributed``, each
    rank has its share by default.

    Parameters
    ----------
    store, batch_size, augmentations
        As in :func:`~dasksim.loaders.batches`; augmentations are given NumPy arrays.
    dtype
        To which floating-point variables are converted, such as ``torch.float32``.
    device
        Where tensors go. Not with workers: let the ``DataLoader`` pin memory, and move batches in the training loop.
    pin_memory
        Whether to put tensors into pinned memory, from which they are moved to a device while the program goes on.
        Without workers only; with them, the ``DataLoader`` has an argument of this name.
    **options
        ``variables``, ``shuffle``, ``seed``, ``drop_last``, ``split``, ``shard``, ``within``, ``masked``, ``partial``
        and ``buffer_bytes`` of :func:`~dasksim.loaders.batches`. With ``partial``, chunks are those that were complete
        when this was made.
    """

    def __init__(
        self,
        store: SamplesLike,
        batch_size: int,
        *,
        augmentations: Augmentations | None = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
        pin_memory: bool = False,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__()
        _refuse_epochs(options)
        options.setdefault("shard", _process_group())
        self._batches = batches(store, batch_size, augmentations=augmentations, **options)
        # workers are copies, and share out the same batches only if all see the same chunks
        self._batches.is_fixed = True
        self._dtype, self._device, self._pin_memory = dtype, device, pin_memory
        # number of the next epoch, how often it was set, and for each data loader its seed and first epoch
        self._shared = SharedIntegers(2 + 2 * _LOADERS)
        self._passes: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return self._batches.n_batches

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch, as after a restart."""
        with self._shared.held() as shared:
            shared[0] = epoch
            shared[1] += 1
            shared[2:] = [0] * (2 * _LOADERS)

    def __iter__(self) -> Iterator[Tensors]:
        worker = get_worker_info()
        part = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None and (self._pin_memory or _is_elsewhere(self._device)):
            raise ArgumentError(
                "device and pin_memory do not go with workers, whose memory is not that of this process; give the "
                "DataLoader pin_memory=True, and move batches in the training loop"
            )
        # PyTorch seeds each worker with the seed of its data loader plus its number
        epoch = self._next_epoch(None if worker is None else worker.seed - worker.id)
        return map(self._converted, self._batches.of_epoch(epoch, part))

    def _next_epoch(self, loader: int | None) -> int:
        """Return the number of an epoch: the same to all workers that one data loader starts together.

        A data loader draws a seed for its workers each time that it starts some. Persistent workers keep theirs, and
        count.
        """
        with self._shared.held() as shared:
            if loader is None:
                shared[0] += 1
                return int(shared[0] - 1)
            seeds = shared[2 : 2 + _LOADERS]
            slot = seeds.index(loader) if loader in seeds else shared[0] % _LOADERS
            # the first worker of a data loader to come here notes the epoch for the others
            if seeds[slot] != loader:
                shared[2 + slot], shared[2 + _LOADERS + slot] = loader, shared[0]
            # a worker that persists is not seeded again; it counts from when the epoch was last set
            passes = self._passes.get((loader, shared[1]), 0)
            self._passes = {(loader, shared[1]): passes + 1}
            epoch = int(shared[2 + _LOADERS + slot]) + passes
            shared[0] = max(shared[0], epoch + 1)
            return epoch

    def _converted(self, batch: dict[str, npt.NDArray[Any]]) -> Tensors:
        tensors = {name: _tensor(values, self._dtype) for name, values in batch.items()}
        if self._pin_memory:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        if self._device is None:
            return tensors
        return {name: tensor.to(self._device, non_blocking=self._pin_memory) for name, tensor in tensors.items()}


class StoreSamples(Dataset):
    """Samples of a store by number, as dicts of tensors, for what needs a map-style dataset.

    Inner chunks that were read last are kept in memory. Random access to a store that is larger than that is slow: each
    sample then costs reading an inner chunk. :class:`StoreBatches` is the fast way.

    Parameters
    ----------
    store
        As in :func:`~dasksim.loaders.batches`.
    augmentations
        As in :func:`~dasksim.loaders.batches`; they are given several samples at once.
    dtype
        To which floating-point variables are converted.
    **options
        ``variables``, ``split``, ``masked``, ``partial`` and ``buffer_bytes`` of :func:`~dasksim.loaders.batches`.
    """

    def __init__(
        self,
        store: SamplesLike,
        *,
        augmentations: Augmentations | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SampleOptions],
    ) -> None:
        for name in options:
            if name not in (known := SampleOptions.__annotations__):
                raise ArgumentError(f"{name!r} is no option of samples, which have {', '.join(known)}")
        self._batches = batches(store, 1, **options)
        self._augmentations, self._dtype = augmentations, dtype
        self._rows: Rows | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_rows": None}

    def __len__(self) -> int:
        return self._batches.n_samples

    def __getitem__(self, number: int) -> Tensors:
        if number < 0:
            number += len(self)
        if not 0 <= number < len(self):  # how Python learns where a sequence ends
            raise IndexError(f"samples are numbered from 0 to {len(self) - 1}; got {number}")
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Tensors]:
        """Return several samples, as a ``DataLoader`` asks for them."""
        if self._rows is None:
            self._rows = Rows(self._batches.source(), self._batches.request.buffer_bytes)
        batch = augmented(self._rows.take(numbers), self._augmentations)
        tensors = {name: _tensor(values, self._dtype) for name, values in batch.items()}
        return [{name: tensor[i] for name, tensor in tensors.items()} for i in range(len(numbers))]


def _tensor(values: npt.NDArray[Any], dtype: torch.dtype | None) -> torch.Tensor:
    # an augmentation may have reversed an axis, of which PyTorch takes no view
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _is_elsewhere(device: Any) -> bool:
    return device is not None and torch.device(device).type != "cpu"


def _process_group() -> tuple[int, int]:
    """Return the rank of this process and the number of all, where there are several."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _refuse_epochs(options: Mapping[str, Any]) -> None:
    if "epochs" in options:
        raise ArgumentError("epochs is no option of a dataset: each time it is gone through is an epoch")

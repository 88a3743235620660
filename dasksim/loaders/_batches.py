"""Shuffled batches of a store, as dicts of NumPy arrays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy.typing as npt

from dasksim._core.checks import check_count
from dasksim._core.telling import counted
from dasksim.errors import ArgumentTypeError, StoreError
from dasksim.loaders._blocks import Blocks
from dasksim.loaders._request import Augmentations, LoaderRequest, augmented
from dasksim.loaders._sources import open_blocks, take_snapshots
from dasksim.loaders._windows import Reading, plan_reading
from dasksim.store import SamplesLike

__all__ = ["Batches", "batches"]

Batch = dict[str, npt.NDArray[Any]]


class Batches:
    """Batches of a store, from the first to the last of one or more epochs; made by :func:`batches`.

    Going through it again goes on with the next epochs. A copy in another process opens the store for itself.

    Parameters
    ----------
    request
        What is wanted.
    epochs
        How many epochs to go through at once; None for no end.
    augmentations
        What to do to each batch.
    """

    #: Number of the epoch that comes next.
    epoch: int

    #: Whether a store that may grow is taken as it was when this was made.
    is_fixed: bool = False

    def __init__(
        self, request: LoaderRequest, epochs: int | None = 1, augmentations: Augmentations | None = None
    ) -> None:
        self.request = request
        self.epochs = epochs
        self.augmentations = augmentations
        self.epoch = 0
        self._snapshots = take_snapshots(request)
        self._source: Blocks | None = open_blocks(request, self._snapshots)
        self._counted: tuple[Blocks, int] | None = None
        if len(self._source.blocks) or not request.partial:
            self.n_batches  # noqa: B018  (what is wrong is told at once)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_source": None, "_counted": None}

    def __iter__(self) -> Iterator[Batch]:
        # epochs count when they begin: a loop that is left early is not followed by the same one again
        first = self.epoch
        if self.epochs is not None:
            self.epoch += self.epochs
        return self._all(range(first, self.epoch) if self.epochs is not None else itertools.count(first))

    def _all(self, numbers: Any) -> Iterator[Batch]:
        for number in numbers:
            if self.epochs is None:
                self.epoch = number + 1
            yield from self.of_epoch(number)

    def __repr__(self) -> str:
        samples, batches = counted(self.n_samples, "sample"), counted(self.n_batches, "batch")
        title = self.source().title
        return f"<dasksim.loaders.Batches of {title}: {samples} in {batches}, epoch {self.epoch} is next>"

    def __len__(self) -> int:
        if self.epochs is None:
            raise ArgumentTypeError("batches with epochs=None never end, so they have no length")
        return self.epochs * self.n_batches

    @property
    def n_batches(self) -> int:
        """Batches of an epoch."""
        source = self.source()
        if self._counted is None or self._counted[0] is not source:
            self._counted = source, len(plan_reading(self.request, source, 0))
        return self._counted[1]

    @property
    def n_samples(self) -> int:
        """Samples of an epoch, of all ranks together."""
        return int(self.source().counts.sum())

    def source(self) -> Blocks:
        """Return what is read, as it was when this was made or, if it may grow, when the last epoch began."""
        if self._source is None:
            self._source = open_blocks(self.request, self._snapshots)
        return self._source

    def reading(self, number: int) -> Reading:
        """Return what reads the batches of an epoch, after a look at the store."""
        source = self.source()
        if self.request.partial and not self.is_fixed:
            source.check_unchanged()
            now = take_snapshots(self.request)
            if now != self._snapshots:
                self._source = source = open_blocks(self.request, now)
                self._snapshots = now
        elif not self.request.partial:
            source.check_length()
        if not len(source.blocks):
            raise StoreError(
                f"no chunk of {source.title} is complete; wait for the first, or use loaders.follow, which does"
            )
        return plan_reading(self.request, source, number)

    def of_epoch(self, number: int, part: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Yield the batches of an epoch, or those of the ``i``-th of ``m`` parts of it."""
        reading = self.reading(number)
        try:
            # batches in a row: if they were dealt out in turn, each worker would read every window
            i, m = part
            for batch in reading.batches(i * len(reading) // m, (i + 1) * len(reading) // m):
                yield augmented(batch, self.augmentations)
        finally:
            # also where a caller stops in the middle, whose threads would go on reading ahead
            reading.close()


def batches(
    store: SamplesLike,
    batch_size: int,
    *,
    variables: Sequence[str] | None = None,
    shuffle: bool = True,
    seed: int | None = 0,
    epochs: int | None = 1,
    drop_last: bool = False,
    split: tuple[str, Mapping[str, float]] | None = None,
    shard: tuple[int, int] = (0, 1),
    augmentations: Augmentations | None = None,
    within: str | None = None,
    masked: Literal["refuse", "drop", "keep"] = "refuse",
    partial: bool = False,
    buffer_bytes: int = 1 << 27,
) -> Batches:
    """Read shuffled batches of a store, or of a dataset, that may be larger than memory.

    Inner chunks are read whole, in a shuffled order, and some at a time are mixed sample by sample, while the next
    ones are read in the background. The order is a function of the seed, the number of the epoch and the shard. Every
    sample comes exactly once in each epoch, over all shards together.

    Parameters
    ----------
    store
        Where the store is, in any form that :func:`~dasksim.generate` takes, or the path of a zip file of a store. Also
        a Zarr group that xarray opens, or a Dataset, with a dim ``batch``: then Dask chunks take the place of inner
        chunks, or slices of what is in memory. A list of these with the same variables is read as one.
    batch_size
        Samples in a batch. The last one of an epoch may have fewer.
    variables
        Which ones to read; by default all, but ``valid`` only if masked samples are kept.
    shuffle
        Whether to shuffle.
    seed
        Any integer >= 0; None for fresh entropy.
    epochs
        How many epochs a ``for`` loop goes through; None for no end. The next loop over the same object goes on with
        the next epochs; its attribute ``epoch`` is the number of the next one and can be set.
    drop_last
        Whether to leave out what does not fill a batch.
    split
        One of several disjoint parts of the store, and the fractions of all: ``("train", {"train": 0.9, "validation":
        0.1})``. To which a sample belongs depends on its number only, so it stays the same when the store is extended.
        In large stores whole inner chunks are assigned, and fractions hold to within one of these. Each store of a
        list is split by itself.
    shard
        ``(rank, world)`` reads the share of one of several processes, with ranks from 0. All have the same number of
        batches: one batch of a rank may be cut in two for that.
    augmentations
        A function of a batch, several in their order, or a mapping of variables to functions of their arrays.
    within
        A context, such as ``"n_obs"``, or any number of each sample of a dataset: all samples of a batch then have the
        same value of it. Values that are rare make short batches. Inner chunks come in the same order in all epochs;
        samples are shuffled anew.
    masked
        What becomes of samples that failed and are masked: ``"refuse"`` is an error if there are any, ``"drop"`` leaves
        them out, which conditions on success, ``"keep"`` has them like others.
    partial
        Whether the store may be incomplete, or grow: each epoch is then made of the chunks that are complete when it
        begins. Not with several ranks, which might see different ones.
    buffer_bytes
        Memory for what is mixed and what is read ahead.

    Returns
    -------
    Batches
        To be iterated over: dicts of NumPy arrays of shape ``(batch_size, ...)`` by variable, yours to change.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used.
    StoreError
        If there is no store, or it cannot be read.
    IncompleteStoreError
        If chunks are missing.
    StoreMismatchError
        While reading, if the store was made anew or, without ``partial``, extended.

    Examples
    --------
    >>> import dasksim, tempfile
    >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=3)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds = dasksim.generate(simulator, f"{folder}/train.zarr", 1000, seed=1, scheduler="synchronous")
    ...     [batch["x"].shape for batch in dasksim.loaders.batches(f"{folder}/train.zarr", 400)]
    [(400, 3), (400, 3), (200, 3)]
    """
    request = LoaderRequest.checked(
        store,
        batch_size,
        variables=variables,
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
        split=split,
        shard=shard,
        within=within,
        masked=masked,
        partial=partial,
        buffer_bytes=buffer_bytes,
    )
    return Batches(request, None if epochs is None else check_count("epochs", epochs), augmentations)

"""What a loader is asked for, checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict, get_args

import numpy as np

from dasksim._core.checks import check_count, check_flag, check_seed
from dasksim._core.failures import VALID
from dasksim._core.telling import counted
from dasksim.errors import ArgumentError, ArgumentTypeError
from dasksim.loaders._splits import Split, check_split
from dasksim.store import DatasetReader, Store

__all__ = ["VALID", "Augmentations", "BatchOptions", "LoaderRequest", "SampleOptions", "augmented"]

Masked = Literal["refuse", "drop", "keep"]

Batch: TypeAlias = dict[str, Any]

#: What can be given to change batches.
Augmentations: TypeAlias = (
    Callable[[Batch], Batch] | Sequence[Callable[[Batch], Batch]] | Mapping[str, Callable[[Any], Any]]
)


class SampleOptions(TypedDict, total=False):
    """What samples may be asked for with, by name; :func:`~dasksim.loaders.batches` describes it."""

    variables: Sequence[str] | None
    split: tuple[str, Mapping[str, float]] | None
    masked: Masked
    partial: bool
    buffer_bytes: int


class BatchOptions(SampleOptions, total=False):
    """What batches may be asked for with besides."""

    shuffle: bool
    seed: int | None
    drop_last: bool
    shard: tuple[int, int]
    within: str | None


@dataclass(frozen=True)
class LoaderRequest:
    """What all loaders have in common; :func:`~dasksim.loaders.batches` describes it."""

    sources: tuple[Store | DatasetReader, ...]
    batch_size: int
    variables: tuple[str, ...] | None
    shuffle: bool
    seed: int
    drop_last: bool
    split: Split | None
    shard: tuple[int, int]
    within: str | None
    masked: str
    partial: bool
    buffer_bytes: int

    @classmethod
    def checked(
        cls,
        store: Any,
        batch_size: Any,
        *,
        variables: Any = None,
        shuffle: Any = True,
        seed: Any = 0,
        drop_last: Any = False,
        split: Any = None,
        shard: Any = (0, 1),
        within: Any = None,
        masked: Any = "refuse",
        partial: Any = False,
        buffer_bytes: Any = 1 << 27,
    ) -> "LoaderRequest":
        """Check values, as far as this goes without the store.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If one cannot be used.
        """
        if not isinstance(masked, str) or masked not in get_args(Masked):
            raise ArgumentError(f"masked must be one of {', '.join(map(repr, get_args(Masked)))}; got {masked!r}")
        if within is not None and not isinstance(within, str):
            raise ArgumentTypeError(f"within must be the name of a context, or None; got {within!r}")
        shard = _check_shard(shard)
        if seed is None and shard[1] > 1:
            raise ArgumentError("seed=None draws another seed on each rank, which would read samples twice; give one")
        partial = check_flag("partial", partial)
        if partial and shard[1] > 1:
            raise ArgumentError(
                f"partial=True does not go with shard={shard!r}: ranks might see different chunks, and neither have "
                "the same number of batches nor each sample once"
            )
        return cls(
            _check_sources(store),
            check_count("batch_size", batch_size),
            _check_variables(variables),
            check_flag("shuffle", shuffle),
            check_seed(seed),
            check_flag("drop_last", drop_last),
            check_split(split),
            shard,
            within,
            masked,
            partial,
            check_count("buffer_bytes", buffer_bytes),
        )

    def check_sizes(self, row_bytes: int, block_rows: int, n_samples: int, kind: str) -> None:
        """Check sizes against those of the store.

        Raises
        ------
        ArgumentError
            If a batch does not fit into the buffer, or there are too few samples.
        """
        # three windows at a time, one that is given out and two that are read ahead, each of a batch at least; blocks
        # are not cut where windows end, which makes them larger
        needed = 3 * (self.batch_size + 3 * block_rows) * row_bytes
        if needed > self.buffer_bytes:
            raise ArgumentError(
                f"batches of {self.batch_size:,} samples of {row_bytes:,} bytes, out of {kind} of {block_rows:,} "
                f"samples, do not fit into buffer_bytes={self.buffer_bytes:,}; give at least {needed:,}, fewer "
                f"variables{', smaller chunks,' if kind == 'chunks' else ''} or a smaller batch_size"
            )
        world = self.shard[1]
        part = f" in split {self.split.name!r}" if self.split else ""
        if n_samples < world:
            are = "is" if n_samples == 1 else "are"
            raise ArgumentError(f"there {are} {counted(n_samples, 'sample')}{part}, too few for {world} ranks")
        if self.drop_last and self.batch_size > n_samples // world:
            each = f" on each of {world} ranks" if world > 1 else ""
            raise ArgumentError(
                f"batch_size={self.batch_size:,} is more than the {n_samples // world:,} samples{part}{each}, so that "
                "drop_last=True leaves none; give a smaller one"
            )


def _check_sources(given: Any) -> tuple[Store | DatasetReader, ...]:
    if isinstance(given, list | tuple):
        if not given:
            raise ArgumentError("a list of stores must have one at least; got []")
        return tuple(source for each in given for source in _check_sources(each))
    return (DatasetReader(given) if DatasetReader.can_read(given) else Store.at(given),)


def _check_variables(variables: Any) -> tuple[str, ...] | None:
    if variables is None:
        return None
    is_names = isinstance(variables, Sequence) and not isinstance(variables, str)
    if not is_names or not variables or not all(isinstance(name, str) for name in variables):
        raise ArgumentTypeError(f"variables must be a sequence of names, or None for all; got {variables!r}")
    if len(set(variables)) < len(variables):
        raise ArgumentError(f"variables must name each once; got {list(variables)!r}")
    return tuple(variables)


def _check_shard(shard: Any) -> tuple[int, int]:
    is_pair = isinstance(shard, Sequence) and not isinstance(shard, str) and len(shard) == 2
    if not is_pair or any(isinstance(i, bool) or not isinstance(i, int | np.integer) for i in shard):
        raise ArgumentTypeError(f"shard must be a pair of integers (rank, world); got {shard!r}")
    rank, world = map(int, shard)
    if not 0 <= rank < world:
        raise ArgumentError(f"shard=(rank, world) needs 0 <= rank < world, with ranks counted from 0; got {shard!r}")
    return rank, world


def augmented(batch: Batch, augmentations: Augmentations | None) -> Batch:
    """Return a batch after it has gone through functions, as BayesFlow's datasets apply them.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If it is none of these, or a variable is not in the batch.
    """
    if augmentations is None:
        return batch
    if isinstance(augmentations, Mapping):
        for name, function in augmentations.items():
            if name not in batch:
                raise ArgumentError(f"augmentations names {name!r}, which is not in the batch of {list(batch)}")
            batch[name] = function(batch[name])
        return batch
    functions = augmentations if isinstance(augmentations, Sequence) else [augmentations]
    for function in functions:
        if not callable(function):
            raise ArgumentTypeError(
                f"augmentations must be a function of a batch, a sequence of them, or a mapping of variables to "
                f"functions; got {augmentations!r}"
            )
        batch = function(batch)
    return batch

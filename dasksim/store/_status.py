"""Say how far a store is."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from dasksim._core.audits import AuditOutcome
from dasksim._core.failures import Failure
from dasksim._core.telling import counted, html_table
from dasksim.store._damage import Columns, damaged_shards
from dasksim.store._kept import kept_audits
from dasksim.store._locate import StoreLike, locate
from dasksim.store._location import Location, explained
from dasksim.store._metadata import check_arrays
from dasksim.store._pace import Pace, pace_of
from dasksim.store._receipt import no_columns, runs, totals_of
from dasksim.store._receipts import Receipts, open_receipts
from dasksim.store._record import Record
from dasksim.store._told import present_record

__all__ = ["Status", "columns_of", "status", "stored_record"]


@dataclass(frozen=True, repr=False)
class Status:
    """How far a store is.

    Parameters
    ----------
    path
        Where the store is.
    n_samples
        Samples that it is made for.
    n_complete_samples
        Samples in complete chunks.
    n_chunks
        Chunks that it is made of.
    n_complete
        Complete chunks.
    seed
        The seed.
    sub_batch_size, chunk_size
        Sizes in samples.
    seconds
        Time spent on the complete chunks, summed over workers.
    n_proposals, n_accepted
        Proposals made and accepted for the complete chunks; the same unless the simulator rejects some.
    failures
        What failed, and was masked or drawn again, in the complete chunks; the most frequent first.
    missing
        Runs of chunks that are missing, each as its first and last one.
    derived
        Complete chunks of each derivation, by the names of its variables.
    damaged
        What is wrong with the shards of complete chunks, those of derived variables included, by chunk: missing, or of
        another size than when they were written. :func:`verify` also reads them.
    audit
        What was found when samples were simulated again, or None if none were.
    pace
        How fast chunks have come lately, and how old the last one is; None where the store is complete, has no chunk
        yet, or lies where nothing tells when chunks were written.
    """

    path: str
    n_samples: int
    n_complete_samples: int
    n_chunks: int
    n_complete: int
    seed: int
    sub_batch_size: int
    chunk_size: int
    seconds: float
    n_proposals: int
    n_accepted: int
    failures: tuple[Failure, ...] = ()
    missing: tuple[tuple[int, int], ...] = ()
    derived: Mapping[str, int] = field(default_factory=dict)
    damaged: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    audit: AuditOutcome | None = None
    pace: Pace | None = None

    @property
    def n_failed(self) -> int:
        """How many times a sample failed."""
        return sum(failure.count for failure in self.failures)

    @property
    def failed_share(self) -> str:
        """How many times a sample failed, and in how many samples, as text."""
        share = f" ({self.n_failed / self.n_complete_samples:.2%})" if self.n_complete_samples else ""
        return f"{counted(self.n_failed, 'time')} in {counted(self.n_complete_samples, 'sample')}{share}"

    @property
    def acceptance_rate(self) -> float:
        """Accepted proposals divided by proposals; NaN if there are none."""
        return self.n_accepted / self.n_proposals if self.n_proposals else math.nan

    @property
    def is_complete(self) -> bool:
        """Whether all chunks are complete, and none is known to be damaged."""
        return self.n_complete == self.n_chunks and not self.damaged

    def __repr__(self) -> str:
        rows = [(label, line) for label, lines in self._rows() for label, line in _beside(label, lines)]
        return "\n".join([f"{self.path}: {self._state}", *(f"  {label:<8} {line}" for label, line in rows)])

    def _repr_html_(self) -> str:
        done = f'<progress value="{self.n_complete}" max="{self.n_chunks}"></progress>'
        rows = [(label, "\n".join(lines)) for label, lines in self._rows()]
        return f"<div>{done}{html_table(rows, caption=f'{self.path}: {self._state}')}</div>"

    @property
    def _state(self) -> str:
        if self.damaged:
            return "damaged; generate(..., repair=True), or derive for derived variables, makes damaged chunks again"
        if self.is_complete:
            return "complete"
        return "incomplete; run generate again with the same arguments to finish it"

    def _rows(self) -> Iterator[tuple[str, list[str]]]:
        """Yield what there is to say, each with its label, line by line."""
        yield "samples", [f"{self.n_complete_samples:,} of {self.n_samples:,}"]
        yield "chunks", [f"{self.n_complete:,} of {self.n_chunks:,} (of {counted(self.chunk_size, 'sample')})"]
        if self.missing:
            gaps = [str(first) if first == last else f"{first}-{last}" for first, last in self.missing]
            yield "missing", [", ".join(gaps[:_MOST_RUNS]) + _more(gaps, "run", ", ")]
        if self.damaged:
            damaged = [f"chunk {chunk}: {', '.join(found)}" for chunk, found in self.damaged.items()]
            yield "damaged", damaged[:_MOST_RUNS] + [more for more in [_more(damaged, "chunk")] if more]
        yield "seed", [f"{self.seed} (sub-batches of {counted(self.sub_batch_size, 'sample')})"]
        rate = f", {self.n_complete_samples / self.seconds:,.0f} samples/s a worker" if self.seconds else ""
        yield "time", [f"{self.seconds:,.1f} s{rate}"]
        if self.n_complete < self.n_chunks:
            yield "pace", [str(self.pace or "unknown")]
        if self.n_accepted != self.n_proposals:
            proposals = counted(self.n_proposals, "proposal")
            yield "accepted", [f"{self.n_accepted:,} of {proposals} ({self.acceptance_rate:.3g})"]
        if self.failures:
            yield "failed", [self.failed_share, *map(str, self.failures)]
        yield "audited", [str(self.audit or "no"), *(self.audit.found if self.audit else ())]
        for names, n_complete in self.derived.items():
            of = f": {n_complete:,} of {counted(self.n_chunks, 'chunk')}; derive again"
            yield "derived", [names + ("" if n_complete == self.n_chunks else of)]


# Runs of missing chunks, and damaged chunks, that are listed.
_MOST_RUNS = 8


def _beside(label: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield lines with their label, which only the first one bears."""
    yield from zip(itertools.chain([label], itertools.repeat("")), lines)


def _more(listed: list[str], noun: str, before: str = "") -> str:
    """Return how many more there are than are listed."""
    n_more = len(listed) - _MOST_RUNS
    return f"{before}and {counted(n_more, f'more {noun}')}" if n_more > 0 else ""


def status(store: StoreLike) -> Status:
    """Return how far a store is, from its receipts.

    Parameters
    ----------
    store
        Where the store is, in any form that :func:`~dasksim.generate` takes, or the path of a zip file of a store.

    Raises
    ------
    StoreError
        If there is no store made by dasksim, or it cannot be read.
    """
    location, record = stored_record(store)
    receipts = open_receipts(location)
    columns = receipts.columns() if receipts else no_columns()
    with explained(f"cannot read {location.name!r}"):
        check_arrays(location, record, record.variables, is_whole=len(columns["chunk"]) > 0)
    complete = set(columns["chunk"].tolist())
    totals = totals_of(columns)
    damaged = damaged_shards(location, record.variables, columns)
    derived = {}
    for key, entry in record.derivations.items():
        others = columns_of(location, key)
        derived[", ".join(entry.variables)] = len(others["chunk"])
        if key in record.complete_derivations:
            for chunk, found in damaged_shards(location, entry.variables, others).items():
                damaged[chunk] = (*damaged.get(chunk, ()), *found)
    return Status(
        path=location.name,
        n_samples=record.n_samples,
        n_complete_samples=sum(map(record.n_rows, complete)),
        n_chunks=record.n_chunks,
        n_complete=len(complete),
        seed=record.seed,
        sub_batch_size=record.sub_batch_size,
        chunk_size=record.chunk_size,
        seconds=totals["nanoseconds"] / 1e9,
        n_proposals=totals["proposals"],
        n_accepted=totals["accepted"],
        failures=receipts.failures(columns) if receipts else (),
        missing=_gaps(complete, record.n_chunks),
        derived=derived,
        damaged=dict(sorted(damaged.items())),
        audit=AuditOutcome.summed(kept_audits(location)),
        pace=_pace(record, receipts, columns),
    )


def _pace(record: Record, receipts: Receipts | None, columns: Columns) -> Pace | None:
    """Return how fast chunks have come lately, if some are missing."""
    chunks = columns["chunk"].tolist()
    if receipts is None or len(chunks) == record.n_chunks:
        return None
    n_rows = np.array([record.n_rows(chunk) for chunk in chunks], "int64")
    n_missing = record.n_samples - int(n_rows.sum())
    return pace_of(receipts.written(columns), columns["nanoseconds"] / 1e9, n_rows, n_missing, time.time())


def _gaps(complete: set[int], n_chunks: int) -> tuple[tuple[int, int], ...]:
    """Return the runs of chunks that are missing, which may be far more than can be listed."""
    borders = [(-1, -1), *runs(sorted(complete)), (n_chunks, n_chunks)]
    pairs = itertools.pairwise(borders)
    return tuple((before[1] + 1, after[0] - 1) for before, after in pairs if after[0] - before[1] > 1)


def columns_of(location: Location, derivation: str | None = None) -> Columns:
    """Return what the receipts of complete chunks say."""
    receipts = open_receipts(location, derivation)
    return receipts.columns() if receipts else no_columns()


def stored_record(store: StoreLike) -> tuple[Location, Record]:
    """Return where a store is, and its record.

    Raises
    ------
    StoreError
        If there is none.
    """
    location = locate(store)
    return location, present_record(location)

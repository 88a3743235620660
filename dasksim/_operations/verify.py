"""Check a store against its receipts, and against its simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.checks import check_flag
from dasksim._core.telling import counted
from dasksim._core.tracebacks import shortened
from dasksim._engine.chunks import in_memory, simulate_chunk
from dasksim._execution.progress import Progress
from dasksim._operations._argument_order import refuse_swapped
from dasksim._operations._compatibility import StoredRequest, stored_request
from dasksim.errors import ArgumentError, ArgumentTypeError
from dasksim.simulators import SimulatorLike
from dasksim.store import Record, Store, StoreLike

__all__ = ["Verification", "bad_chunks", "verify"]


@dataclass(frozen=True, repr=False)
class Verification:
    """What a check of a store found.

    Parameters
    ----------
    path
        Where the store is.
    n_chunks
        Chunks that it is made of.
    n_checked
        Complete chunks, all of which were compared with their receipts.
    resimulated
        Numbers of the chunks that were also simulated again.
    problems
        What is wrong, by chunk.
    """

    path: str
    n_chunks: int
    n_checked: int
    resimulated: tuple[int, ...]
    problems: Mapping[int, tuple[str, ...]]

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong with the chunks that are there."""
        return not self.problems

    def __repr__(self) -> str:
        lines = [
            f"{self.path}: {'good' if self.is_good else counted(len(self.problems), 'bad chunk')}",
            f"  checked      {self.n_checked:,} of {counted(self.n_chunks, 'chunk')} against the receipts",
        ]
        if self.n_checked < self.n_chunks:
            lines.append(f"  missing      {counted(self.n_chunks - self.n_checked, 'chunk')}")
        if self.resimulated:
            lines.append(
                f"  resimulated  chunk{'s' * (len(self.resimulated) > 1)} {', '.join(map(str, self.resimulated))}"
            )
        lines += [f"  chunk {chunk}: {'; '.join(found)}" for chunk, found in self.problems.items()]
        if not self.is_good:
            lines.append("generate(..., repair=True), or dasksim generate --repair, simulates bad chunks again")
        return "\n".join(lines)


@shortened()
def verify(
    store: StoreLike,
    simulator: SimulatorLike | None = None,
    *,
    resimulate: int = 0,
    conditions: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> Verification:
    """Check a store against its receipts, byte by byte, and some of it against the simulator. Nothing is changed.

    Parameters
    ----------
    store
        Where the store is, in any form that :func:`generate` takes. It need not be complete.
    simulator
        What it was made with; for ``resimulate``.
    resimulate
        How many chunks, chosen at random, to simulate again and compare.
    conditions
        As given when the store was made; for ``resimulate``.
    progress
        Whether to show a progress bar; by default in terminals and notebooks.

    Returns
    -------
    Verification
        What was found; ``print`` shows it.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used.
    StoreError
        If there is no store, or its metadata are lost.

    Examples
    --------
    >>> import dasksim, tempfile
    >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=3)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds = dasksim.generate(simulator, f"{folder}/s.zarr", 1000, seed=1, scheduler="synchronous")
    ...     dasksim.verify(f"{folder}/s.zarr", simulator, resimulate=1).is_good
    True
    """
    refuse_swapped("verify({store}, simulator, ...)", store=store, simulator=simulator)
    progress = progress if progress is None else check_flag("progress", progress)
    if isinstance(resimulate, bool) or not isinstance(resimulate, int | np.integer):
        raise ArgumentTypeError(f"resimulate must be an integer >= 0; got {resimulate!r}")
    if resimulate < 0:
        raise ArgumentError(f"resimulate must be an integer >= 0; got {resimulate!r}")
    if resimulate and simulator is None:
        raise ArgumentError("resimulate= needs the simulator that the store was made with")
    place = Store.at(store)
    record = place.record()
    # first: to read all bytes takes long, and the simulator may be another one
    request = None if simulator is None else stored_request(store, simulator, conditions)
    checker = place.checker(record)
    problems = bad_chunks(checker.problems, record, checker.complete, progress)
    for key in record.derivations:
        derived = place.checker(record, key)
        for chunk, others in bad_chunks(derived.problems, record, derived.complete, progress).items():
            problems[chunk] = (*problems.get(chunk, ()), *(f"derived {problem}" for problem in others))
    # what is known to be damaged tells nothing of the simulator
    good = [chunk for chunk in checker.complete if chunk not in problems]
    chosen = sorted(np.random.default_rng().permutation(good)[:resimulate].tolist()) if request else []
    for chunk in chosen:
        if request is not None and (found := checker.differences(chunk, _simulated(request, chunk))):
            problems[chunk] = (*found, *request.changes)
    return Verification(place.name, record.n_chunks, len(checker.complete), tuple(chosen), problems)


def _simulated(request: StoredRequest, chunk: int) -> Mapping[str, npt.NDArray[Any]]:
    """Return the variables of a chunk, simulated again."""
    pipeline, plan = request.pipeline, request.plan
    conditions = in_memory(pipeline.condition_rows(chunk, plan))
    return simulate_chunk(pipeline, plan, chunk, conditions, request.policy).variables


def bad_chunks(
    problems_of: Callable[[int], list[str]], record: Record, chunks: list[int], progress: bool | None
) -> dict[int, tuple[str, ...]]:
    """Return what is wrong with complete chunks, by chunk."""
    problems = {}
    with Progress(sum(map(record.n_rows, chunks)), 0, progress) as bar:
        for chunk in chunks:
            if found := problems_of(chunk):
                problems[chunk] = tuple(found)
            bar.advance(chunk, record.n_rows(chunk), 0, 0)
    return problems

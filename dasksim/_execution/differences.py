"""How samples that were simulated again differ, and what the usual causes are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from dasksim._core.arrays import shown
from dasksim._core.failures import VALID
from dasksim._core.plan import Plan
from dasksim._engine.compiled import CompiledStage
from dasksim._engine.pipeline import Pipeline
from dasksim._execution.again import Unit

__all__ = ["THREADS", "Difference"]

_EACH_CALL = (
    "Each call gives other values: something draws from a source that no seed reaches, such as the clock, os.urandom, "
    "uuid, secrets, default_rng() within a function, or the generator of a library that dasksim does not know. Take "
    "`rng` as an argument and draw from that, or seed the source from an argument `seed` (`seed32` where 32 bits are "
    "taken); dasksim.random.register tells of a library's generator."
)
_STATE = (
    "A sample depends on those that were simulated before it: a function, or a library that it calls, keeps something "
    "from call to call, such as a counter, a cache, an object that it changes, or a generator that dasksim does not "
    "know. Make it anew in each call, or tell of a library's generator with dasksim.random.register."
)  #: What it is where threads get into each other's way.
THREADS = (
    "Simulated alone it gives the same values each time: threads get into each other's way. A library that is not "
    "thread-safe, or objects that functions share, want scheduler='processes'."
)
_PROCESS = (
    "Here it gives the same values each time, so they depend on the process: on the order of a set of strings or on "
    "hash(), which differ between processes (sort the set), on a process's number, time of start, environment or "
    "folder, or on what a library has set up or kept there. Compute it from arguments and constants alone."
)
_LAST_BITS = (
    "Here it gives the same values each time, and they differ in their last digits only: sums were added up in another "
    "order, as by a set or by a library with another number of threads (set OMP_NUM_THREADS=1), or by another "
    "processor. See the page on reproducibility; audit='warn' goes on."
)

_COMPILED = (
    "The plain function gives other values than when Numba compiles it, which the probe did not meet. NumPy and Numba "
    "round some functions differently: take those of math (math.exp for np.exp) for single numbers, and loops for sums "
    "and products of arrays. Or leave compile= out."
)

# How much numbers may differ of which only the last digits do.
_FEW_DIGITS = 1e-6


@dataclass(frozen=True)
class Difference:
    """A sample that came out otherwise.

    Parameters
    ----------
    sample
        Its number.
    stage
        The stage that made what differs.
    lines
        What each variable was, and is.
    where
        Where it was simulated again.
    cause
        The usual causes of such a difference.
    """

    sample: int
    stage: str
    lines: tuple[str, ...]
    where: str
    cause: str

    @classmethod
    def of(
        cls,
        pipeline: Pipeline,
        plan: Plan,
        unit: int,
        before: Mapping[str, Sequence[int]],
        runs: Sequence[Unit | Exception],
        made_by: str,
        stored: Callable[[int], Mapping[str, Any]],
        *,
        in_threads: bool,
    ) -> Self:
        """Return how a part differs from what it was.

        Parameters
        ----------
        pipeline, plan
            What is simulated; the plan's chunks are the parts.
        unit
            The part.
        before
            CRC32C of its rows, by variable, when its chunk was made.
        runs
            What it is now, when it is simulated once more, and after another one.
        made_by
            The process that made it.
        stored
            Returns a sample as it was then, by variable, as far as that is known.
        in_threads
            Whether it was made beside others.
        """
        now, again, after = runs
        by = {run.made_by for run in runs if isinstance(run, Unit)}
        is_elsewhere = bool(by) and made_by not in by
        if not _same(now, again):
            cause = _EACH_CALL
        elif not _same(now, after):
            cause = _STATE
        elif is_elsewhere:
            cause = _PROCESS
        else:
            cause = THREADS if in_threads else _STATE
        where = ("alone" if plan.chunk_size == 1 else "in another order") + ", in another process" * is_elsewhere
        first = plan.samples(unit).start
        if isinstance(now, Exception):
            return cls.raised(first, now, where, cause)
        row, names = _first_different(before, now.digests)
        # of many rows some have one digest: the first that differs among them is looked for
        size = -(-plan.n_rows(unit) // len(next(iter(before.values()))))
        row = _first_of(range(row * size, min((row + 1) * size, plan.n_rows(unit))), names, first, stored, now)
        if VALID in names:
            lines = ["failed when it was made, and not now" if _is_valid(now, row) else "has failed now"]
            return cls(first + row, "", tuple(lines), where, cause)
        sources = {name: pipeline.sources.get(name) for name in names}
        source = min(-1 if s is None else s for s in sources.values())
        own = [name for name, s in sources.items() if (-1 if s is None else s) == source]
        then = stored(first + row)
        if cause == _PROCESS and all(_is_near(then.get(name), now.values.get(name), row) for name in own):
            cause = _LAST_BITS
        stage = None if source < 0 else pipeline.steps[source].stage
        if isinstance(stage, CompiledStage) and cause != _EACH_CALL:
            cause = _COMPILED
        lines = [_line(name, then, now, again, row) for name in own]
        return cls(first + row, "" if stage is None else stage.name, tuple(lines), where, cause)

    @classmethod
    def raised(cls, sample: int, error: Exception, where: str, cause: str) -> Self:
        """Return that a sample has raised an exception now."""
        text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        stage = next((note.split("'")[1] for note in getattr(error, "__notes__", ()) if "stage '" in note), "")
        return cls(sample, stage, (f"raised {text}",), where, cause)

    def __str__(self) -> str:
        who = f"stage {self.stage!r}: " if self.stage else ""
        return f"sample {self.sample}, {who}{'; '.join(self.lines)}"

    def explained(self) -> str:
        """Return what differs, the causes, and what to do."""
        who = f"stage {self.stage!r}: " if self.stage else ""
        lines = [f"sample {self.sample} came out otherwise when it was simulated again, {self.where}"]
        lines += [f"  {who}{line}" for line in self.lines]
        return "\n".join([*lines, self.cause])


def _same(one: Unit | Exception, other: Unit | Exception) -> bool:
    if isinstance(one, Unit) and isinstance(other, Unit):
        return one.digests == other.digests
    return type(one) is type(other) and str(one) == str(other)


def _first_different(before: Mapping[str, Sequence[int]], now: Mapping[str, Sequence[int]]) -> tuple[int, list[str]]:
    """Return the first row that differs, and in which variables."""
    different = {
        name: [i for i, pair in enumerate(zip(rows, now[name], strict=True)) if pair[0] != pair[1]]
        for name, rows in before.items()
    }
    row = min(rows[0] for rows in different.values() if rows)
    return row, [name for name, rows in different.items() if row in rows]


def _first_of(
    rows: range, names: Sequence[str], first: int, stored: Callable[[int], Mapping[str, Any]], now: Unit
) -> int:
    """Return the first of some rows that differs from what is stored, or the first of all where nobody knows."""
    for row in rows if len(rows) > 1 else ():
        then = stored(first + row)
        if any(n in then and n in now.values and then[n].tobytes() != now.values[n][row].tobytes() for n in names):
            return row
    return rows[0]


def _is_near(then: Any, now: Any, row: int) -> bool:
    """Whether floating-point values differ in their last digits only."""
    if then is None or now is None or np.asarray(then).dtype.kind not in "fc":
        return False
    return bool(np.allclose(then, now[row], rtol=_FEW_DIGITS, atol=0.0, equal_nan=True))


def _is_valid(now: Unit, row: int) -> bool:
    return VALID in now.values and bool(now.values[VALID][row])


def _line(name: str, stored: Mapping[str, Any], now: Unit, again: Unit | Exception, row: int) -> str:
    told = [f"{shown(stored[name])} when it was made"] if name in stored else []
    if name in now.values:
        told.append(f"{shown(now.values[name][row])} now")
    if isinstance(again, Unit) and name in again.values and name in now.values:
        once_more = again.values[name][row]
        if once_more.tobytes() != now.values[name][row].tobytes():
            told.append(f"{shown(once_more)} once more")
    return f"{name} = {', '.join(told)}" if told else f"{name} differs"

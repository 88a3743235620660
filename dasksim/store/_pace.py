"""How fast the chunks of a store have come lately, from when the objects that hold their receipts were written."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dasksim._core.durations import duration

__all__ = ["Pace", "pace_of"]

# Chunks that are looked at, at least; and for how many times as long as one takes, since workers may finish together.
_FEWEST_CHUNKS, _ROUNDS = 32, 3

# A time without work, longer than so many chunks take and than so many seconds, was between two runs.
_PAUSE_CHUNKS, _PAUSE_SECONDS = 3, 10.0

# Seconds without a chunk after which nothing seems to write any more, at least: clocks of machines differ.
_LATE_SECONDS = 60.0


@dataclass(frozen=True)
class Pace:
    """How fast chunks have come lately.

    Parameters
    ----------
    age
        Seconds since the last chunk was complete.
    interval
        Seconds between two chunks.
    samples_per_second
        Samples a second, of all that write together.
    seconds_left
        Seconds that the missing samples take at this pace.
    is_late
        Whether the last chunk is so old that nothing seems to write the store.
    """

    age: float
    interval: float
    samples_per_second: float
    seconds_left: float
    is_late: bool

    def __str__(self) -> str:
        rate = f"{self.samples_per_second:,.{0 if self.samples_per_second >= 10 else 2}f} samples/s"
        if not self.is_late:
            return f"{rate}; last chunk {duration(self.age)} ago, {duration(self.seconds_left)} left"
        each = f"one every {duration(self.interval)}" if self.interval >= 1 else f"{1 / self.interval:,.0f} a second"
        return f"no chunk for {duration(self.age)}, where a run made {each} ({rate}); none seems to write now"


def pace_of(
    written: npt.NDArray[np.float64],
    seconds: npt.NDArray[np.float64],
    n_rows: npt.NDArray[np.int64],
    n_missing: int,
    now: float,
) -> Pace | None:
    """Return how fast chunks have come in the last run, or None if nothing tells.

    Parameters
    ----------
    written
        When each chunk was complete, in seconds.
    seconds, n_rows
        How long each took its worker, and how many samples it has.
    n_missing
        How many samples are missing.
    now
        The present time, in seconds.
    """
    is_known = np.isfinite(written)
    written, seconds, n_rows = written[is_known], seconds[is_known], n_rows[is_known]
    if not len(written):
        return None
    order = np.argsort(written, kind="stable")
    written, seconds, n_rows = written[order], seconds[order], n_rows[order]
    begun = written - seconds
    # nobody has worked between the end of one chunk and the beginning of all later ones
    idle = np.minimum.accumulate(begun[::-1])[::-1][1:] - written[:-1]
    pauses = np.flatnonzero(idle > np.maximum(_PAUSE_CHUNKS * seconds[1:], _PAUSE_SECONDS))
    run = slice(pauses[-1] + 1 if len(pauses) else 0, None)
    written, seconds, n_rows, begun = written[run], seconds[run], n_rows[run], begun[run]
    since = min(written[-_FEWEST_CHUNKS:][0], written[-1] - _ROUNDS * seconds[-_FEWEST_CHUNKS:].max())
    lately = written >= since
    span = float(written[-1] - begun[lately].min())
    if span <= 0:
        return None
    interval, rate = span / int(lately.sum()), float(n_rows[lately].sum()) / span
    age = max(now - float(written[-1]), 0.0)  # the clock of a file server may be ahead
    slowest = float(seconds[lately].max())
    is_late = age > max(_PAUSE_CHUNKS * (slowest + interval), _LATE_SECONDS)
    return Pace(age, interval, rate, n_missing / rate, is_late)

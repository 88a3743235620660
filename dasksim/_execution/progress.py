"""A progress bar over samples."""

import sys
import threading
import time
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

__all__ = ["Progress", "is_shown"]

# Between two lines of progress where there is no terminal.
_LINE_SECONDS = 30.0


def is_shown(asked: bool | None) -> bool:
    """Whether to show progress: as asked or, by default, where standard error is a terminal or a notebook."""
    return (sys.stderr.isatty() or "ipykernel" in sys.modules) if asked is None else asked


class _Lines:
    """Writes a line every half minute, for logs, in which a bar would be one line without an end."""

    _FORMAT = "{n_fmt} of {total_fmt} samples ({percentage:.0f}%), {rate_fmt}, {remaining} left{postfix}"

    def __init__(self, total: int, initial: int) -> None:
        self._total, self._initial, self.n = total, initial, initial
        self._postfix = ""
        self._start = self._written = time.monotonic()

    def update(self, n: int) -> None:
        """Count samples."""
        self.n += n
        if time.monotonic() - self._written >= _LINE_SECONDS:
            self._write()

    def _write(self) -> None:
        now = self._written = time.monotonic()
        line = tqdm.format_meter(
            self.n,
            self._total,
            now - self._start,
            unit=" samples",
            unit_scale=True,
            bar_format=self._FORMAT,
            postfix=self._postfix,
            initial=self._initial,
        )
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    def set_postfix(self, *, accepted: str, refresh: bool) -> None:
        """Say which part of the proposals is accepted."""
        self._postfix = f"accepted={accepted}"

    def close(self) -> None:
        """Write the last line, if there was any progress."""
        if self.n > self._initial:
            self._write()


class Progress:
    """Shows samples done, samples a second and the time left.

    Parameters
    ----------
    n_samples
        Samples in the whole dataset.
    n_done
        Samples that were there before.
    shown
        Whether to show it; see :func:`is_shown`.
    """

    def __init__(self, n_samples: int, n_done: int, shown: bool | None) -> None:
        self._n_proposals = self._n_accepted = 0
        # samples that are done of chunks that are not, and may be lost with a worker
        self._begun: dict[int, int] = {}
        self._complete: set[int] = set()
        self._lock = threading.Lock()
        is_line_by_line = bool(shown) and not is_shown(None)
        self._bar: Any = (
            _Lines(n_samples, n_done)
            if is_line_by_line
            else tqdm(total=n_samples, initial=n_done, unit=" samples", unit_scale=True, disable=not is_shown(shown))
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def tell(self, chunk: int, n_done: int) -> None:
        """Count samples of a chunk that is under way; from any thread, and late if need be."""
        with self._lock:
            if chunk not in self._complete:
                self._bar.update(n_done - self._begun.get(chunk, 0))
                self._begun[chunk] = n_done

    def advance(self, chunk: int, n_samples: int, n_proposals: int, n_accepted: int) -> None:
        """Count a chunk as complete, and show which part of the proposals is accepted, if not all are."""
        with self._lock:
            self._n_proposals += n_proposals
            self._n_accepted += n_accepted
            if self._n_accepted != self._n_proposals:
                self._bar.set_postfix(accepted=f"{self._n_accepted / self._n_proposals:.3g}", refresh=False)
            self._complete.add(chunk)
            self._bar.update(n_samples - self._begun.pop(chunk, 0))

"""A progress bar over samples."""

import sys
import threading
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

__all__ = ["Progress", "is_shown"]

# Between two lines of progress where there is no terminal, and between two states of the line in a notebook.
_LINE_SECONDS = 30.0
_NOTEBOOK_SECONDS = 0.2

_COLUMNS = 100


def is_shown(asked: bool | None) -> bool:
    """Whether to show progress: as asked or, by default, where standard error is a terminal or a notebook."""
    return (sys.stderr.isatty() or _is_notebook()) if asked is None else asked


def _is_notebook() -> bool:
    # in a terminal IPython has no kernel, and who has not imported it is in neither
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class _Lines:
    """Writes a line every half minute, for logs, in which a bar would be one line without an end."""

    _FORMAT: str | None = "{n_fmt} of {total_fmt} samples ({percentage:.0f}%), {rate_fmt}, {remaining} left{postfix}"

    def __init__(self, total: int, initial: int) -> None:
        self._total, self._initial, self.n = total, initial, initial
        self._postfix = ""
        self._start = self._written = time.monotonic()

    def _seconds(self) -> float:
        return _LINE_SECONDS

    def update(self, n: int) -> None:
        """Count samples."""
        self.n += n
        if time.monotonic() - self._written >= self._seconds():
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        print(self._line(), file=sys.stderr, flush=True)  # noqa: T201

    def _line(self) -> str:
        line: str = tqdm.format_meter(
            self.n,
            self._total,
            time.monotonic() - self._start,
            unit=" samples",
            unit_scale=True,
            bar_format=self._FORMAT,
            postfix=self._postfix,
            initial=self._initial,
            ncols=_COLUMNS,
        )
        return line

    def set_postfix(self, *, accepted: str, refresh: bool) -> None:
        """Say which part of the proposals is accepted."""
        self._postfix = f"accepted={accepted}"

    def close(self) -> None:
        """Write the last line, if there was any progress."""
        if self.n > self._initial:
            self._write()


class _Displayed(_Lines):
    """Displays one line in a notebook and changes it, which needs no widgets and leaves one line in the file."""

    _FORMAT = None  # tqdm's bar

    def __init__(self, total: int, initial: int) -> None:
        from IPython.display import display  # whose notebook this is

        super().__init__(total, initial)
        self._display: Any = display(self._content(), raw=True, display_id=True)

    def _content(self) -> dict[str, str]:
        return {"text/plain": self._line()}

    def _seconds(self) -> float:
        return _NOTEBOOK_SECONDS

    def _write(self) -> None:
        self._written = time.monotonic()
        self._display.update(self._content(), raw=True)


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
        is_wanted = is_shown(shown)
        if is_wanted and _is_notebook():
            self._bar: Any = _Displayed(n_samples, n_done)
        elif is_wanted and not sys.stderr.isatty():
            self._bar = _Lines(n_samples, n_done)
        else:
            self._bar = tqdm(total=n_samples, initial=n_done, unit=" samples", unit_scale=True, disable=not is_wanted)

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

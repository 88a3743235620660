"""A progress bar over samples."""

import sys
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

__all__ = ["Progress"]


class Progress:
    """Shows samples done, samples a second and the time left.

    Parameters
    ----------
    n_samples
        Samples in the whole dataset.
    n_done
        Samples that were there before.
    is_shown
        Whether to show it; by default where standard error is a terminal or a notebook.
    """

    def __init__(self, n_samples: int, n_done: int, is_shown: bool | None) -> None:
        self._n_proposals = self._n_accepted = 0
        self._bar: Any = tqdm(
            total=n_samples,
            initial=n_done,
            unit=" samples",
            unit_scale=True,
            disable=not (_is_interactive() if is_shown is None else is_shown),
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, n_samples: int, n_proposals: int, n_accepted: int) -> None:
        """Count samples as done, and show which part of the proposals is accepted, if not all are."""
        self._n_proposals += n_proposals
        self._n_accepted += n_accepted
        if self._n_accepted != self._n_proposals:
            self._bar.set_postfix(accepted=f"{self._n_accepted / self._n_proposals:.3g}", refresh=False)
        self._bar.update(n_samples)


def _is_interactive() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules

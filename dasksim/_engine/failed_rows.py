"""Which rows of a sub-batch have failed, and whether that ends all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.failures import Failure, Policy
from dasksim.errors import DasksimError

__all__ = ["FailedRows"]

Array = npt.NDArray[Any]

_MESSAGE_LENGTH = 200


@dataclass
class _Notes:
    """What all views of the same rows note in common; where nothing fails no array is made.

    Parameters
    ----------
    n
        How many rows there are.
    raised_at
        The sample whose failure ends all, or would.
    is_optional
        Whether that ends all by the policy alone: another one would go on without the sample.
    found
        What has failed.
    rows
        Which rows each of these tells of, as often as it counts them.
    stages
        The stages in which masked rows failed.
    """

    n: int
    raised_at: int
    is_optional: bool = False
    found: list[Failure] = field(default_factory=list)
    rows: list[Array] = field(default_factory=list)
    stages: dict[int, str] = field(default_factory=dict)

    @cached_property
    def masked(self) -> Array:
        return np.zeros(self.n, bool)

    @cached_property
    def redrawn(self) -> Array:
        return np.zeros(self.n, bool)

    def mark(self) -> Callable[[], None]:
        """Return a function that forgets what is noted after this."""
        n_found, masked, redrawn = len(self.found), self.masked.copy(), self.redrawn.copy()
        stages = self.stages.copy()

        def forget() -> None:
            self.masked[:], self.redrawn[:] = masked, redrawn
            self.stages = stages.copy()
            del self.found[n_found:], self.rows[n_found:]

        return forget


class FailedRows:
    """Which rows of a sub-batch, or of an attempt at some of them, have failed.

    Stages see them through views, since the rows of a stage need not be those of the sub-batch: they may be some of
    these, or several of one, as the cells of a plate are. All views note in common, so that a row fails whichever of
    its cells does.

    Parameters
    ----------
    policy
        What to do with them.
    samples
        Numbers of the samples that the rows are: an array, or a range.
    stop
        Number of samples of the dataset; failures of rows beyond are not counted.
    strict_at
        The one sample that is replayed: unless it is drawn again its failure ends all, while others' do not.

    Attributes
    ----------
    are_samples
        Whether rows are samples, not proposals.
    """

    def __init__(self, policy: Policy, samples: Array | range, stop: int, strict_at: int | None = None) -> None:
        self.policy = policy
        self._given = samples
        self.stop = stop
        self.strict_at = strict_at
        self.are_samples = True
        self._outer: FailedRows | None = None  # of proposals, the rows that they are for
        self._notes = _Notes(len(samples), int(samples[0]))

    @cached_property
    def samples(self) -> Array:
        """Numbers of the samples that the rows are."""
        return np.asarray(self._given)

    @cached_property
    def _index(self) -> Array:
        """Which of the rows that notes are of each row of this view is."""
        return np.arange(len(self._given))

    @property
    def is_lenient(self) -> bool:
        """Whether rows may fail without ending all."""
        return self.policy.masks or self.policy.redraws or self.strict_at is not None

    @property
    def found(self) -> list[Failure]:
        """What has failed."""
        return self._notes.found

    @property
    def raised_at(self) -> int:
        """The sample whose failure ends all."""
        return self._notes.raised_at

    @property
    def is_optional(self) -> bool:
        """Whether that ends all by the policy alone: another one would go on without the sample."""
        return self._notes.is_optional

    def end_at(self, sample: int, *, is_optional: bool = False) -> None:
        """Note the sample whose failure ends all, or would."""
        self._notes.raised_at, self._notes.is_optional = sample, is_optional
        if self._outer is not None:
            self._outer.end_at(sample, is_optional=is_optional)

    @property
    def masked(self) -> Array:
        """Which rows are to be masked."""
        return self._notes.masked[self._index]

    @property
    def redrawn(self) -> Array:
        """Which rows are to be drawn again."""
        return self._notes.redrawn[self._index] & ~self.masked

    @property
    def failed(self) -> Array:
        """Which rows have failed."""
        return (self._notes.masked | self._notes.redrawn)[self._index]

    @property
    def stages(self) -> Mapping[int, str]:
        """The stages in which the rows that are to be masked have failed; without a name if they took too long."""
        return self._notes.stages

    # Views

    def within(self, rows: Array) -> "FailedRows":
        """Return the view of rows made of these, any number of one."""
        view = FailedRows(self.policy, self.samples[rows], self.stop, self.strict_at)
        view._index, view._notes, view.are_samples = self._index[rows], self._notes, self.are_samples
        view._outer = self._outer
        return view

    def of_proposals(self, rows: Array) -> "FailedRows":
        """Return what notes the failures of proposals for some rows, which do not fail the rows themselves."""
        apart = FailedRows(self.policy, self.samples[rows], self.stop)
        apart.are_samples, apart._outer = False, self
        return apart

    def add_proposals(self, proposed: "FailedRows", rows: Array, is_counted: Array) -> None:
        """Count the failures of proposals for some rows, but of those that were proposed in vain."""
        for failure, failed in zip(proposed._notes.found, proposed._notes.rows):
            self._note(failure.stage, failure.kind, failure.message, rows[failed[is_counted[failed]]])

    # What fails

    def raised(self, rows: Any, stage: str, error: BaseException) -> bool:
        """Take note of an exception at some rows; return whether to go on.

        An error that dasksim raises, or a GPU, is never one sample's.
        """
        rows = np.atleast_1d(rows)
        is_shared = isinstance(error, DasksimError) or type(error).__module__.partition(".")[0] == "cupy"
        # asked whatever the error, since it notes at which sample
        if self._ends(self.policy.on_error, rows, is_optional=not is_shared) or is_shared:
            return False
        self._add(self.policy.on_error, rows, stage, type(error).__name__, str(error))
        return True

    def nonfinite(self, rows: Array, stage: str, variable: str) -> bool:
        """Take note of rows that are not finite; return whether to go on."""
        if self._ends(self.policy.on_nonfinite, rows):
            return False
        self._add(self.policy.on_nonfinite, rows, stage, "non-finite", f"variable {variable!r}")
        return True

    def mark(self) -> Callable[[], None]:
        """Return a function that forgets what has failed since."""
        return self._notes.mark() if self.is_lenient else lambda: None

    def _ends(self, action: str, rows: Array, *, is_optional: bool = False) -> bool:
        """Whether a failure of some rows ends all; note at which sample."""
        samples = self.samples[rows]
        if self.strict_at is None:
            self.end_at(int(samples[0]), is_optional=is_optional and action == "raise")
            return action == "raise"
        is_replayed = action != "redraw" and self.strict_at in samples
        self.end_at(self.strict_at if is_replayed else int(samples[0]))
        return is_replayed

    def _add(self, action: str, rows: Array, stage: str, kind: str, message: str) -> None:
        """Note rows that have not failed yet: what fails first is what is told of a sample."""
        new = rows[~self.failed[rows]]
        (self._notes.redrawn if action == "redraw" else self._notes.masked)[self._index[new]] = True
        if action != "redraw":
            self._notes.stages |= dict.fromkeys(self._index[new].tolist(), stage)
        text = message if len(message) <= _MESSAGE_LENGTH else message[: _MESSAGE_LENGTH - 3] + "..."
        self._note(stage, kind, text, new)

    def _note(self, stage: str, kind: str, message: str, rows: Array) -> None:
        """Count a failure of some rows; those beyond the end, which batched stages need, are no samples."""
        counted = rows[self.samples[rows] < self.stop]
        if len(counted):
            self._notes.found.append(Failure(stage, kind, message, len(counted), int(self.samples[counted].min())))
            self._notes.rows.append(self._index[counted])

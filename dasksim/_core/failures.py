"""What becomes of samples that fail: raise, mask, or draw again; and the count of what failed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim.errors import ArgumentError, DasksimError

__all__ = ["MOST_ATTEMPTS", "VALID", "Failure", "Failures", "Policy", "masked_value", "summed"]

Array = npt.NDArray[Any]

#: The variable that says whether a sample is valid, or masked.
VALID = "valid"

#: Attempts at a sample, the first one included.
MOST_ATTEMPTS = 100

_MESSAGE_LENGTH = 200

# Kinds of failure, by stage, type and message, that are told apart in one summary; the rest are counted together.
_MOST_KINDS = 10
_OTHERS = "of other types or with other messages"


@dataclass(frozen=True)
class Policy:
    """What to do with a sample for which a stage fails.

    Parameters
    ----------
    on_error
        If a function raises an exception: ``"raise"``, ``"mask"`` or ``"redraw"``.
    on_nonfinite
        If it returns NaN or an infinite value: the same, or ``"keep"``.
    """

    on_error: str = "raise"
    on_nonfinite: str = "keep"

    @classmethod
    def checked(cls, on_error: object, on_nonfinite: object) -> "Policy":
        """Return a policy.

        Raises
        ------
        ArgumentError
            If there is none of that name.
        """
        for name, value, known in (
            ("on_error", on_error, ("raise", "mask", "redraw")),
            ("on_nonfinite", on_nonfinite, ("keep", "raise", "mask", "redraw")),
        ):
            if value not in known:
                raise ArgumentError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}")
        return cls(str(on_error), str(on_nonfinite))

    @property
    def masks(self) -> bool:
        """Whether samples may be masked."""
        return "mask" in (self.on_error, self.on_nonfinite)

    @property
    def mask(self) -> str | None:
        """Name of the variable that says which samples are valid, if some may be masked."""
        return VALID if self.masks else None

    @property
    def redraws(self) -> bool:
        """Whether samples may be drawn again."""
        return "redraw" in (self.on_error, self.on_nonfinite)

    @property
    def most_probes(self) -> int:
        """How often to probe where a function raises an exception: one that is not finite may lead to it too."""
        return MOST_ATTEMPTS if self.masks or self.redraws else 1


def masked_value(dtype: np.dtype[Any]) -> float:
    """Return what stands in a dataset for the values of a masked sample."""
    return np.nan if dtype.kind in "fc" else 0


@dataclass(frozen=True)
class Failure:
    """How often, and at which sample first, a stage failed in the same way.

    Parameters
    ----------
    stage
        Name of the stage; empty where a sub-batch took too long.
    kind
        Name of the exception's class, or ``"non-finite"``.
    message
        The exception's message, its beginning only; or the variable that was not finite.
    count
        How many times.
    sample
        The first sample concerned.
    """

    stage: str
    kind: str
    message: str
    count: int
    sample: int

    def __str__(self) -> str:
        where = f"stage {self.stage!r}, " if self.stage else ""
        what = f"{self.kind}: {self.message}" if self.message else self.kind
        return f"{self.count:,} x {' '.join(what.split())} ({where}first at sample {self.sample:,})"


def summed(failures: Iterable[Failure]) -> tuple[Failure, ...]:
    """Return failures with those of the same stage, type and message in one, the most frequent first."""
    kinds = _by_kind(failures)
    others = [replace(f, kind="others", message=_OTHERS) for f in kinds[_MOST_KINDS:]]
    return tuple(_by_kind([*kinds[:_MOST_KINDS], *others]))


def _by_kind(failures: Iterable[Failure]) -> list[Failure]:
    found: dict[tuple[str, str, str], Failure] = {}
    for new in failures:
        key = (new.stage, new.kind, new.message)
        old = found.get(key, replace(new, count=0))
        found[key] = replace(old, count=old.count + new.count, sample=min(old.sample, new.sample))
    return sorted(found.values(), key=lambda f: (f.message == _OTHERS, -f.count, f.sample, f.stage))


@dataclass
class _Rows:
    """What all views of the same rows have in common; where nothing fails no array is made."""

    n: int
    raised_at: int
    found: list[Failure] = field(default_factory=list)

    @cached_property
    def masked(self) -> Array:
        return np.zeros(self.n, bool)

    @cached_property
    def redrawn(self) -> Array:
        return np.zeros(self.n, bool)


class Failures:
    """Which rows of a sub-batch, or of an attempt at some of them, have failed.

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
        self._rows = _Rows(len(samples), int(samples[0]))

    @cached_property
    def samples(self) -> Array:
        """Numbers of the samples that the rows are."""
        return np.asarray(self._given)

    @cached_property
    def _index(self) -> Array:
        return np.arange(len(self._given))

    @property
    def is_lenient(self) -> bool:
        """Whether rows may fail without ending all."""
        return self.policy.masks or self.policy.redraws or self.strict_at is not None

    @property
    def found(self) -> list[Failure]:
        """What has failed."""
        return self._rows.found

    @property
    def raised_at(self) -> int:
        """The sample whose failure ends all."""
        return self._rows.raised_at

    @raised_at.setter
    def raised_at(self, sample: int) -> None:
        self._rows.raised_at = sample

    @property
    def masked(self) -> Array:
        """Which rows are to be masked."""
        return self._rows.masked[self._index]

    @property
    def redrawn(self) -> Array:
        """Which rows are to be drawn again."""
        return self._rows.redrawn[self._index] & ~self.masked

    @property
    def failed(self) -> Array:
        """Which rows have failed."""
        return (self._rows.masked | self._rows.redrawn)[self._index]

    def within(self, rows: Array) -> "Failures":
        """Return the failures as seen by rows made of these, any number of one: whichever fails, the row fails."""
        view = Failures(self.policy, self.samples[rows], self.stop, self.strict_at)
        view._index, view._rows, view.are_samples = self._index[rows], self._rows, self.are_samples
        return view

    def of_proposals(self, n_proposals: int) -> "Failures":
        """Return failures of proposals, which do not fail the samples that they are made for."""
        apart = Failures(self.policy, np.full(n_proposals, self.samples[0]), self.stop)
        apart._rows.found, apart.are_samples = self.found, False
        return apart

    def raised(self, rows: Any, stage: str, error: BaseException) -> bool:
        """Take note of an exception at some rows; return whether to go on.

        An error that dasksim raises, or a GPU, is never one sample's.
        """
        rows = np.atleast_1d(rows)
        is_shared = isinstance(error, DasksimError) or type(error).__module__.partition(".")[0] == "cupy"
        if self._ends(self.policy.on_error, rows) or is_shared:
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
        if not self.is_lenient:
            return lambda: None
        rows, n_found = self._rows, len(self.found)
        masked, redrawn = rows.masked.copy(), rows.redrawn.copy()

        def forget() -> None:
            rows.masked[:], rows.redrawn[:] = masked, redrawn
            del rows.found[n_found:]

        return forget

    def _ends(self, action: str, rows: Array) -> bool:
        samples = self.samples[rows]
        if self.strict_at is None:
            self.raised_at = int(samples[0])
            return action == "raise"
        is_replayed = action != "redraw" and self.strict_at in samples
        self.raised_at = self.strict_at if is_replayed else int(samples[0])
        return is_replayed

    def _add(self, action: str, rows: Array, stage: str, kind: str, message: str) -> None:
        new = rows[~self.failed[rows]]
        (self._rows.redrawn if action == "redraw" else self._rows.masked)[self._index[new]] = True
        counted = self.samples[new][self.samples[new] < self.stop]
        if len(counted):
            text = message if len(message) <= _MESSAGE_LENGTH else message[: _MESSAGE_LENGTH - 3] + "..."
            self.found.append(Failure(stage, kind, text, len(counted), int(counted[0])))

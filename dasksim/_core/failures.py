"""What becomes of samples that fail: raise, mask, or draw again; and the count of what failed."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dasksim.errors import ArgumentError

__all__ = ["MOST_ATTEMPTS", "VALID", "Failure", "Policy", "masked_value", "summed"]

#: The variable that says whether a sample is valid, or masked.
VALID = "valid"

#: Attempts at a sample, the first one included.
MOST_ATTEMPTS = 100

# Kinds of failure, by stage, type and message, that are told apart in one summary; the rest are counted together.
_MOST_KINDS = 10
_OTHERS = "of other types or with other messages"

# Numbers of a message, which differ from sample to sample; those within names stay.
_NUMBERS = re.compile(r"(?<![\w.])[-+]?(?:0x[0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf)(?!\w)")


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
    """Return failures with those of the same stage, type and message in one, the most frequent first.

    Messages that differ in numbers alone count as the same, and are told without the numbers.
    """
    kinds = _by_kind(failures)
    others = [replace(f, kind="others", message=_OTHERS) for f in kinds[_MOST_KINDS:]]
    return tuple(_by_kind([*kinds[:_MOST_KINDS], *others]))


def _by_kind(failures: Iterable[Failure]) -> list[Failure]:
    found: dict[tuple[str, str, str], Failure] = {}
    for new in failures:
        alike = _NUMBERS.sub("#", new.message)
        key = (new.stage, new.kind, alike)
        old = found.get(key, replace(new, count=0))
        message = old.message if old.message == new.message else alike
        found[key] = replace(old, message=message, count=old.count + new.count, sample=min(old.sample, new.sample))
    # the rest come last however many they are, or they would be told as the most frequent kind
    return sorted(found.values(), key=lambda f: (f.message == _OTHERS, -f.count, f.sample, f.stage))

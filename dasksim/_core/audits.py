"""What was found when samples of a store were simulated again."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

__all__ = ["AuditOutcome"]


@dataclass(frozen=True)
class AuditOutcome:
    """What was found when samples of a store were simulated again.

    Parameters
    ----------
    n_samples
        Samples that were simulated again.
    n_chunks
        Chunks that they were of.
    elsewhere
        Whether all were simulated again in another process than made them.
    found
        What differed, a text for each sample, stream or chunk.
    """

    n_samples: int
    n_chunks: int
    elsewhere: bool = False
    found: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether nothing differed."""
        return not self.found

    @classmethod
    def summed(cls, outcomes: Iterable[Self]) -> Self | None:
        """Return what was found of several runs, or None if none was audited."""
        outcomes = list(outcomes)
        if not outcomes:
            return None
        return cls(
            sum(outcome.n_samples for outcome in outcomes),
            sum(outcome.n_chunks for outcome in outcomes),
            all(outcome.elsewhere for outcome in outcomes),
            tuple(text for outcome in outcomes for text in outcome.found),
        )

    @property
    def document(self) -> dict[str, Any]:
        """What a store keeps of it."""
        return {**asdict(self), "found": list(self.found)}

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self | None:
        """Return what a store has kept; None where it says something else."""
        try:
            n_samples, n_chunks = int(document["n_samples"]), int(document["n_chunks"])
            return cls(n_samples, n_chunks, bool(document.get("elsewhere")), tuple(map(str, document["found"])))
        except (KeyError, TypeError, ValueError):
            return None

    def __str__(self) -> str:
        samples = f"{self.n_samples:,} sample{'s' * (self.n_samples != 1)}"
        chunks = f"{self.n_chunks:,} chunk{'s' * (self.n_chunks != 1)}"
        where = "in another process" if self.elsewhere else "in the process that made them"
        again = f"{samples} of {chunks} simulated again {where}"
        return f"{again}: the same bits" if self.is_good else f"{again}: NOT REPRODUCIBLE"

"""How many to propose next, and when to give up."""

from typing import NoReturn

import numpy as np

from dasksim._core.failures import summed
from dasksim._engine.stage import SubBatch
from dasksim.errors import SimulatorError

__all__ = ["PARTS", "Tally"]

# Attempts in a row that may accept nothing before a sub-batch is given up.
_EMPTY_ATTEMPTS = 100

#: Rows of a batched attempt are at most this part of a sub-batch, so that a short last one, which stops early, wastes
#: less.
PARTS = 4


class Tally:
    """Counts proposals and acceptances in one sub-batch, and says how many to propose next."""

    def __init__(self, name: str, max_proposals: int | None, batch: SubBatch) -> None:
        self.name = name
        self.max_proposals = max_proposals
        self.sub_batch = batch.address.sub_batch
        self.failures = batch.failures
        self.n_attempts = self.n_proposals = self.n_accepted = self.n_empty = 0

    @property
    def counts(self) -> dict[str, int]:
        """Proposals made and accepted."""
        return {"proposals": self.n_proposals, "accepted": self.n_accepted}

    def next_size(self, full: int, largest: int) -> int:
        """Return how many to propose: what is missing at the acceptance so far, and a standard deviation more."""
        largest = max(full // PARTS, largest, 1)
        if not self.n_attempts:
            return min(full, largest)
        if not self.n_accepted:
            # no more is known of the acceptance than that it is small
            return min(2 * self.n_proposals, largest)
        missing = full - self.n_accepted
        rate = self.n_accepted / self.n_proposals
        margin = np.sqrt(missing * (1 - rate))
        return int(min(max(np.ceil((missing + margin) / rate), 1), largest))

    def copies(self, n_missing: int, largest: int) -> int:
        """Return how many to propose for each row that is missing."""
        wanted = 1 << min(self.n_empty, 30)  # the rows that are left may be the hard ones
        if self.n_accepted:
            wanted = max(wanted, int(0.5 * self.n_proposals / self.n_accepted))
        return max(min(wanted, largest // n_missing), 1)

    def count(self, n_proposals: int, n_accepted: int) -> None:
        """Count an attempt, and give up where it leads nowhere."""
        self.n_attempts += 1
        self.n_proposals += n_proposals
        self.n_accepted += n_accepted
        self.n_empty = 0 if n_accepted else self.n_empty + 1
        if self.n_empty >= _EMPTY_ATTEMPTS and self.max_proposals is None:
            self._give_up()

    def allowed(self, n_proposals: int) -> int:
        """Return how many proposals there may be of those that are wanted."""
        most = self.max_proposals
        if most is not None and self.n_proposals >= most:
            self._give_up()
        return n_proposals if most is None else min(n_proposals, most - self.n_proposals)

    def _give_up(self) -> NoReturn:
        most = self.max_proposals
        limit = f"max_proposals={most}"
        if most is None:
            limit = f"{self.n_empty} attempts in a row without success (max_proposals takes the place of this limit)"
        failures = summed(self.failures.found) if self.failures is not None else ()
        failed = f" (most that failed did so: {failures[0]})" if failures else ""
        raise SimulatorError(
            f"predicate {self.name!r} accepted {self.n_accepted:,} of {self.n_proposals:,} proposals for "
            f"sub-batch {self.sub_batch} (acceptance {self.n_accepted / self.n_proposals:.2g}), which has reached "
            f"the limit of {limit}{failed}; accept more, propose from a narrower prior, or give a larger "
            "max_proposals, the number of proposals for one sub-batch"
        )

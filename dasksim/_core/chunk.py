"""One chunk of a dataset, as it stands in a store."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from dasksim._core.failures import Failure

__all__ = ["Chunk"]


@dataclass(frozen=True)
class Chunk:
    """One chunk of a dataset.

    Parameters
    ----------
    variables
        The values.
    n_proposals, n_accepted
        Proposals made and accepted.
    failures
        What failed.
    """

    variables: Mapping[str, npt.NDArray[Any]]
    n_proposals: int
    n_accepted: int
    failures: tuple[Failure, ...] = ()

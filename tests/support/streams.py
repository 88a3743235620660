"""What samples of plain functions draw from."""

from typing import Any

import numpy as np

from dasksim._streams.addresses import Address, stage_key
from dasksim._streams.cells import Cells, CellStreams

__all__ = ["generator_of", "seeds_of"]


def _streams(stage: str, samples: range, **where: Any) -> CellStreams:
    return CellStreams(Address(**{"seed": 1, "stage": stage_key(stage), "sub_batch": 0, **where}), Cells(samples))


def seeds_of(stage: str, samples: range, **where: Any) -> list[int]:
    """Return the argument `seed` of some samples of a stage."""
    return _streams(stage, samples, **where).seeds()


def generator_of(stage: str, sample: int, **where: Any) -> np.random.Generator:
    """Return the argument `rng` of a sample of a stage."""
    rng, move = _streams(stage, range(sample, sample + 1), **where).generator()
    next(move([None]))
    return rng

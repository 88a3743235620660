"""A prior and a likelihood, called once for each sample."""

from typing import Any

import numpy as np

from dasksim import (
    Simulator,
    make_simulator,
)

SIZES: dict[str, Any] = {"seed": 1, "sub_batch_size": 2, "chunk_size": 4}


OPTIONS: dict[str, Any] = {**SIZES, "scheduler": "synchronous"}


ALONE: dict[str, Any] = {"scheduler": "synchronous"}


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal(size=2), "k": int(rng.integers(9))}


def likelihood(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"x": rng.normal(theta[0], size=(3, 2)).astype("float32")}


def simulator(**options: Any) -> Simulator:
    return make_simulator([prior, likelihood], **options)


def fails_sometimes(rng: np.random.Generator) -> dict[str, Any]:
    value = -rng.normal()
    if value < -1.0:
        raise ValueError("too small")
    return {"z": value}

"""Points of a square, of which those in a circle are accepted."""

from typing import Any

import numpy as np
import pytest

from dasksim import (
    Simulator,
    make_simulator,
)

Rng = np.random.Generator


def square(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
    return {"x": rng.uniform(-1, 1, batch_shape), "y": rng.uniform(-1, 1, batch_shape)}


def point(rng: Rng) -> dict[str, Any]:
    return {"x": rng.uniform(-1, 1), "y": rng.uniform(-1, 1)}


def in_circle(x: Any, y: Any) -> Any:
    return x**2 + y**2 < 1


def unit(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
    return {"u": rng.uniform(size=batch_shape)}


def batched() -> Simulator:
    return make_simulator(square, is_batched=True, expand_outputs=False)


def unbatched() -> Simulator:
    return make_simulator(point, expand_outputs=False)


def units() -> Simulator:
    return make_simulator(unit, is_batched=True, expand_outputs=False)


makes = pytest.mark.parametrize("make", [batched, unbatched])

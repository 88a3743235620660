"""A module with a generator of its own."""

from collections.abc import Callable
from typing import Any

import numpy as np

rng = np.random.default_rng(71)
n_calls = 0
table: list[float] | None = None


def draw() -> float:
    return float(rng.normal())


def draw_twice() -> float:
    return draw() + draw()


def draw_and_count() -> float:
    global n_calls
    n_calls += 1
    return float(rng.normal())


def load_table() -> None:
    global table
    if table is None:
        table = [1.0]


def doubled(function: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: {"x": 2 * function()["x"]}

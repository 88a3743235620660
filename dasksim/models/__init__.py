"""Benchmark simulators, ready to use."""

from collections.abc import Callable

from dasksim.models.two_moons import two_moons
from dasksim.simulators import Simulator

__all__ = ["MODELS", "two_moons"]

#: All models by name.
MODELS: dict[str, Callable[[], Simulator]] = {"two_moons": two_moons}

"""Benchmark simulators, ready to use."""

from collections.abc import Callable

from dasksim.models.graphical import crossed_design_irt, single_level, three_level, two_level
from dasksim.models.two_moons import two_moons
from dasksim.simulators import Simulator

__all__ = ["MODELS", "crossed_design_irt", "single_level", "three_level", "two_level", "two_moons"]

#: All models by name.
MODELS: dict[str, Callable[[], Simulator]] = {
    "two_moons": two_moons,
    "single_level": single_level,
    "two_level": two_level,
    "three_level": three_level,
    "crossed_design_irt": crossed_design_irt,
}

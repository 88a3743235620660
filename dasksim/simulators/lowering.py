"""What several simulators do to the stages of those within them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dasksim._engine.stage import Stage
from dasksim._engine.steps import Lowering
from dasksim.errors import ArgumentTypeError, SimulatorError
from dasksim.simulators.lambda_simulator import LambdaSimulator
from dasksim.simulators.simulator import Simulator

__all__ = ["as_simulator", "common_levels", "joined", "joined_attrs", "with_distinct_names"]


def with_distinct_names(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Give the second and later stages of one name a number: ``prior``, ``prior_2``, and so on."""
    seen: dict[str, int] = {}
    named = []
    for stage in stages:
        seen[stage.name] = count = seen.get(stage.name, 0) + 1
        # a name is the key of random streams: two stages of one name would draw the same numbers. The first keeps
        # its own, and so its numbers, whatever comes after it
        named.append(stage if count == 1 else stage.replaced(name=f"{stage.name}_{count}"))
    return tuple(named)


def common_levels(lowerings: Iterable[Lowering]) -> tuple[str, ...] | None:
    """Return the levels of the simulators that have some.

    Raises
    ------
    SimulatorError
        If two have different ones.
    """
    found = {lowering.levels for lowering in lowerings} - {None}
    if len(found) > 1:
        raise SimulatorError(f"simulators with different levels cannot be combined; got {sorted(map(str, found))}")
    return found.pop() if found else None


def joined(mappings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the union of mappings; later ones go first."""
    return {name: value for mapping in mappings for name, value in mapping.items()}


def joined_attrs(mappings: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the union of attributes of each name; later ones go first."""
    found: dict[str, dict[str, Any]] = {}
    for mapping in mappings:
        for name, attrs in mapping.items():
            found[name] = {**found.get(name, {}), **attrs}
    return found


def as_simulator(obj: Any, argument: str, make: Callable[..., Simulator] = LambdaSimulator) -> Simulator:
    """Return a simulator, or a function as one.

    Raises
    ------
    ArgumentTypeError
        If it is neither.
    """
    if isinstance(obj, Simulator):
        return obj
    if not callable(obj):
        raise ArgumentTypeError(f"{argument} must hold Simulators or functions; got {obj!r}")
    return make(obj)

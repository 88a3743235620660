"""Simulators on levels, each repeated within the one above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dasksim._core.attributes import check_attrs
from dasksim._core.labels import check_labels, is_label
from dasksim._engine.stage import within
from dasksim._engine.steps import Lowering
from dasksim.errors import ArgumentError, ArgumentTypeError
from dasksim.simulators.lowering import as_simulator, joined, joined_attrs, with_distinct_names
from dasksim.simulators.simulator import Simulator

__all__ = ["HierarchicalSimulator"]


class HierarchicalSimulator(Simulator):
    """Simulators on levels: groups, members of groups, and so on.

    ``sample((n_groups, n_members))`` draws the first level once for each group, the second once for each member, given
    the variables of its group. A group is one sample, so the dim of the first level is ``batch``.

    Parameters
    ----------
    hierarchy
        One simulator or function for each level, from the top down; the keys of a mapping name levels and stages.
    levels
        Names of the dims of the levels below the first (``"batch"`` may stand before them). By default the keys of
        the mapping, or ``level_1``, ``level_2``, ...
    dims
        Names of feature dims, by variable.
    coords
        Coordinates: values by feature dim, or, along a dim of another name, ``(dim, values)``, ``(dim, values, attrs)``
        or a DataArray.
    attrs
        Attributes such as ``units`` and ``long_name``, by the name of a variable or coordinate.

    Examples
    --------
    >>> import dasksim
    >>> simulator = HierarchicalSimulator(
    ...     [lambda rng: {"mu": rng.normal()}, lambda mu, rng: {"theta": rng.normal(mu)}], levels=["member"]
    ... )
    >>> ds = simulator.sample((100, 5), seed=1)
    >>> ds["mu"].dims, ds["theta"].dims
    (('batch',), ('batch', 'member'))
    """

    def __init__(
        self,
        hierarchy: Sequence[Any] | Mapping[str, Any],
        levels: Sequence[str] | None = None,
        *,
        dims: Mapping[str, str | Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
        attrs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(hierarchy, str) or not isinstance(hierarchy, Mapping | Sequence):
            raise ArgumentTypeError(f"hierarchy must be a sequence or a mapping of Simulators; got {hierarchy!r}")
        if not hierarchy:
            raise ArgumentError("hierarchy must hold at least one simulator; got none")
        members = list(hierarchy.values()) if isinstance(hierarchy, Mapping) else list(hierarchy)
        for key in hierarchy if isinstance(hierarchy, Mapping) else ():
            if not is_label(key):
                raise ArgumentTypeError(f"the keys of hierarchy name levels and must be strings; got {key!r}")
        self.names = tuple(hierarchy) if isinstance(hierarchy, Mapping) else ("",) * len(members)
        self.hierarchy = tuple(as_simulator(member, "hierarchy") for member in members)
        self.levels = _levels(levels, self.names)
        self.dims, self.coords = check_labels(dims, coords)
        self.attrs = check_attrs(attrs)

    def lower(self, path: str = "") -> Lowering:
        stages = []
        lowerings = []
        for level, (name, simulator) in enumerate(zip(self.names, self.hierarchy, strict=True)):
            lowering = simulator.lower(within(path, name))
            if lowering.levels:
                raise ArgumentError("a hierarchy cannot hold another; give all levels in one HierarchicalSimulator")
            lowerings.append(lowering)
            stages += [stage.replaced(depth=level) for stage in lowering.stages]
        return Lowering(
            with_distinct_names(stages),
            dims={**joined(lowering.dims for lowering in lowerings), **self.dims},
            coords={**joined(lowering.coords for lowering in lowerings), **self.coords},
            attrs=joined_attrs([*(lowering.attrs for lowering in lowerings), self.attrs]),
            levels=self.levels,
        )


def _levels(levels: Any, names: Sequence[str]) -> tuple[str, ...]:
    if levels is None:
        return tuple(name or f"level_{i}" for i, name in enumerate(names))[1:]
    if isinstance(levels, str) or not isinstance(levels, Sequence) or not all(map(is_label, levels)):
        raise ArgumentTypeError(f"levels must be a list of names; got {levels!r}")
    below = tuple(levels)[1:] if tuple(levels)[:1] == ("batch",) else tuple(levels)
    if len(below) != len(names) - 1 or len({"batch", *below}) <= len(below):
        raise ArgumentError(
            f"levels must hold {len(names) - 1} different names, one for each level below the first, whose dim is "
            f"'batch'; got {levels!r}"
        )
    return below

"""Simulators one after the other, matched by the names of their arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dasksim._core.attributes import check_attrs
from dasksim._core.checks import check_flag
from dasksim._core.labels import check_fill_value, check_labels, check_sizes
from dasksim._engine.stage import within
from dasksim._engine.steps import Lowering
from dasksim.errors import ArgumentError, ArgumentTypeError
from dasksim.simulators.lowering import common_levels, joined, joined_attrs, with_distinct_names
from dasksim.simulators.simulator import Simulator

__all__ = ["SequentialSimulator"]


class SequentialSimulator(Simulator):
    """Simulators that run one after the other; each sees, by name, what those before it made.

    Parameters
    ----------
    simulators
        A sequence of simulators, or a mapping of names to them; the names then name the stages.
    expand_outputs
        Whether scalars get a trailing axis of size 1 in the dataset, with the dim ``scalar``. Functions see them
        without it.
    replace_inputs
        Whether a condition replaces the simulated variable of its name for all later stages and in the dataset.
        Otherwise it is seen only by the stages before the one that makes the variable.
    dims
        Names of feature dims, by variable; they go before those of the simulators.
    coords
        Coordinates: values by feature dim, or, along a dim of another name, ``(dim, values)``, ``(dim, values, attrs)``
        or a DataArray.
    attrs
        Attributes such as ``units`` and ``long_name``, by the name of a variable or coordinate.
    max_sizes
        Largest sizes of dims that follow a context, such as ``{"obs": 100}``; the dataset has these sizes.
    fill_value
        What stands along such dims beyond the size of a sub-batch. Integers and booleans need one that they can hold.

    Examples
    --------
    >>> from dasksim import LambdaSimulator
    >>> prior = LambdaSimulator(lambda rng: {"mu": rng.normal()})
    >>> likelihood = LambdaSimulator(lambda mu, rng: {"x": rng.normal(mu, size=3)})
    >>> ds = SequentialSimulator([prior, likelihood]).sample(2, seed=1)
    >>> ds.mu.shape, ds.x.shape
    ((2, 1), (2, 3))
    """

    def __init__(
        self,
        simulators: Sequence[Simulator] | Mapping[str, Simulator],
        expand_outputs: bool = True,
        replace_inputs: bool = True,
        *,
        dims: Mapping[str, str | Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
        attrs: Mapping[str, Mapping[str, Any]] | None = None,
        max_sizes: Mapping[str, int] | None = None,
        fill_value: Any = math.nan,
    ) -> None:
        super().__init__()
        if not isinstance(simulators, Mapping | Sequence):
            raise ArgumentTypeError(f"simulators must be a sequence or a mapping of Simulators; got {simulators!r}")
        named: list[tuple[Any, Any]]
        named = list(simulators.items()) if isinstance(simulators, Mapping) else [("", s) for s in simulators]
        if not named:
            raise ArgumentError("simulators must hold at least one simulator; got none")
        for name, simulator in named:
            if not isinstance(name, str) or (isinstance(simulators, Mapping) and not name):
                raise ArgumentTypeError(f"the keys of simulators name stages and must be strings; got {name!r}")
            if not isinstance(simulator, Simulator):
                raise ArgumentTypeError(
                    f"simulators must hold Simulators; got {simulator!r}, which make_simulator can wrap"
                )
        self.simulators = tuple(simulator for _, simulator in named)
        self.names = tuple(name for name, _ in named)
        self.expand_outputs = check_flag("expand_outputs", expand_outputs)
        self.replace_inputs = check_flag("replace_inputs", replace_inputs)
        self.dims, self.coords = check_labels(dims, coords)
        self.attrs = check_attrs(attrs)
        self.max_sizes = check_sizes(max_sizes)
        self.fill_value = check_fill_value(fill_value)

    def lower(self, path: str = "") -> Lowering:
        lowerings = [
            simulator.lower(within(path, name)) for name, simulator in zip(self.names, self.simulators, strict=True)
        ]
        stages = with_distinct_names([stage for lowering in lowerings for stage in lowering.stages])
        return Lowering(
            tuple(stage.replaced(is_expanded=self.expand_outputs) for stage in stages),
            replace_inputs=self.replace_inputs,
            dims={**joined(lowering.dims for lowering in lowerings), **self.dims},
            coords={**joined(lowering.coords for lowering in lowerings), **self.coords},
            attrs=joined_attrs([*(lowering.attrs for lowering in lowerings), self.attrs]),
            levels=common_levels(lowerings),
            max_sizes={**joined(lowering.max_sizes for lowering in lowerings), **self.max_sizes},
            fill_value=self.fill_value,
        )

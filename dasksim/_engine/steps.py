"""Stages bound to each other, and what one is given on a sub-batch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import namespace_of, read_only
from dasksim._core.attributes import Coordinate
from dasksim._core.conditions import pad_rows
from dasksim._core.variables import Variable
from dasksim._engine._outputs import PaddedRows
from dasksim._engine.failed_rows import FailedRows
from dasksim._engine.stage import Binding, Place, Plate, Stage, SubBatch
from dasksim.errors import SimulatorError

__all__ = ["Lowering", "Step", "aligned", "differing_sizes", "sub_batch_of"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Lowering:
    """What a simulator lowers to.

    Parameters
    ----------
    stages
        Stages in the order in which they run.
    replace_inputs
        Whether a condition replaces the variable of its name for all later stages.
    dims
        Names of feature dims, by variable.
    coords
        Coordinates, by name.
    attrs
        Attributes, by the name of a variable or coordinate.
    levels
        Names of the further batch axes, if the simulator has a fixed number of them.
    max_sizes
        Largest sizes of dims that follow a context.
    fill_value
        What stands beyond the size of a sub-batch along such dims.
    call
        How the caller asked for samples, with a place for their number; an error says so how to run a sub-batch alone.
    """

    stages: tuple[Stage, ...]
    replace_inputs: bool = True
    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    coords: Mapping[str, Coordinate] = field(default_factory=dict)
    attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    levels: tuple[str, ...] | None = None
    max_sizes: Mapping[str, int] = field(default_factory=dict)
    fill_value: Any = math.nan
    call: str = "sample({shape}"


@dataclass(frozen=True)
class Step:
    """A stage and where its inputs come from.

    Parameters
    ----------
    stage
        The stage.
    binding
        Where its arguments take their values from.
    sources
        For each input, the number of the step that makes it, or None for a condition.
    outputs
        The variables that the stage makes.
    plates
        The axes along which it is repeated, those of the call first.
    is_run
        Whether it runs at all: not if all its outputs are given.
    is_full
        Whether it computes a last, short sub-batch whole: it is batched, or a batched stage needs its rows.
    probe_digest
        Digest of what it returned at the probe, where that is reproducible: it tells a change of what the function
        captures, which its source does not.
    device
        Where it runs; its inputs are there.
    seconds
        How long its plain functions took for one sample at the probe.
    """

    stage: Stage
    binding: Binding
    sources: Mapping[str, int | None]
    outputs: tuple[Variable, ...]
    plates: tuple[Plate, ...] = ()
    is_run: bool = True
    is_full: bool = False
    probe_digest: str | None = None
    device: str = "cpu"
    seconds: float = 0.0

    @property
    def upstream(self) -> list[int]:
        """The steps that this one takes inputs from, in order."""
        return sorted({source for source in self.sources.values() if source is not None})


def sub_batch_of(
    step: Step,
    place: Place,
    n_rows: int,
    inputs: Mapping[str, tuple[Variable, Any]],
    watch: bool,
    failures: FailedRows | None = None,
) -> SubBatch:
    """Return what a stage is given: its inputs along its own axes."""
    axes = (n_rows, *_plate_sizes(step, inputs))
    plates = tuple(plate.name for plate in step.plates)
    rows: dict[str, Array] = {}
    shared: dict[str, Any] = {}
    shapes: dict[str, Array] = {}
    python = set()
    for name, (variable, value) in inputs.items():
        if variable.sizes_of and name not in step.binding.inputs:
            continue  # taken for the sake of what it is the sizes of
        own = _shapes(step, name, inputs, n_rows, axes)
        if own is not None:
            shapes[name] = own
            value = np.asarray(value)
        if isinstance(value, PaddedRows):
            raise SimulatorError(differing_sizes(name, step.stage.name))
        if variable.is_shared:
            # a Python number if that was returned, as later functions may need it, for range() say
            shared[name] = value.item() if variable.is_python and hasattr(value, "item") else read_only(value)
            continue
        rows[name] = aligned(pad_rows(value, n_rows), variable, plates, axes)
        # along plates that the stage lacks it gets an array, not numbers
        if variable.is_python and set(variable.plates) <= set(plates):
            python.add(name)
    address = place.address(step.stage)
    return SubBatch(place, address, axes, rows, shared, frozenset(python), watch, failures, step.device, shapes)


def _shapes(
    step: Step, name: str, inputs: Mapping[str, tuple[Variable, Any]], n_rows: int, axes: tuple[int, ...]
) -> Array | None:
    """Return the shape of an input in each cell, if cells differ in size and a stage can be given them so."""
    variable, value = inputs[name]
    sized, sizes = inputs.get(f"{name}_size", (variable, None))
    plates = tuple(plate.name for plate in step.plates)
    # cells along plates that the stage lacks would stand in one array
    if sized.sizes_of != name or variable.is_shared or not set(variable.plates) <= set(plates):
        return None
    rows = aligned(pad_rows(np.asarray(sizes), n_rows), sized, plates, axes)
    n_axes = len(variable.shape)
    own = np.empty((math.prod(axes), n_axes), np.int64)
    own[:] = value.shape[value.ndim - n_axes :]
    own[:, sorted(variable.ragged)] = rows.reshape(len(own), -1)
    return own if (own != value.shape[value.ndim - n_axes :]).any() else None


def differing_sizes(name: str, stage: str) -> str:
    """Return what to say where a function takes rows that differ in size."""
    return (
        f"stage {stage!r} takes {name!r}, whose size differs between the samples of a sub-batch; compute what follows "
        f"from it in the function that makes {name!r}, or let that return arrays of one size"
    )


def _plate_sizes(step: Step, inputs: Mapping[str, tuple[Variable, Any]]) -> tuple[int, ...]:
    """Return the sizes of a step's plates on a sub-batch.

    Raises
    ------
    SimulatorError
        If a context makes one less than 1, or something else than an integer.
    """
    sizes = []
    for plate in step.plates:
        size = plate.size if isinstance(plate.size, int) else np.asarray(inputs[plate.size][1]).item()
        if not isinstance(size, int | np.integer) or size < 1:
            raise SimulatorError(
                f"stage {step.stage.name!r} is repeated along {plate.name!r} {plate.size!r} times, and the context "
                f"gave {plate.size!r} the value {size!r}; the number of repeats must be an integer >= 1"
            )
        sizes.append(int(size))
    return tuple(sizes)


def aligned(values: Any, variable: Variable, plates: tuple[str, ...], axes: tuple[int, ...]) -> Any:
    """Return an input along a stage's axes, read-only; plates of its own that the stage lacks count as features."""
    xp = namespace_of(values)
    own = variable.plates
    if own != plates:
        common = [plate for plate in plates if plate in own]
        others = [plate for plate in own if plate not in plates]
        order = [1 + own.index(plate) for plate in [*common, *others]]
        permute = getattr(xp, "permute_dims", None) or xp.transpose  # CuPy 13 knows NumPy's older name
        values = permute(values, (0, *order, *range(1 + len(own), values.ndim)))
        for axis in [1 + i for i, plate in enumerate(plates) if plate not in own]:
            # of size 1, to be broadcast below: nothing is copied
            values = xp.expand_dims(values, axis=axis)
    wanted = (*axes, *values.shape[len(axes) :])
    return read_only(values if values.shape == wanted else xp.broadcast_to(values, wanted))

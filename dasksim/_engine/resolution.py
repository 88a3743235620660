"""Bind stages to each other and to the conditions, and find the schema by probes.

A probe runs a stage on one or two samples of a stream of its own. Nothing of a dataset is simulated here but contexts.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from dasksim._engine._conditions import read_conditions
from dasksim._engine._resolver import Resolver
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.probes import ProbeCache, Probing, probe_rows
from dasksim._engine.stage import Plate
from dasksim._engine.steps import Lowering
from dasksim.errors import ArgumentError, DasksimError, SimulatorError

__all__ = ["check_sizes_agree", "resolve"]

Array = npt.NDArray[Any]

# Sub-batches whose contexts are drawn before any work, to see whether sizes follow them.
_CONTEXTS_COMPARED = 8


def resolve(
    lowering: Lowering,
    conditions: Mapping[str, Any],
    shape: tuple[int, ...],
    seed: int,
    cache: ProbeCache | None = None,
    sub_batch: int = 0,
    sub_batch_size: int | None = None,
    most_probes: int = 1,
) -> Pipeline:
    """Bind stages to each other and to the conditions, and find the schema.

    Raises
    ------
    SimulatorError
        If the stages do not fit together.
    ArgumentError, ArgumentTypeError
        If a condition does not fit, or has a name that nothing takes or makes.
    """
    names = lowering.levels
    if names is None:
        names = tuple(f"batch_{i}" for i in range(1, len(shape)))
    elif len(names) + 1 != len(shape):
        raise ArgumentError(
            f"batch_shape={shape} has {len(shape)} axes, but the simulator has {len(names) + 1} levels, "
            f"{('batch', *names)}; give one size for each"
        )
    further = tuple(map(Plate, names, shape[1:]))
    given = read_conditions(conditions, shape, names, any_level=lowering.levels is not None)
    probing = Probing(
        shape[0], seed, sub_batch, sub_batch_size, ProbeCache() if cache is None else cache, probe_rows(lowering)
    )
    for attempt in range(most_probes):
        resolver = Resolver(lowering, dict(given), further, replace(probing, attempt=attempt))
        try:
            resolver.run()
            break
        except DasksimError:
            # what is wrong with the simulator or the call is so for any sample
            raise
        except Exception as error:
            if attempt + 1 < most_probes:
                continue
            if most_probes > 1:
                error.add_note(f"it raised exceptions {most_probes} times in a row, on samples that differ")
            raise
    resolver.check_names()
    resolver.check_use()
    return resolver.pipeline()


def check_sizes_agree(pipeline: Pipeline, n_samples: int, sub_batch_size: int, at: Callable[[int], Pipeline]) -> None:
    """Look at the contexts of some sub-batches and refuse sizes that follow them, unless the largest are declared.

    Raises
    ------
    SimulatorError
        If a size differs.
    """
    n_sub_batches = -(-n_samples // sub_batch_size)
    for sub_batch in range(1, min(n_sub_batches, _CONTEXTS_COMPARED)):
        other = at(sub_batch)
        for mine, theirs in zip(pipeline.variables, other.variables, strict=True):
            sizes = dict(zip(pipeline.array_dims(mine)[1:], pipeline.array_shape(mine), strict=True))
            others = dict(zip(other.array_dims(theirs)[1:], other.array_shape(theirs), strict=True))
            dim = next((dim for dim, size in sizes.items() if others.get(dim) != size), None)
            if dim is not None:
                raise SimulatorError(
                    f"variable {mine.name!r} has size {sizes[dim]} along {dim!r} in sub-batch 0 and {others.get(dim)} "
                    f"in sub-batch {sub_batch}, since it follows a context; add max_sizes={{{dim!r}: <the largest "
                    "size>} to the simulator to fill the rest, give the context as a condition, or draw one for all "
                    f"samples with sub_batch_size={n_samples}"
                )

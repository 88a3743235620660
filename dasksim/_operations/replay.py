"""Run one sample of a store again, in this process, and see what each stage was given and made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import as_host, shown
from dasksim._core.failures import VALID
from dasksim._core.tracebacks import shortened
from dasksim._core.variables import Variable
from dasksim._engine.branches import INDICES, BranchStage
from dasksim._engine.chunks import replay_sample
from dasksim._engine.evaluation import Values
from dasksim._engine.pipeline import Pipeline
from dasksim._operations._argument_order import refuse_swapped
from dasksim._operations._compatibility import stored_request
from dasksim.errors import ArgumentError, ArgumentTypeError, StoreMismatchError
from dasksim.simulators import SimulatorLike
from dasksim.store import StoreLike

__all__ = ["Replay", "StageReplay", "replay"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class StageReplay:
    """What a stage was given, and what it made, for one sample.

    Parameters
    ----------
    name
        Name of the stage.
    inputs, outputs
        Values by variable.
    """

    name: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class Replay:
    """One sample of a store, run again.

    Parameters
    ----------
    sample
        Number of the sample.
    sub_batch
        Number of its sub-batch.
    stages
        The stages in order, but for models that the sample does not come from.
    variables
        The sample as it stands in the dataset.
    is_stored
        Whether the store holds the sample: its chunk is complete.
    """

    sample: int
    sub_batch: int
    stages: tuple[StageReplay, ...]
    variables: Mapping[str, Array]
    is_stored: bool

    def __repr__(self) -> str:
        agrees = "the same in the store, bit by bit" if self.is_stored else "not in the store yet"
        lines = [f"sample {self.sample} of sub-batch {self.sub_batch}: {agrees}"]
        for stage in self.stages:
            lines.append(f"  {stage.name}")
            lines += [f"    {arrow} {n} = {shown(v)}" for arrow, values in _flows(stage) for n, v in values.items()]
        return "\n".join(lines)


def _flows(stage: StageReplay) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    return ("<-", stage.inputs), ("->", stage.outputs)


@shortened()
def replay(
    store: StoreLike,
    simulator: SimulatorLike,
    sample: int,
    *,
    conditions: Mapping[str, Any] | None = None,
) -> Replay:
    """Run one sample again, in this process, and compare it with the store.

    Where a function is batched, or makes contexts, the whole sub-batch of the sample is run.

    Parameters
    ----------
    store
        Where the store is, in any form that :func:`generate` takes. It need not be complete.
    simulator
        What it was made with.
    sample
        Number of the sample, from 0.
    conditions
        As given when the store was made.

    Returns
    -------
    Replay
        What every stage was given and made for the sample; ``print`` shows it.

    Raises
    ------
    Exception
        What a stage raises at this sample, where the store has it masked, or was stopped by it: with its traceback, for
        a debugger. Failures of other samples of the sub-batch do not matter.
    ArgumentError
        If the store has no such sample.
    StoreError
        If there is no store.
    StoreMismatchError
        If the sample differs from the one in the store, or did not fail as it did there.

    Examples
    --------
    >>> import dasksim, tempfile
    >>> simulator = dasksim.make_simulator([lambda rng: {"n": rng.integers(9)}, lambda n: {"square": n**2}])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds = dasksim.generate(simulator, f"{folder}/s.zarr", 100, seed=1, scheduler="synchronous")
    ...     found = dasksim.replay(f"{folder}/s.zarr", simulator, sample=42)
    >>> print(found)  # doctest: +SKIP
    """
    refuse_swapped("replay({store}, simulator, sample)", store=store, simulator=simulator)
    request = stored_request(store, simulator, conditions)
    n_samples = request.plan.n_samples
    if not isinstance(sample, int | np.integer):
        raise ArgumentTypeError(f"sample must be an integer; got {sample!r}")
    pipeline, plan, record = request.pipeline, request.plan, request.record
    least = pipeline.least(plan)
    n_simulated = least.n_chunks * least.chunk_size
    if 0 <= sample < n_simulated:  # a stage may raise at one beyond the end, if a last, short sub-batch is made whole
        values, chunk, row = replay_sample(pipeline, plan, int(sample), request.policy)
    if not 0 <= sample < n_samples:
        raise ArgumentError(f"sample must be a number from 0 to {n_samples - 1}; got {sample!r}")
    checker = request.store.checker(record)
    variables = {name: rows[row] for name, rows in checker.as_stored(chunk.variables).items()}
    is_stored = sample // plan.chunk_size in checker.complete
    if is_stored:
        stored = checker.sample(int(sample))
        # by bytes, since NaN differs from itself
        different = [name for name, value in variables.items() if value.tobytes() != stored[name].tobytes()]
        if different:
            raise StoreMismatchError(_how_it_differs(int(sample), different, variables, stored, request.changes))
    return Replay(int(sample), int(sample) // plan.sub_batch_size, _stages(pipeline, values, row), variables, is_stored)


def _stages(pipeline: Pipeline, values: Values, row: int) -> tuple[StageReplay, ...]:
    found = []
    for index, step in enumerate(pipeline.steps):
        if not step.is_run or step.stage.is_transfer:
            continue
        taken = {name: pipeline.variable(name, source) for name, source in step.sources.items()}
        inputs = {
            name: _of_row(variable, values.of(step.sources[name])[name], row)
            for name, variable in taken.items()
            if not variable.is_hidden  # what models hand to the merge is shown where they made it
        }
        if isinstance(step.stage, BranchStage) and not inputs[INDICES][..., step.stage.model].any():
            continue
        shown = [v for v in step.outputs if not v.is_count]
        outputs = {v.name.rpartition("/")[2]: _of_row(v, values.made[index][v.name], row) for v in shown}
        found.append(StageReplay(step.stage.name, inputs, outputs))
    return tuple(found)


def _of_row(variable: Variable, values: Any, row: int) -> Any:
    return values if variable.is_shared else as_host(values)[row]


def _how_it_differs(
    sample: int, different: list[str], made: Mapping[str, Array], stored: Mapping[str, Array], changes: list[str]
) -> str:
    if VALID in different and not stored[VALID]:
        lines = [f"sample {sample} is masked in the store, but did not fail now; did its sub-batch take too long then?"]
        return "\n".join([*lines, *(f"  {change}" for change in changes)])
    lines = [f"sample {sample} differs from the store:"]
    lines += [f"  {name}: {shown(made[name])} now, {shown(stored[name])} in the store" for name in different]
    lines += [f"  {change}" for change in changes]
    lines.append("dasksim.verify tells whether the store is damaged")
    return "\n".join(lines)

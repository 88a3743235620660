"""Evaluate one stage on a sub-batch in which rows may have failed."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import as_host, namespace_of, read_only, select_rows
from dasksim._core.failures import Failures
from dasksim._core.variables import Variable
from dasksim._engine._outputs import PaddedRows
from dasksim._engine.functions import FunctionStage, RowStage, zeros
from dasksim._engine.stage import SubBatch
from dasksim._engine.steps import Step
from dasksim.errors import OutputError

__all__ = ["evaluate", "without"]

Array = npt.NDArray[Any]


def evaluate(step: Step, batch: SubBatch) -> dict[str, Array]:
    """Return what a step makes of a sub-batch.

    Rows that have failed hold values without meaning. A function that is called once a row is not called for them; one
    that is given whole arrays finds there the values of a row that has not failed. If all have failed, nothing is
    called.

    Parameters
    ----------
    step
        The stage, bound.
    batch
        What it is given; its failures are added to.
    """
    failures = batch.failures
    if failures is None or step.stage.is_transfer:
        return step.stage.simulate(step.binding, batch, step.outputs)
    if not isinstance(step.stage, RowStage) and not step.stage.makes_contexts:
        failed = failures.failed
        if failed.all():
            return zeros(step.outputs, batch)
        if failed.any():
            batch = replace(batch, rows={name: without(failed, values) for name, values in batch.rows.items()})
    made = step.stage.simulate(step.binding, batch, step.outputs)
    if failures.policy.on_nonfinite != "keep" and isinstance(step.stage, FunctionStage):
        for variable in step.outputs:
            if variable.dtype.kind in "fc" and not variable.is_shared:
                _check_finite(made[variable.name], variable, step, batch, failures)
    return made


def without(failed: Array, values: Any) -> Any:
    """Return rows with those that have failed replaced by the first that has not."""
    return read_only(select_rows(values, np.where(failed, np.argmin(failed), np.arange(len(failed)))))


def _check_finite(values: Any, variable: Variable, step: Step, batch: SubBatch, failures: Failures) -> None:
    xp = namespace_of(values)
    if isinstance(values, PaddedRows):  # what they are filled up with may be NaN
        cells = values.finite
    else:
        cells = as_host(xp.all(xp.reshape(xp.isfinite(values), (batch.n_cells, -1)), axis=1))
    is_finite = cells.reshape(batch.axes[0], -1).all(axis=1) | failures.failed
    if is_finite.all():
        return
    rows = np.flatnonzero(~is_finite)
    if failures.nonfinite(rows, step.stage.name, variable.name):
        return
    row = int(rows[failures.samples[rows] == failures.raised_at][0])
    cell = int(np.argmin(cells.reshape(batch.axes[0], -1)[row])) + row * batch.cells_per_row
    inputs = batch.inputs_of(cell)
    raise OutputError(
        f"stage {step.stage.name!r} returned {variable.name!r} with NaN or infinite values at sample "
        f"{failures.raised_at}"
        + (f", whose inputs are {inputs}" if inputs else "")
        + "; on_nonfinite='mask' or 'redraw' goes on without such samples, 'keep' keeps them"
    )

"""Filter and refill: propose, keep what a predicate accepts, and go on until a sub-batch is full."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import as_host, device_named, read_only, select_rows
from dasksim._core.plan import fixed_sub_batch
from dasksim._core.variables import RESERVED, Variable, brief
from dasksim._engine._outputs import PaddedRows, parts_alike
from dasksim._engine._tally import PARTS, Tally
from dasksim._engine.evaluation import Values, explain, run_steps, without
from dasksim._engine.failed_rows import FailedRows
from dasksim._engine.functions import BatchedStage
from dasksim._engine.nested import NestedStage
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.stage import Binding, Stage, SubBatch
from dasksim._engine.steps import Lowering, differing_sizes
from dasksim._streams.cells import Cells
from dasksim._streams.isolation import Isolated
from dasksim.errors import OutputError, SimulatorError, nearest

__all__ = ["FilterStage"]

Array = npt.NDArray[Any]

# What is counted.
_COUNTS = ("proposals", "accepted")

# Rows of an attempt at most where it is unbatched: several sub-batches of the default size, since a row costs more than
# its memory.
_UNBATCHED_SUB_BATCHES = 8


class FilterStage(NestedStage):
    """The stages that a predicate needs, run again and again until a sub-batch is full.

    A proposal for which a stage fails is rejected where failures do not end all.

    Where a stage sees whole sub-batches, every attempt proposes as many samples as are expected to be needed, and what
    is accepted is kept in the order of proposal. Where each cell is made by itself, or inputs differ between rows, each
    row is proposed for until one is accepted.

    Parameters
    ----------
    name
        Path of the stage.
    predicate
        The user's function; takes variables by name, or one mapping of all.
    span
        How many of the stages after it are filtered; those that the predicate does not need run afterwards.
    sample_size
        Proposals of an attempt; by default as many as are expected to be needed.
    max_proposals
        Proposals for one sub-batch at most.
    """

    how_often: ClassVar[str] = "for each sub-batch, until it is full"

    def __init__(
        self,
        name: str,
        predicate: Callable[..., Any],
        span: int,
        sample_size: int | None = None,
        max_proposals: int | None = None,
    ) -> None:
        super().__init__(name)
        self.predicate = BatchedStage(name, predicate)
        self.span = span
        self.sample_size = sample_size
        self.max_proposals = max_proposals
        self.has_rows = False
        self.keep_all = False
        self.binding: Binding | None = None
        self.device = "cpu"  # of the predicate
        self.steps: tuple[int, ...] = ()
        self.largest = 0

    def lowering_of(self, covered: Sequence[Stage]) -> Lowering:
        return Lowering(tuple(covered))

    @property
    def needs_whole(self) -> bool:
        return self.holds_whole and self.has_rows  # else it stops earlier, on the way that a whole sub-batch takes

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.predicate.names, *self.taken)))

    @property
    def functions(self) -> tuple[Isolated, ...]:
        inner = [self.pipeline.steps[i] for i in self.steps] if self.steps else []
        return (self.predicate.function, *(f for step in inner for f in step.stage.functions))

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "sample_size": self.sample_size, "max_proposals": self.max_proposals}

    def resolved(self, pipeline: Pipeline) -> Self:
        stage = super().resolved(pipeline)
        # only what the predicate needs is proposed; other stages run afterwards, for what was accepted
        stage.binding = self._bound(pipeline)
        seen = stage.binding.inputs if stage.binding else tuple(pipeline.sources)
        stage.steps = _needed(pipeline, seen)
        steps = [pipeline.steps[i] for i in stage.steps]
        for step in steps:
            # a context holds for a whole sub-batch, so that there are no rows of it to choose from
            if any(v.is_shared and not v.is_count for v in step.outputs):
                raise SimulatorError(
                    f"stage {step.stage.name!r} makes contexts and samples at once, and cannot be filtered; make its "
                    "contexts with meta_fn"
                )
        stage.hold(steps)
        stage.is_by_cell = stage.is_by_cell and not self.predicate.draws
        used = {name for step in steps for name, source in step.sources.items() if source is None}
        used |= {name for name in seen if pipeline.sources[name] is None}
        stage.taken = tuple(name for name in pipeline.conditions if name in used)
        largest = fixed_sub_batch(pipeline.sample_bytes, stage.is_batched)
        stage.largest = largest // PARTS if stage.is_batched else largest * _UNBATCHED_SUB_BATCHES
        stage.has_rows = any(not pipeline.conditions[name].is_scalar for name in stage.taken)
        return stage

    def _bound(self, pipeline: Pipeline) -> Binding | None:
        """Return the variables that the predicate takes by name, or None if it takes one mapping of all.

        Raises
        ------
        SimulatorError
            If it takes neither.
        """
        known = [*pipeline.sources]
        parameters = [name for name in self.predicate.required if name not in RESERVED]
        missing = [name for name in parameters if name not in known]
        if parameters and not missing:
            return self.predicate.bind(known)
        if len(parameters) == 1:
            return None
        if not parameters:
            raise SimulatorError(
                f"predicate {self.name!r} takes no variables; let it take some by name, or a mapping of all"
            )
        raise SimulatorError(
            f"predicate {self.name!r} needs {missing[0]!r}, which is no variable; {nearest(missing[0], known)}"
        )

    def placed(self, pipeline: Pipeline) -> Self:
        stage = super().placed(pipeline)
        stage.device = pipeline.device if self.predicate.can_use_gpu else "cpu"
        stage.steps = _needed(pipeline, self.binding.inputs if self.binding else tuple(pipeline.sources))
        return stage

    def outputs(self) -> tuple[Variable, ...]:
        made = tuple(v for i in self.steps for v in self.pipeline.steps[i].outputs if self.pipeline.steps[i].is_run)
        made = tuple(v for v in made if self.pipeline.sources.get(v.name) is not None)
        counts = (self._count(kind) for kind in _COUNTS)
        return (*made, *counts)

    def _count(self, kind: str) -> Variable:
        name = f"{self.name}//{kind}"
        return Variable(name, (), np.dtype("int64"), is_shared=True, is_hidden=True, counts=kind)

    @property
    def checked_on(self) -> tuple[int, ...]:
        return self.steps

    def check(self, values: Mapping[str, Any], batch: SubBatch) -> None:
        """Call the predicate on the values of a probe, so that a wrong one is noticed before any work."""
        probed = Values(values, dict.fromkeys(self.steps, values))
        self._accept(probed, np.zeros(batch.n_cells, bool), batch, 0)
        # it may have drawn where its code does not show it: what it draws is that of whole attempts
        self.is_by_cell = self.is_by_cell and not self.predicate.draws

    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        given = self.given(batch)
        fill = self._fill_rows if self.has_rows or self.is_by_cell else self._fill
        kept, counts = fill(batch, given, [v for v in outputs if not v.is_count])
        made = {name: np.reshape(rows, self._shape(rows, batch)) for name, rows in kept.items()}
        made.update({self._count(kind).name: np.asarray(counts[kind]) for kind in _COUNTS})
        return made

    def _shape(self, rows: Array, batch: SubBatch) -> tuple[int, ...]:
        return (-1, *batch.axes[1:], *rows.shape[1:])

    def _fill(
        self, batch: SubBatch, given: Mapping[str, Any], variables: Sequence[Variable]
    ) -> tuple[dict[str, Array], dict[str, int]]:
        """Propose until there are enough; a short sub-batch stops earlier, on the way that a whole one takes."""
        # the sizes of attempts are those of a whole sub-batch, of which a short one must be the beginning
        full = self.place(batch).full_rows
        # one row of each: all are alike, and as many are needed as are proposed
        constant = {n: value[:1] for n, value in given.items() if n in batch.rows}
        tally = Tally(self.name, self.max_proposals, batch)
        kept: list[dict[str, Array]] = []
        while tally.n_accepted < batch.n_cells:
            size = tally.allowed(self.sample_size or tally.next_size(full, self.largest))
            same = {n: np.broadcast_to(value, (size, *value.shape[1:])) for n, value in constant.items()}
            first = np.full(size, self.place(batch).first_sample)
            cells = Cells(first, proposals=np.arange(size))
            # for the sub-batch, so that failures are told of its first sample
            made, accepted, failures = self._attempt(
                batch, {**given, **same}, np.zeros(size, np.int64), tally.n_attempts, cells
            )
            self._count_failures(batch, failures, np.zeros(size, np.int64), np.ones(size, bool))
            tally.count(size, int(accepted.sum()))
            if not accepted.any():  # if all have failed, even sizes that follow contexts are not known
                continue
            rows = np.flatnonzero(accepted)
            kept.append({v.name: as_host(select_rows(made[v.name], rows)) for v in variables})
        n_cells = batch.n_cells // batch.axes[0]
        # of what is too much only whole samples are kept, with all their cells
        stop = tally.n_accepted // n_cells * n_cells if self.keep_all else batch.n_cells
        parts = {v.name: parts_alike([part[v.name] for part in kept], v) for v in variables}
        return {name: np.concatenate(alike)[:stop] for name, alike in parts.items()}, tally.counts

    def _fill_rows(
        self, batch: SubBatch, given: Mapping[str, Any], variables: Sequence[Variable]
    ) -> tuple[dict[str, Array], dict[str, int]]:
        """Propose for each row until one is accepted, the first in the order of proposal."""
        tally = Tally(self.name, self.max_proposals, batch)
        kept: dict[str, Array] = {}
        missing, n_before = np.arange(batch.n_cells), np.zeros(batch.n_cells, np.int64)
        while missing.size:
            most = tally.allowed(max(self.largest, len(missing)))
            asked, rest = missing[:most], missing[most:]
            copies = tally.copies(len(asked), most)
            # the copies of a row stand together, so that each row has a line of the table below
            rows = np.repeat(asked, copies)
            chosen = {n: value[rows] if n in batch.rows else value for n, value in given.items()}
            cells = batch.cells.proposed(rows, n_before[rows] + np.tile(np.arange(copies), len(asked)))
            made, accepted, failures = self._attempt(batch, chosen, rows, tally.n_attempts, cells)
            table = accepted.reshape(len(asked), copies)
            is_filled = table.any(axis=1)
            is_counted = np.ones_like(table)
            if self.is_by_cell:
                # up to the first that was accepted, so that it does not depend on how many are proposed at a time
                is_counted = np.arange(copies) <= np.where(is_filled, table.argmax(axis=1), copies)[:, None]
            self._count_failures(batch, failures, rows, is_counted.ravel())
            tally.count(int(is_counted.sum()), int((table & is_counted).sum()))
            n_before[asked] += copies
            if not is_filled.any():
                continue
            # the numbers, among all proposals, of the first that was accepted in each line
            first = np.flatnonzero(is_filled) * copies + table[is_filled].argmax(axis=1)
            for variable in variables:
                name, values = variable.name, as_host(select_rows(made[variable.name], first))
                # not earlier, since sizes may follow a context
                if name not in kept:
                    kept[name] = np.zeros_like(values, shape=(batch.n_cells, *values.shape[1:]))
                kept[name], values = parts_alike([kept[name], values], variable)
                kept[name][asked[is_filled]] = values
            missing = np.concatenate([asked[~is_filled], rest])
        return kept, tally.counts

    def _attempt(
        self, batch: SubBatch, given: Mapping[str, Any], rows: Array, attempt: int, cells: Cells
    ) -> tuple[dict[str, Array], Array, FailedRows | None]:
        """Propose for some cells; return what was made, which proposals are accepted, and which have failed."""
        size = len(rows)
        # with its number in the address, so that no two attempts share a stream; where each cell is made by itself, the
        # number of the proposal tells them apart, whichever attempt it comes with
        number = 0 if self.is_by_cell else attempt
        place = replace(self.place(batch, number), full_rows=size, unit="proposal", cells=cells)
        failures = batch.failures.of_proposals(rows // batch.cells_per_row) if batch.failures is not None else None
        values = run_steps(self.pipeline, self.steps, place, size, Values(given), batch.watch, failures)
        made = {name: value for i in self.steps for name, value in values.made.get(i, {}).items()}
        failed = np.zeros(size, bool) if failures is None else failures.failed
        return made, self._accept(values, failed, batch, attempt), failures

    def _count_failures(self, batch: SubBatch, failures: FailedRows | None, cells: Array, is_counted: Array) -> None:
        """Count those of proposals for some cells."""
        if batch.failures is not None and failures is not None:
            batch.failures.add_proposals(failures, cells // batch.cells_per_row, is_counted)

    def _accept(self, values: Values, failed: Array, batch: SubBatch, attempt: int) -> Array:
        """Return which proposals the predicate accepts; it finds the values of others in place of those that failed."""
        # no row is left whose values could stand for the others'
        if failed.all():
            return ~failed
        seen = self._seen(values, failed)
        binding = self.binding
        if binding is None:  # it takes one mapping of all
            binding = Binding(("variables",), tuple(sorted(RESERVED.intersection(self.predicate.names))))
            seen = {"variables": self._table(seen)}
        place = self.place(batch, attempt)
        address, n = place.address(self.predicate), len(failed)
        # as what all rows share, so that it is given whole arrays
        inner = SubBatch(place, address, (n,), shared=seen, watch=batch.watch, device=self.device)
        try:
            found, _ = self.predicate.call(binding, inner)
        except Exception as error:
            explain(error, f"raised by predicate {self.name!r}")
            raise
        return self._checked(found, n) & ~failed

    def _seen(self, values: Values, failed: Array) -> dict[str, Any]:
        """Return what the predicate is given of the variables that it takes, or of all."""
        pipeline, put = self.pipeline, device_named(self.device).put
        seen = {}
        for name in self.binding.inputs if self.binding else tuple(pipeline.sources):
            source = pipeline.sources[name]
            value = values.of(source)[name]
            if isinstance(value, PaddedRows):
                raise SimulatorError(differing_sizes(name, self.name))
            is_shared = pipeline.variable(name, source).is_shared
            value = read_only(value if is_shared else put(value))
            seen[name] = without(failed, value) if failed.any() and not is_shared else value
        return seen

    def _table(self, seen: Mapping[str, Any]) -> "_Variables":
        by_name = {v.name: v for v in self.pipeline.variables}
        return _Variables({name: _as_in_dataset(value, by_name[name]) for name, value in seen.items()})

    def _checked(self, found: Any, n: int) -> Array:
        """Return what the predicate returned, as one boolean for each proposal.

        Raises
        ------
        OutputError
            If it is something else.
        """
        try:
            array = as_host(found)
        except ValueError:  # rows of different shapes
            array = np.asarray(None)
        if array.shape != (n,) or array.dtype != bool:
            raise OutputError(
                f"predicate {self.name!r} must return a boolean array of shape {(n,)}, one value for each proposal; "
                f"got {brief(found) if array.ndim == 0 else f'an array of shape {array.shape}'} of dtype {array.dtype}"
            )
        return array


def _as_in_dataset(value: Any, variable: Variable) -> Any:
    is_scalar = variable.is_expanded and not variable.is_shared and not variable.shape
    return value[..., None] if is_scalar else value


class _Variables(dict[str, Any]):
    """What a predicate is given; a name that is missing is an error that offers the nearest."""

    def __missing__(self, name: str) -> Any:
        raise SimulatorError(f"the predicate needs {name!r}, which is no variable; {nearest(name, self)}")


def _needed(pipeline: Pipeline, names: Sequence[str]) -> tuple[int, ...]:
    """Return the steps that make some variables, and those that they need."""
    todo = {source for name in names if (source := pipeline.sources[name]) is not None}
    needed: set[int] = set()
    while todo:
        index = todo.pop()
        needed.add(index)
        todo |= set(pipeline.steps[index].upstream) - needed
    return tuple(sorted(needed))

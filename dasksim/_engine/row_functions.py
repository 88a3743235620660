"""Stages of a function that is called once for each sample: its rows are gathered, and failed ones passed over."""

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.labelled import Labels
from dasksim._core.variables import RESERVED, Variable
from dasksim._engine._kept_outputs import are_kept, are_new, copied
from dasksim._engine._mixed_numbers import sometimes_float
from dasksim._engine._outputs import (
    PaddedRows,
    checked,
    columns_of,
    describe_rows,
    known_labels,
    labels_in,
    loose_dims,
    rows_alike,
    stacked,
    with_labels,
    without_labels,
)
from dasksim._engine.functions import FunctionStage, arrays_of, without_exit
from dasksim._engine.stage import Binding, SubBatch
from dasksim._streams.addresses import PROBE_SUB_BATCH
from dasksim._streams.cells import CellStreams, Moves
from dasksim.errors import OutputError

__all__ = ["RowStage"]

Array = npt.NDArray[Any]

# What stands among the rows for one that has failed.
_FAILED: Any = object()


@dataclass(frozen=True)
class _Rows:
    """What a function returned for some cells, row by row and by name."""

    cells: Sequence[int]
    rows: list[Any]
    columns: dict[str, list[Any]]
    labels: dict[str, Labels]


class RowStage(FunctionStage):
    """A function that is called once for each sample (and further batch axis).

    Attributes
    ----------
    seconds
        How long the calls of its latest probe took.
    """

    seconds = 0.0

    is_batched = False
    is_by_cell = True
    takes_padded = True
    how_often = "once for each sample"

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        self.seconds = 0.0
        made = self._rows(binding, batch)
        variables = with_labels(describe_rows(made.rows, self.name), made.labels)
        if any(v.is_python and v.dtype.kind in "bi" for v in variables):
            mixed = sometimes_float(self.function.function)
            variables = tuple(
                replace(v, dtype=np.dtype("float64")) if v.is_python and v.dtype.kind in "bi" and v.name in mixed else v
                for v in variables
            )
        return variables, self._stack(made, batch, variables)

    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        return self._stack(self._rows(binding, batch, outputs), batch, outputs)

    def _offered(self) -> frozenset[str]:
        return RESERVED - {"batch_shape"}

    def _rows(self, binding: Binding, batch: SubBatch, variables: Sequence[Variable] | None = None) -> _Rows:
        """Return what the function returns for the cells of rows that have not failed, as it stays.

        Labels are those that its variables are known to have, else those of the first row.
        """
        labels, loose = known_labels(variables or ()), loose_dims(variables or ())
        forget = batch.failures.mark() if batch.failures is not None else None

        def work(copies: bool) -> _Rows:
            if copies and forget is not None:
                # all rows are called again, and those that failed would be counted twice
                forget()
            cells, rows = self._returned_rows(binding, batch, copies)
            if variables is None and rows:
                labels.update(labels_in(rows[0], self.name, 0))
            if labels:
                where = [f"stage {self.name!r} at {batch.row_of(cell)}" for cell in cells]
                rows = [without_labels(row, labels, at, loose) for at, row in zip(where, rows)]
            return _Rows(cells, rows, columns_of(rows), labels)

        def is_kept(made: _Rows) -> bool:
            if are_new(made.rows, made.columns):
                return False
            # these lists hold the values too, and would be counted among their holders
            made.columns.clear()
            if are_kept(made.rows, arrays_of(batch)):
                return True
            made.columns.update(columns_of(made.rows))
            return False

        return self._turns.run(work, is_kept)

    def _returned_rows(self, binding: Binding, batch: SubBatch, copies: bool) -> tuple[Sequence[int], list[Any]]:
        cells: Sequence[int] = range(batch.n_cells)
        is_called: Array | None = None
        if batch.failures is not None and batch.failures.is_lenient and (failed := batch.failures.failed).any():
            is_called = np.repeat(~failed, batch.cells_per_row)
            cells = np.flatnonzero(is_called).tolist()
        if not cells:
            return cells, []
        streams = CellStreams(batch.address, batch.cells if is_called is None else batch.cells.select(is_called))
        columns, moves = self._columns(binding, batch, streams, is_called)
        arguments: Iterator[Any] = itertools.repeat(())
        if binding.positional:
            arguments = zip(*(columns[name] for name in binding.positional))
        if binding.keyword:
            keywords = (dict(zip(binding.keyword, more)) for more in zip(*(columns[n] for n in binding.keyword)))
            arguments = zip(arguments, keywords)
        with self.function.at_cells(streams, watch=batch.watch) as (function, moves_more):
            # each takes the next arguments before it moves, and starmap calls the function right after
            for move in filter(None, (moves, moves_more)):
                arguments = move(arguments)
            called = _with_keywords(function) if binding.keyword else function
            called = _with_copies(called) if copies else called
            called = self._timed(called) if batch.place.sub_batch == PROBE_SUB_BATCH else called
            # arguments that all rows share are repeated without end
            return self._called(called, itertools.islice(arguments, len(cells)), batch, cells)

    def _called(
        self, function: Callable[..., Any], arguments: Iterator[Any], batch: SubBatch, cells: Sequence[int]
    ) -> tuple[Sequence[int], list[Any]]:
        # a loop in C; after an exception it goes on with the next arguments, and what it has returned so far is kept
        calls = itertools.starmap(function, arguments)
        rows: list[Any] = []
        has_failed = False
        while len(rows) < len(cells):
            try:
                without_exit(rows.extend, calls)
                if len(rows) < len(cells):
                    # to starmap it is the end of the arguments, and would cut the rows short
                    raise RuntimeError(f"stage {self.name!r} raised StopIteration")
            except Exception as error:
                cell = cells[len(rows)]
                row, cell_in_row = divmod(cell, batch.cells_per_row)
                if not batch.fails(row, self.name, error):
                    self._say_where(error, batch, cell)
                    raise
                # a row fails as a whole: its other cells are passed over
                rest = list(itertools.islice(arguments, batch.cells_per_row - cell_in_row - 1))
                rows += [_FAILED] * (1 + len(rest))
                has_failed = True
        if has_failed:
            cells = [cell for cell, made in zip(cells, rows) if made is not _FAILED]
            rows = [made for made in rows if made is not _FAILED]
        return cells, rows

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that adds to the time of the probe what calls take, without what leads to them."""

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            made = function(*arguments)
            self.seconds += time.perf_counter() - start
            return made

        return timed

    def _say_where(self, error: Exception, batch: SubBatch, cell: int) -> None:
        """Add to an exception at which row it was raised, and for which inputs; a probe's rows are nobody's."""
        if batch.place.sub_batch == PROBE_SUB_BATCH:
            return
        inputs = batch.inputs_of(cell)
        where = f"raised by stage {self.name!r} at {batch.row_of(cell)}"
        error.add_note(f"{where}, whose inputs are {inputs}" if inputs else where)

    def _drawn(self, asked: Collection[str], batch: SubBatch) -> dict[str, Any]:
        return {}  # each cell has its own

    def _columns(
        self, binding: Binding, batch: SubBatch, streams: CellStreams, is_called: Array | None
    ) -> tuple[dict[str, Iterable[Any]], Moves | None]:
        """Return the values of each argument, one a cell that is called, and what puts `rng` on each cell's stream."""
        columns: dict[str, Iterable[Any]] = {}
        for name, value in self._values(binding, batch).items():
            if name in batch.rows:
                column = value.reshape(batch.n_cells, *value.shape[len(batch.axes) :])
                column = column if is_called is None else column[is_called]
                columns[name] = column.tolist() if name in batch.python else column
                if name in batch.shapes:
                    shapes = batch.shapes[name] if is_called is None else batch.shapes[name][is_called]
                    columns[name] = [row[tuple(map(slice, shape))] for row, shape in zip(column, shapes.tolist())]
            else:
                columns[name] = itertools.repeat(value)
        moves: Moves | None = None
        asked = set(binding.names) - set(columns)
        if not asked.isdisjoint({"rng", "random_state"}):
            rng, moves = streams.generator()
            columns["rng"] = itertools.repeat(rng)
            # a new one for each cell, since it holds back the second of two normals; it draws from where rng does
            columns["random_state"] = (np.random.RandomState(rng.bit_generator) for _ in itertools.count())
        if "seed" in asked:
            columns["seed"] = streams.seeds()
        if "seed32" in asked:
            columns["seed32"] = streams.seeds32()
        return columns, moves

    def _stack(self, made: _Rows, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        """Turn a list of dicts into a dict of arrays: all rows at a glance or, where that is not enough, one by one."""
        cells, rows = made.cells, made.rows
        arrays = stacked(made.columns, outputs) if rows else {}
        if arrays is None:
            one_by_one = [self._checked(row, batch, cell, outputs) for cell, row in zip(cells, rows)]
            arrays = {v.name: rows_alike([row[v.name] for row in one_by_one], v) for v in outputs}
        if len(cells) < batch.n_cells:
            arrays = {v.name: _scattered(arrays.get(v.name), cells, batch.n_cells, v) for v in outputs}
        return {
            v.name: arrays[v.name].astype(v.dtype, copy=False).reshape(*batch.axes, *arrays[v.name].shape[1:])
            for v in outputs
        }

    def _checked(self, made: Any, batch: SubBatch, cell: int, outputs: Sequence[Variable]) -> dict[str, Array]:
        try:
            return checked(made, f"stage {self.name!r} at {batch.row_of(cell)}", outputs, ())
        except OutputError as error:
            batch.fails(cell // batch.cells_per_row, self.name, error)
            raise


def _with_keywords(function: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    return lambda values, more: function(*values, **more)


def _with_copies(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: copied(function(*values))


def _scattered(values: Array | None, cells: Sequence[int], n_cells: int, variable: Variable) -> Array:
    """Return values at their cells, among others that are zero."""
    shape = variable.shape if values is None else values.shape[1:]
    array = np.zeros((n_cells, *shape), variable.dtype)
    if values is None:
        return array
    array[cells] = values
    if isinstance(values, PaddedRows):
        padded, finite = array.view(PaddedRows), np.ones(n_cells, bool)
        finite[cells] = values.finite
        shapes = np.zeros((n_cells, len(variable.shape)), np.int64)
        shapes[cells] = values.shapes
        padded.finite, padded.shapes = finite, shapes
        return padded
    return array

"""Stages of a function that is called once for each sample, and that Numba compiles, with the loop over the samples."""

import contextlib
import contextvars
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt

from dasksim._core.variables import Variable
from dasksim._engine._numba_source import Source, fingerprint, returning_tuples, source_of
from dasksim._engine.row_functions import RowStage
from dasksim._engine.stage import Binding, SubBatch
from dasksim._streams.cells import Cells, CellStreams
from dasksim.errors import ArgumentError, SimulatorError

__all__ = ["CompiledStage", "plainly"]

Array = npt.NDArray[Any]

# Samples of a probe that are compared with those of the plain function.
_N_COMPARED = 100

# Whether the plain functions are called.
_calls_plain = contextvars.ContextVar("calls_plain", default=False)

# Loops that were compiled in this process: to compile one takes seconds, and a stage is made anew for each call.
_loops: dict[str, "_Loop"] = {}


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Have plain functions called in the block, and no compiled ones."""
    token = _calls_plain.set(True)
    try:
        yield
    finally:
        _calls_plain.reset(token)


class CompiledStage(RowStage):
    """A function that is called once for each sample, compiled by Numba.

    It gives the bits of the plain function: both are compared at the probe, and again by an audit, which calls the
    plain one. Where the compiled one raises an exception, the plain one is called, and says what is wrong.
    """

    takes_padded = False  # the loop is given whole arrays

    def __init__(self, name: str, function: Callable[..., Any], declared: tuple[Variable, ...] | None = None) -> None:
        super().__init__(name, function, declared)
        self._plain = function
        self._lines = source_of(function, name)
        self._compiled_loop: tuple[Any, _Loop] | None = None

    @property
    def kind(self) -> str:
        return RowStage.__name__  # its values are the same

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        variables, values = super().probe(binding, batch)
        many, expected = self._plain_of_many(binding, batch, variables)
        made = self._compiled(binding, many, variables)
        n_rows = many.axes[0]
        for name in made:
            differs = [i for i in range(n_rows) if made[name][i].tobytes() != expected[name][i].tobytes()]
            if differs:
                raise SimulatorError(
                    f"stage {self.name!r} gives other values when Numba compiles it: of {n_rows} samples "
                    f"{len(differs)} differ in {name!r}, which is {made[name][differs[0]]} where the function returns "
                    f"{expected[name][differs[0]]}. NumPy and Numba round some functions differently: take those of "
                    "math (math.exp for np.exp) for single numbers, and loops for sums and products of arrays; draw "
                    "from rng alone. Or leave compile= out"
                )
        start = time.perf_counter()
        self._compiled(binding, many, variables)
        self.seconds = (time.perf_counter() - start) / n_rows * batch.axes[0]
        return variables, values

    def _plain_of_many(
        self, binding: Binding, batch: SubBatch, variables: Sequence[Variable]
    ) -> tuple[SubBatch, dict[str, Array]]:
        """Return the inputs of a probe on many streams, and what the plain function makes of them."""
        n = _N_COMPARED
        while True:
            many = _repeated(batch, n)
            try:
                return many, super().simulate(binding, many, variables)
            except Exception:  # on some streams it may, and on the first one it has not
                if n == 1:
                    raise
                n //= 2

    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        has_failed = batch.failures is not None and batch.failures.failed.any()
        if _calls_plain.get() or has_failed:
            return super().simulate(binding, batch, outputs)
        try:
            return self._compiled(binding, batch, outputs)
        except (ArgumentError, SimulatorError):
            raise
        except Exception:  # noqa: BLE001  (Numba tells neither the sample nor the line)
            return super().simulate(binding, batch, outputs)

    def _compiled(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        """Return what the compiled function makes of all cells."""
        compiled = self._loop(binding, batch)
        streams = CellStreams(batch.address, batch.cells)
        generator, memory, states = streams.in_memory()
        values: dict[str, Any] = {"rng": generator, **batch.shared, **batch.rows}
        given = []
        for name in (*binding.positional, *binding.keyword):
            value = values[name]
            if name in batch.rows:
                value = np.ascontiguousarray(value.reshape(batch.n_cells, *value.shape[len(batch.axes) :]))
            given.append(value)
        by_name = {v.name: np.empty((batch.n_cells, *v.shape), v.dtype) for v in outputs}
        compiled.run(self.name, (memory, states, *given), [by_name[name] for name in compiled.outputs])
        return {name: array.reshape(*batch.axes, *array.shape[1:]) for name, array in by_name.items()}

    def _loop(self, binding: Binding, batch: SubBatch) -> "_Loop":
        names = (*binding.positional, *binding.keyword)
        is_row = tuple(name in batch.rows for name in names)
        # not for each sub-batch: what it reads is as it was when the stage was made
        if self._compiled_loop is None or self._compiled_loop[0] != (names, is_row):
            try:
                content = cloudpickle.dumps((fingerprint(self._plain), names, is_row))
            except Exception as error:  # of whatever kind that object has
                raise SimulatorError(
                    f"stage {self.name!r} cannot be compiled: it reads what is no constant ({error})"
                ) from error
            key = hashlib.blake2b(content, digest_size=16).hexdigest()
            if key not in _loops:
                _loops[key] = _Loop(self._plain, self._lines, self.name, names, is_row)
            self._compiled_loop = (names, is_row), _loops[key]
        return self._compiled_loop[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_compiled_loop": None}  # compiled anew in each process


class _Loop:
    """A compiled function, and the loop over cells that calls it.

    Parameters
    ----------
    function, source, stage
        The function, its source, and its stage.
    names
        The names of its arguments.
    is_row
        Which of them have a value for each cell.

    Attributes
    ----------
    outputs
        The names of what it returns.
    """

    def __init__(
        self, function: Callable[..., Any], source: Source, stage: str, names: Sequence[str], is_row: Sequence[bool]
    ) -> None:
        try:
            import numba
        except ImportError as error:
            raise ArgumentError(
                f"stage {stage!r} is to be compiled, for which Numba is needed: pip install 'dasksim[numba]'"
            ) from error
        asked = {"seed", "seed32", "random_state", "batch_shape", "xp"} & set(names)
        if asked:
            raise SimulatorError(f"stage {stage!r} cannot be compiled with {', '.join(sorted(asked))}; take rng")
        self._numba = numba
        self._n_checked = 0
        # threads of a lazy dataset run at the same time
        jit = functools.partial(numba.njit, nogil=True)
        inner, self.outputs = returning_tuples(function, source, stage, jit)
        self._inner = jit(inner)
        self._check_shape = jit(_check_shape)
        self._call = jit(self._written(names, is_row))

    def _written(self, names: Sequence[str], is_row: Sequence[bool]) -> Callable[..., Any]:
        """Return the loop as Python."""
        arguments = [f"{n}=a{i}[i]" if row else f"{n}=a{i}" for i, (n, row) in enumerate(zip(names, is_row))]
        made = [f"o{i}" for i in range(len(self.outputs))]
        code = [
            f"def loop(memory, states, {', '.join([*(f'a{i}' for i in range(len(names))), *made])}):",
            "    for i in range(states.shape[0]):",
            "        for k in range(5):",
            "            memory[k] = states[i, k]",
            f"        made = function({', '.join(arguments)})",
        ]
        for i, name in enumerate(made):
            code += [f"        check_shape(made[{i}], {name})", f"        {name}[i] = made[{i}]"]
        namespace: dict[str, Any] = {"function": self._inner, "check_shape": self._check_shape}
        exec("\n".join(code), namespace)
        loop: Callable[..., Any] = namespace["loop"]
        return loop

    def run(self, stage: str, given: Sequence[Any], outputs: Sequence[Array]) -> None:
        """Fill arrays with what the function returns.

        Raises
        ------
        SimulatorError
            If Numba cannot compile it, or gives what it returns another dtype.
        """
        try:
            self._call(*given, *outputs)
        except self._numba.errors.NumbaError as error:
            raise SimulatorError(
                f"stage {stage!r} cannot be compiled by Numba; leave compile= out for it, or see:\n{error}"
            ) from error
        signatures = self._inner.nopython_signatures
        for signature in signatures[self._n_checked :]:
            for name, kind, array in zip(self.outputs, signature.return_type.types, outputs, strict=True):
                # numbers of two types are of the wider one to Numba, and would be cut without a word
                found, wanted = getattr(kind, "dtype", kind), self._numba.from_dtype(array.dtype)
                if found != wanted:
                    raise SimulatorError(
                        f"stage {stage!r} returns {name!r} as {wanted}, and Numba finds that it may be {found}; return "
                        "one type, such as 1.0 in place of 1"
                    )
        self._n_checked = len(signatures)


def _check_shape(made: Any, rows: Array) -> None:
    """Refuse what would be spread over a row; compiled."""
    if np.shape(made) != rows.shape[1:]:
        raise RuntimeError("the shape of an output differs between samples")


def _repeated(batch: SubBatch, n: int) -> SubBatch:
    """Return a sub-batch of the first row, on as many streams."""
    place = replace(batch.place, full_rows=n, cells=Cells(range(n)))
    rows = {name: np.repeat(value[:1], n, axis=0) for name, value in batch.rows.items()}
    return replace(batch, place=place, axes=(n, *batch.axes[1:]), rows=rows)

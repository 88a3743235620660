"""Run a stage on one or two samples, to find its schema before anything is simulated."""

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.blas import one_blas_thread
from dasksim._core.variables import Variable
from dasksim._engine.evaluation import explain
from dasksim._engine.functions import FunctionStage, without_exit
from dasksim._engine.row_functions import RowStage
from dasksim._engine.stage import Place, SubBatch
from dasksim._engine.steps import Lowering, Step, sub_batch_of
from dasksim._streams.addresses import PROBE_SUB_BATCH
from dasksim._streams.cells import Cells

__all__ = ["Probe", "ProbeCache", "Probing", "digest_text", "probe_rows"]

Array = npt.NDArray[Any]

# Probes that a simulator remembers at most: those of one call, and not those of all calls with other conditions.
_MOST_PROBES = 256


@dataclass(frozen=True)
class Probe:
    """What a stage returned, and what was found out of it.

    Parameters
    ----------
    variables, values
        The variables that it makes, and their values.
    digest
        A digest of the values, or None if they are not reproducible.
    uses_globals
        Whether a function uses the global generators.
    keeps_outputs
        Whether its function keeps what it returns.
    seconds
        How long its function took for a row, if it is called for each.
    """

    variables: tuple[Variable, ...]
    values: Mapping[str, Array]
    digest: str | None
    uses_globals: bool
    keeps_outputs: bool
    seconds: float


class ProbeCache:
    """What probes found, by stage and by the bits of what they were given; those not used for longest are forgotten."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[Any, ...], Probe] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def clear(self) -> None:
        """Forget all."""
        self._found.clear()

    def get(self, key: tuple[Any, ...], run: Callable[[], Probe]) -> Probe:
        """Return what was found, or run the probe."""
        probe = self._found.pop(key, None) or run()
        self._found[key] = probe  # the latest is last; each step is safe among threads
        while len(self._found) > _MOST_PROBES:
            self._found.popitem(last=False)
        return probe


@dataclass(frozen=True)
class Probing:
    """What all probes of one call have in common.

    Parameters
    ----------
    n_samples
        Length of the batch axis.
    seed
        The seed in force; contexts are drawn with it.
    sub_batch
        The sub-batch whose contexts are drawn.
    sub_batch_size
        The rows of a sub-batch, once they are known.
    cache
        Earlier probes of the same simulator.
    n_rows
        The rows of a probe.
    attempt
        Number of the attempt at a probe that raises no exception.
    """

    n_samples: int
    seed: int
    sub_batch: int
    sub_batch_size: int | None
    cache: ProbeCache
    n_rows: int
    attempt: int = 0

    @property
    def rows(self) -> slice:
        """The samples whose conditions are used."""
        start = self.attempt * self.n_rows % self.n_samples
        return slice(start, min(start + self.n_rows, self.n_samples))

    def run(self, step: Step, inputs: Mapping[str, tuple[Variable, Any]]) -> tuple[Probe, tuple[int, ...]]:
        """Return what is found of a stage, and the sizes of its plates.

        A stage that makes contexts runs at the address of the sub-batch, others on a stream that no dataset reaches.
        """
        stage, n_rows = step.stage, self.n_rows
        place = Place(0, PROBE_SUB_BATCH, 0, n_rows, Cells(range(n_rows)), self.attempt)
        if stage.makes_contexts:
            # contexts that are made beside rows may follow draws for all rows of the sub-batch
            if not stage.is_context and self.sub_batch_size is not None:
                n_rows = self.sub_batch_size
            place = Place(self.seed, self.sub_batch, 0, n_rows, Cells(range(n_rows)))
        batch = sub_batch_of(step, place, n_rows, inputs, watch=True)
        key = (stage.name, stage.declared, batch.address, batch.axes, _signature({**batch.rows, **batch.shared}))
        probe = self.cache.get(key, lambda: _run_twice(step, batch))
        # stages are made anew for each call, and know nothing of an earlier probe
        for function in stage.functions:
            function.uses_globals |= probe.uses_globals
        if isinstance(stage, FunctionStage):
            stage.keeps_outputs |= probe.keeps_outputs
        values = dict(probe.values)
        if n_rows > self.n_rows:
            shared = {v.name for v in probe.variables if v.is_shared}
            values = {name: value if name in shared else value[: self.n_rows] for name, value in values.items()}
        return replace(probe, values=values), batch.axes[1:]


def probe_rows(lowering: Lowering) -> int:
    """Return the rows of a probe: two where a function is batched, so that its axes can be told apart."""
    return 2 if any(stage.is_batched and not stage.is_context for stage in lowering.stages) else 1


def _run_twice(step: Step, batch: SubBatch) -> Probe:
    """Probe a stage, and again with the same seed to notice randomness that no seed reaches."""
    stage = step.stage
    try:
        with one_blas_thread():
            variables, values = without_exit(stage.probe, step.binding, batch)
            seconds = stage.seconds if isinstance(stage, RowStage) else 0.0
            again = without_exit(stage.probe, step.binding, batch)
        # the shorter one: the first may import and compile, and either may be held up
        seconds = min(seconds, stage.seconds) if isinstance(stage, RowStage) else 0.0
    except Exception as error:
        explain(error, f"while stage {stage.name!r} was probed, before any sample was simulated")
        raise
    is_same = _signature(again[1]) == _signature(values)
    if not is_same:
        warnings.warn(
            f"stage {stage.name!r} returned different values for one and the same seed: it draws from a source that "
            "dasksim cannot seed, such as default_rng() inside the function, os.urandom or compiled code. Its samples "
            "will not be reproducible; take `rng` as an argument and draw from that, or `seed` and use it",
            UserWarning,
            stacklevel=2,
        )
    digest = digest_text(repr(_signature(values))) if is_same else None
    keeps = isinstance(stage, FunctionStage) and stage.keeps_outputs
    uses_globals = any(f.uses_globals for f in stage.functions)
    return Probe(variables, values, digest, uses_globals, keeps, seconds / batch.axes[0])


def digest_text(text: str) -> str:
    """Return a short digest."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _signature(values: Mapping[str, Any]) -> tuple[Any, ...]:
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return tuple((name, a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items())

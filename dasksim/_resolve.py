"""Bind stages to each other and to the conditions, and find the schema by probes.

A probe runs a stage on one or two samples of a stream of its own. Nothing of a dataset is simulated here.
"""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt

from dasksim._conditions import Condition, pad_rows, read_conditions
from dasksim._labels import batch_dims, check_dims, feature_dims
from dasksim._pipeline import Lowering, Pipeline, Step, explain
from dasksim._schema import RESERVED, Variable
from dasksim._stage import SubBatch
from dasksim._streams import PROBE_SUB_BATCH, Address
from dasksim.errors import ArgumentError, ArgumentTypeError, SimulatorError, nearest

__all__ = ["ProbeCache", "resolve"]

Array = npt.NDArray[Any]

#: What probes returned, by stage and by the bits of what they were given.
ProbeCache = dict[tuple[Any, ...], tuple[tuple[Variable, ...], dict[str, Array], str | None, bool]]


def resolve(
    lowering: Lowering,
    conditions: Mapping[str, Any],
    shape: tuple[int, ...],
    seed: int,
    cache: ProbeCache | None = None,
) -> Pipeline:
    """Bind stages to each other and to the conditions, and find the schema.

    Parameters
    ----------
    lowering
        What the simulator lowers to.
    conditions
        What the caller gives.
    shape
        The batch shape.
    seed
        The seed in force; contexts of the first sub-batch are drawn with it.
    cache
        Earlier probes of the same simulator.

    Raises
    ------
    SimulatorError
        If the stages do not fit together.
    ArgumentError, ArgumentTypeError
        If a condition does not fit, or has a name that nothing takes or makes.
    """
    return _Resolver(lowering, read_conditions(conditions, shape), shape, seed, {} if cache is None else cache).run()


class _Resolver:
    def __init__(
        self,
        lowering: Lowering,
        conditions: dict[str, Condition],
        shape: tuple[int, ...],
        seed: int,
        cache: ProbeCache,
    ) -> None:
        self.lowering = lowering
        self.conditions = conditions
        self.shape = shape
        self.seed = seed
        self.cache = cache
        self.steps: list[Step] = []
        self.made: dict[str, int] = {}
        self.probed: dict[int, dict[str, Array]] = {}
        self.n_rows = 2 if any(stage.is_batched and not stage.is_context for stage in lowering.stages) else 1

    def run(self) -> Pipeline:
        for index, stage in enumerate(self.lowering.stages):
            binding = stage.bind([*self.conditions, *(name for name in self.made if name not in self.conditions)])
            sources = {name: self._source(name) for name in binding.inputs}
            step = Step(stage, binding, sources, stage.declared or ())
            self.steps.append(step)
            self._add(index, stage.declared or self._probe(index)[0])
        self._check_names()
        self._check_use()
        return self._pipeline()

    def _source(self, name: str) -> int | None:
        if name in self.conditions and (self.lowering.replace_inputs or name not in self.made):
            return None
        return self.made[name]

    def _add(self, index: int, outputs: tuple[Variable, ...]) -> None:
        step = self.steps[index]
        for variable in outputs:
            other = self.made.setdefault(variable.name, index)
            if other != index:
                raise SimulatorError(
                    f"stages {self.steps[other].stage.name!r} and {step.stage.name!r} both make the variable "
                    f"{variable.name!r}; rename one of them"
                )
        if self.lowering.expand_outputs:
            outputs = tuple(v if v.is_shared else v.expanded() for v in outputs)
        for variable in outputs:
            if variable.name in self.conditions and self.lowering.replace_inputs:
                dims = feature_dims(variable, self.lowering.dims)
                condition = self.conditions[variable.name]
                self.conditions[variable.name] = condition.standing_for(variable, self.shape, dims)
        is_run = not self.lowering.replace_inputs or not all(v.name in self.conditions for v in outputs)
        self.steps[index] = replace(step, outputs=outputs, is_run=is_run)

    def _probe(self, index: int) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        """Run a stage on a few rows of a stream of its own; a context on that of the first sub-batch."""
        step = self.steps[index]
        rows: dict[str, Array] = {}
        shared: dict[str, Any] = {}
        python = set()
        for name, source in step.sources.items():
            variable, value = self._probe_input(name, source)
            (shared if variable.is_shared else rows)[name] = value
            if variable.is_python:
                python.add(name)
        stage = step.stage
        address = Address(self.seed, stage.key, 0) if stage.is_context else Address(0, stage.key, PROBE_SUB_BATCH)
        batch = SubBatch(address, (self.n_rows, *self.shape[1:]), rows, shared, frozenset(python), watch=True)
        key = (stage.name, stage.declared, address, batch.axes, _signature({**rows, **shared}))
        if key not in self.cache:
            self.cache[key] = (*_run_twice(step, batch), stage.function.uses_globals)
        variables, values, digest, uses_globals = self.cache[key]
        stage.function.uses_globals |= uses_globals
        self.steps[index] = replace(self.steps[index], probe_digest=digest)
        return variables, values

    def _probe_input(self, name: str, source: int | None) -> tuple[Variable, Any]:
        if source is None and name in self.made and isinstance(self.conditions[name].values, da.Array):
            source = self.made[name]  # what its stage made of the probe stands in, so that nothing is computed
        if source is None:
            condition = self.conditions[name]
            n_rows = min(self.n_rows, self.shape[0])
            value = condition.rows(slice(0, n_rows), self.shape[1:])
            if not condition.variable.is_shared:
                value = pad_rows(np.asarray(value), self.n_rows)
                value.flags.writeable = False
            return condition.variable, value
        if source not in self.probed:
            self.probed[source] = self._probe(source)[1]
        variable = next(v for v in self.steps[source].outputs if v.name == name)
        value = self.probed[source][name].view()
        value.flags.writeable = False
        if variable.is_shared:
            value = value.item() if variable.is_python else value[()]
        return variable, value

    def _check_names(self) -> None:
        taken = {name for stage in self.lowering.stages for name in stage.names} - RESERVED
        if any(stage.takes_all for stage in self.lowering.stages):
            return
        for name in self.conditions:
            if name not in self.made and name not in taken:
                known = [*self.made, *sorted(taken - set(self.made))]
                raise ArgumentTypeError(
                    f"the simulator has no variable or argument {name!r} to give a value; {nearest(name, known)}"
                )

    def _check_use(self) -> None:
        """Refuse a condition that changes nothing: with ``replace_inputs=False``, stages before its own see it."""
        used = {name for step in self.steps for name, source in step.sources.items() if source is None}
        for name in self.conditions:
            if name in self.made and name not in used and not self.lowering.replace_inputs:
                raise ArgumentError(
                    f"condition {name!r} changes nothing: with replace_inputs=False only the stages before "
                    f"{self.steps[self.made[name]].stage.name!r}, which makes it, see it, and none takes it"
                )

    def _pipeline(self) -> Pipeline:
        sources = {name: self._source(name) for name in [*self.made, *self.conditions]}
        made = {v.name: v for step in self.steps for v in step.outputs}
        variables = tuple(made[name] if name in made else self.conditions[name].variable for name in sources)
        dims, coords = self.lowering.dims, self.lowering.coords
        used = check_dims(variables, dims, coords, batch_dims(len(self.shape)))
        return Pipeline(
            steps=self._with_full_steps(),
            conditions=self.conditions,
            variables=variables,
            sources=sources,
            dims=used,
            coords={dim: np.asarray(values) for dim, values in coords.items()},
            further=self.shape[1:],
        )

    def _with_full_steps(self) -> tuple[Step, ...]:
        is_full = [step.stage.is_batched for step in self.steps]
        for index in reversed(range(len(self.steps))):
            if is_full[index] and self.steps[index].is_run:
                for source in self.steps[index].upstream:
                    is_full[source] = True
        return tuple(replace(step, is_full=full) for step, full in zip(self.steps, is_full, strict=True))


def _run_twice(step: Step, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array], str | None]:
    """Probe a stage, and again with the same seed to notice randomness that no seed reaches.

    The third result is a digest of the values, or None if they differ.
    """
    stage = step.stage
    try:
        variables, values = stage.probe(step.binding, batch)
        again = stage.probe(step.binding, batch)
    except Exception as error:
        explain(error, f"while stage {stage.name!r} was probed, before any sample was simulated")
        raise
    if _signature(again[1]) != _signature(values):
        warnings.warn(
            f"stage {stage.name!r} returned different values for one and the same seed: it draws from a source that "
            "dasksim cannot seed, such as default_rng() inside the function, os.urandom or compiled code. Its samples "
            "will not be reproducible; take `rng` as an argument and draw from that",
            UserWarning,
            stacklevel=2,
        )
        return variables, values, None
    return variables, values, hashlib.blake2b(repr(_signature(values)).encode(), digest_size=8).hexdigest()


def _signature(values: Mapping[str, Any]) -> tuple[Any, ...]:
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return tuple((name, a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items())

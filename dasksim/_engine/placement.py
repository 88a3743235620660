"""Which steps of a pipeline run on a GPU, and where arrays cross to the host and back.

An array crosses as a step of its own, once for each variable and direction, however many steps take it there: so it is
an edge of the Dask graph like any other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from dasksim._core.arrays import device_named
from dasksim._core.variables import Variable
from dasksim._engine.nested import NestedStage
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.stage import Binding, Stage, SubBatch
from dasksim._engine.steps import Step
from dasksim._streams.isolation import Isolated

__all__ = ["TransferStage", "can_use_gpu", "on_device"]


class TransferStage(Stage):
    """Copies a variable to another device.

    Parameters
    ----------
    variable
        Name of the variable.
    device
        The kind of device it goes to.
    """

    is_batched = True
    is_transfer: ClassVar[bool] = True
    needs_whole = False
    how_often: ClassVar[str] = "once for each sub-batch"

    def __init__(self, variable: str, device: str) -> None:
        super().__init__(f"{variable}-to-{device}")
        self.variable = variable
        self.device = device

    @property
    def names(self) -> tuple[str, ...]:
        return (self.variable,)

    @property
    def functions(self) -> tuple[Isolated, ...]:
        return ()

    def bind(self, known: Iterable[str]) -> Binding:
        return Binding((), self.names)

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Any]]:
        raise RuntimeError("a pipeline is placed after it has been probed")

    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Any]:
        return {self.variable: device_named(self.device).put(batch.rows[self.variable])}


def can_use_gpu(pipeline: Pipeline) -> bool:
    """Whether any step of a pipeline, or of one inside it, can run on a GPU."""
    return any(
        step.is_run
        and (can_use_gpu(step.stage.pipeline) if isinstance(step.stage, NestedStage) else _can_use_gpu(step))
        for step in pipeline.steps
    )


def _can_use_gpu(step: Step) -> bool:
    """Whether a step can run on a GPU; the global generators, ``xp.random`` among them, are seeded on the host only."""
    return step.is_run and step.stage.can_use_gpu and not any(f.uses_globals for f in step.stage.functions)


def on_device(pipeline: Pipeline, device: str) -> Pipeline:
    """Return a pipeline whose stages run on a kind of device if they can, and else on the host.

    Stages that hold others take and make arrays of the host; those inside may run on the device.
    """
    return pipeline if device == "cpu" else _Placing(pipeline, device).placed()


class _Placing:
    """Places one pipeline: numbers its steps anew, among those that copy variables."""

    def __init__(self, pipeline: Pipeline, device: str) -> None:
        self.pipeline = pipeline
        self.device = device
        self.steps: list[Step] = []
        self.number: dict[int | None, int | None] = {None: None}  # of a step among the new ones
        self.copies: dict[tuple[str, int | None, str], int] = {}

    def placed(self) -> Pipeline:
        for index, step in enumerate(self.pipeline.steps):
            stage = step.stage
            if isinstance(stage, NestedStage):
                stage = stage.placed(on_device(stage.pipeline, self.device))
            place = self.device if _can_use_gpu(step) else "cpu"
            sources = {name: self._source(name, source, place, step) for name, source in step.sources.items()}
            self.number[index] = len(self.steps)
            self.steps.append(replace(step, stage=stage, sources=sources, device=place))
        sources = {name: self.number[source] for name, source in self.pipeline.sources.items()}
        return replace(self.pipeline, steps=tuple(self.steps), sources=sources, device=self.device)

    def _source(self, name: str, source: int | None, place: str, taker: Step) -> int | None:
        """Return the new number of the step that has a variable at a place, which may have to be added."""
        made = self.number[source]
        variable = self.pipeline.variable(name, source)
        is_there = place == ("cpu" if made is None else self.steps[made].device)
        # contexts are small, and cross wherever a function takes them
        if is_there or variable.is_shared or not taker.is_run:
            return made
        key = (name, made, place)
        if key not in self.copies:
            self.copies[key] = len(self.steps)
            stage = TransferStage(name, place)
            sources: Mapping[str, int | None] = {name: made}
            is_full = made is None or self.steps[made].is_full  # a condition is as long as anyone needs
            self.steps.append(Step(stage, stage.bind(()), sources, (variable,), is_full=is_full, device=place))
        return self.copies[key]

"""Show a simulator: its stages, and the variables of a sample."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from dasksim._engine.nested import NestedStage
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.steps import Lowering

__all__ = ["VariableInfo", "draw", "rows_of", "schema_of"]


class VariableInfo(NamedTuple):
    """What is known of a variable before it is simulated.

    Parameters
    ----------
    dims
        Names of the axes of one sample: all of the dataset but ``batch``.
    shape
        Their sizes; of padded ones the largest.
    dtype
        Type of the values.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        sizes = ", ".join(f"{dim}: {size}" for dim, size in zip(self.dims, self.shape, strict=True))
        return f"({sizes}) {self.dtype}"


def schema_of(pipeline: Pipeline) -> dict[str, VariableInfo]:
    """Return what is known of the variables of a pipeline, by name."""
    return {
        v.name: VariableInfo(pipeline.array_dims(v)[1:], pipeline.array_shape(v), v.dtype) for v in pipeline.variables
    }


def rows_of(lowering: Lowering, depth: int = 0) -> Iterator[tuple[int, str, str, str]]:
    """Return a line for each stage: how deep it is nested, its name, its arguments and how often it is called."""
    n_inner = 0
    for stage in lowering.stages:
        arguments = [*stage.names, *(["**kwargs"] if stage.takes_all else [])]
        yield depth + (n_inner > 0), stage.name, ", ".join(arguments), stage.how_often
        n_inner -= n_inner > 0
        if isinstance(stage, NestedStage):
            n_inner = stage.span or n_inner
            if not stage.span:
                yield from rows_of(stage.lowering_of([]), depth + (n_inner > 0) + 1)


def draw(pipeline: Pipeline) -> Any:
    """Return a pipeline as a ``graphviz.Digraph``.

    Raises
    ------
    ImportError
        If the package graphviz is not installed.
    """
    try:
        import graphviz
    except ImportError as error:
        error.add_note("visualize needs the package graphviz: pip install 'dasksim[graphviz]'; repr needs nothing")
        raise
    graph = graphviz.Digraph(node_attr={"shape": "box"})
    for index, step in enumerate(pipeline.steps):
        plates = ", ".join(f"{plate.name}: {plate.size}" for plate in step.plates)
        label = step.stage.name + (f"\n[{plates}]" if plates else "")
        graph.node(str(index), label, style="" if step.is_run else "dashed")
        by_source: dict[int | None, list[str]] = {}
        for name, source in step.sources.items():
            by_source.setdefault(source, []).append(name)
        for source, names in by_source.items():
            label = ", ".join(names)
            if source is None:
                graph.node(label, shape="plaintext")
            graph.edge(label if source is None else str(source), str(index), "" if source is None else label)
    return graph

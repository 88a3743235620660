"""Draw a simulator's stages."""

from typing import Any

from dasksim._pipeline import Pipeline

__all__ = ["draw"]


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

"""A graph of functions, with nodes that are repeated along plates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from dasksim._core.attributes import check_attrs
from dasksim._core.checks import as_shape, check_flag
from dasksim._core.labels import check_fill_value, check_labels, check_sizes
from dasksim._engine.functions import BatchedStage, ContextStage, function_name
from dasksim._engine.row_functions import RowStage
from dasksim._engine.stage import Plate, Stage, within
from dasksim._engine.steps import Lowering
from dasksim.errors import ArgumentError, ArgumentTypeError, nearest
from dasksim.simulators.simulator import Simulator

__all__ = ["GraphicalSimulator"]


@dataclass(frozen=True)
class _Node:
    sample_fn: Callable[..., Any]
    reps: int | str
    is_batched: bool


class GraphicalSimulator(Simulator):
    """A directed graph of functions; a node may be repeated, and all below it are repeated with it.

    Each repeated node is a plate: a dim of its name, which its own variables and those of its descendants have. Dims
    are in the order in which nodes were added. A node that has two parents with a common repeated ancestor is joined on
    it. A node takes the variables of its ancestors, contexts, and conditions.

    Parameters
    ----------
    meta_fn
        A function that is called once for each sub-batch and returns a dict of contexts, such as numbers of repeats.
    expand_outputs
        Whether scalars get a trailing axis of size 1 in the dataset.
    dims
        Names of feature dims, by variable.
    coords
        Coordinates: values by feature dim, or, along a dim of another name, ``(dim, values)``, ``(dim, values, attrs)``
        or a DataArray.
    attrs
        Attributes such as ``units`` and ``long_name``, by the name of a variable or coordinate.
    max_sizes
        Largest sizes of plates and dims whose size follows a context.
    fill_value
        What stands beyond the size of a sub-batch. Integers and booleans need one that they can hold.

    Examples
    --------
    >>> simulator = GraphicalSimulator()
    >>> simulator.add_node("school", lambda rng: {"mu": rng.normal()})
    >>> simulator.add_node("student", lambda mu, rng: {"score": rng.normal(mu)}, reps=20)
    >>> simulator.add_edge("school", "student")
    >>> simulator.sample(100, seed=1).score.dims
    ('batch', 'student', 'scalar')
    """

    def __init__(
        self,
        meta_fn: Callable[..., Any] | None = None,
        *,
        expand_outputs: bool = True,
        dims: Mapping[str, str | Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
        attrs: Mapping[str, Mapping[str, Any]] | None = None,
        max_sizes: Mapping[str, int] | None = None,
        fill_value: Any = math.nan,
    ) -> None:
        super().__init__()
        if meta_fn is not None and not callable(meta_fn):
            raise ArgumentTypeError(f"meta_fn must be callable; got {meta_fn!r}")
        self.meta_fn = meta_fn
        self.expand_outputs = check_flag("expand_outputs", expand_outputs)
        self.dims, self.coords = check_labels(dims, coords)
        self.attrs = check_attrs(attrs)
        self.max_sizes = check_sizes(max_sizes)
        self.fill_value = check_fill_value(fill_value)
        self._nodes: dict[str, _Node] = {}
        self._parents: dict[str, list[str]] = {}

    def add_node(self, node: Any, sample_fn: Callable[..., Any], reps: Any = 1, *, is_batched: bool = False) -> None:
        """Add a function to the graph.

        Parameters
        ----------
        node
            Name of the node, and of its plate if it is repeated.
        sample_fn
            Returns a dict of variables; called once for each cell, or once for each sub-batch if ``is_batched``.
        reps
            How often it is repeated for each combination of its parents, or the name of the context that says so. A
            node with ``reps=1`` has no plate; one with the name of a context has one whatever today's value is.
        is_batched
            Whether it is called with ``batch_shape`` for the whole sub-batch, plates included.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If an argument cannot be used, or the node is there already.
        """
        if not isinstance(node, str) or not node or "/" in node:
            raise ArgumentError(f"node must be a name without '/'; got {node!r}")
        if node in self._nodes:
            raise ArgumentError(f"the graph has a node {node!r} already")
        if not callable(sample_fn):
            raise ArgumentTypeError(f"sample_fn of node {node!r} must be callable; got {sample_fn!r}")
        if isinstance(reps, bool) or not isinstance(reps, str | int | np.integer):
            raise ArgumentTypeError(f"reps of node {node!r} must be an integer or the name of a context; got {reps!r}")
        if not isinstance(reps, str) and reps < 1:
            raise ArgumentError(f"reps of node {node!r} must be >= 1; got {reps!r}")
        # an integer of Python, since a store's record tells plates in JSON
        self._nodes[node] = _Node(sample_fn, reps if isinstance(reps, str) else int(reps), is_batched)
        self._parents[node] = []
        self._probes.clear()
        self._known = {}

    def add_edge(self, parent: str, child: str) -> None:
        """Let a node take the variables of another.

        Parameters
        ----------
        parent, child
            Names of nodes that were added.

        Raises
        ------
        ArgumentError
            If there is no such node, or the edge closes a cycle.
        """
        for node in (parent, child):
            if node not in self._nodes:
                raise ArgumentError(f"the graph has no node {node!r}; {nearest(node, self._nodes)}")
        if parent == child or child in self._ancestors(parent):
            raise ArgumentError(f"the edge from {parent!r} to {child!r} closes a cycle")
        self._parents[child].append(parent)

    def sample(
        self,
        batch_shape: int | Sequence[int] | None = None,
        sample_shape: int | Sequence[int] | None = None,
        meta: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> xr.Dataset:
        """Return a lazy Dataset of samples.

        Parameters
        ----------
        batch_shape
            Number of samples, or a batch shape, as in :meth:`Simulator.sample`.
        sample_shape
            Sizes of further batch dims.
        meta
            Values of contexts, which are then not drawn.
        **options
            ``seed``, ``sub_batch_size``, ``chunk_size``, ``batch_size`` and conditions, as in
            :meth:`Simulator.sample`.

        Returns
        -------
        xarray.Dataset
            Dims ``("batch", plates..., features...)``.
        """
        if not isinstance(meta, Mapping | None):
            raise ArgumentTypeError(f"meta must be a mapping of contexts to values; got {meta!r}")
        for name in meta or {}:
            if name in options:
                raise ArgumentTypeError(f"{name!r} is given in meta and as a keyword; give it once")
        if batch_shape is None:
            batch_shape = options.pop("batch_size", None)
        if sample_shape is not None and batch_shape is not None:
            batch_shape = (*as_shape("batch_shape", batch_shape), *as_shape("sample_shape", sample_shape))
        return super().sample(batch_shape, **options, **(meta or {}))

    def lower(self, path: str = "") -> Lowering:
        if not self._nodes:
            raise ArgumentError("the graph has no nodes; add some with add_node")
        prefix = within(path)
        stages: list[Stage] = []
        if self.meta_fn is not None:
            stages.append(ContextStage(prefix + function_name(self.meta_fn), self.meta_fn))
        for node in self._order():
            entry, ancestors = self._nodes[node], self._ancestors(node)
            stage: Stage = (BatchedStage if entry.is_batched else RowStage)(prefix + node, entry.sample_fn)
            plates = tuple(
                Plate(name, other.reps)
                for name, other in self._nodes.items()
                if (name == node or name in ancestors) and other.reps != 1
            )
            sees = frozenset(prefix + name for name in ancestors)
            stages.append(stage.replaced(plates=plates, sees=sees, is_expanded=self.expand_outputs))
        return Lowering(
            tuple(stages),
            dims=self.dims,
            coords=self.coords,
            attrs=self.attrs,
            max_sizes=self.max_sizes,
            fill_value=self.fill_value,
        )

    def _order(self) -> list[str]:
        """Return the nodes, parents first, and otherwise in the order in which they were added."""
        order: list[str] = []
        # this ends, since add_edge lets no cycle close
        while len(order) < len(self._nodes):
            order.append(next(n for n in self._nodes if n not in order and set(self._parents[n]) <= set(order)))
        return order

    def _ancestors(self, node: str) -> set[str]:
        found: set[str] = set()
        todo = list(self._parents[node])
        while todo:
            parent = todo.pop()
            if parent not in found:
                found.add(parent)
                todo += self._parents[parent]
        return found

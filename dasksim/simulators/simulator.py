"""What all simulators have in common."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, Self, SupportsIndex

import xarray as xr

from dasksim._core.arrays import choose_device
from dasksim._core.checks import as_shape, check_count, check_flag, check_seed
from dasksim._core.plan import Plan, plan_samples
from dasksim._core.telling import html_table
from dasksim._core.tracebacks import shortened
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.placement import can_use_gpu, on_device
from dasksim._engine.probes import ProbeCache
from dasksim._engine.resolution import check_sizes_agree, resolve
from dasksim._engine.steps import Lowering
from dasksim._execution.graph import compile_dataset
from dasksim._execution.pickling import dumps, loads
from dasksim._streams.process_wide import is_locked_here, not_copied
from dasksim.errors import ArgumentTypeError
from dasksim.simulators.bayesflow_adapter import BayesFlowAdapter, for_bayesflow
from dasksim.simulators.distributions import drawn_conditions
from dasksim.simulators.drawing import VariableInfo, draw, rows_of, schema_of
from dasksim.simulators.filtering import compute_all_accepted, filtered
from dasksim.simulators.parallel import compute_in_processes

__all__ = ["Simulator"]

# Whether a simulator is being packed, with those within it.
_is_packed: ContextVar[bool] = ContextVar("_is_packed", default=False)


class Simulator(ABC):
    """A recipe for samples, made of stages.

    Subclasses say what they lower to; everything else - conditions, schema, plan, graph - is the same for all.
    """

    #: The variables of a sample, as they were last simulated; nothing while they are not known.
    _known: Mapping[str, VariableInfo] = MappingProxyType({})

    def __init__(self) -> None:
        self._probes = ProbeCache()

    @abstractmethod
    def lower(self, path: str = "") -> Lowering:
        """Return the stages that the simulator consists of.

        Parameters
        ----------
        path
            What the names of its stages begin with, so that a simulator within another has names of its own. If it
            does not end in ``/``, it is the very name of a single function.
        """

    @shortened()
    def sample(
        self,
        batch_shape: int | Sequence[int] | None = None,
        *,
        batch_size: int | Sequence[int] | None = None,
        seed: int | None = None,
        sub_batch_size: int | None = None,
        chunk_size: int | None = None,
        device: Literal["auto", "cpu", "gpu"] = "auto",
        **conditions: Any,
    ) -> xr.Dataset:
        """Return a lazy Dataset of samples.

        Parameters
        ----------
        batch_shape
            Number of samples, or a tuple whose first element is it and whose others are the sizes of further batch
            dims ``batch_1``, ``batch_2``, ...
        batch_size
            A synonym of ``batch_shape``.
        seed
            Any integer >= 0. By default fresh entropy, which is recorded in ``ds.attrs["dasksim"]``.
        sub_batch_size
            Samples that are simulated together. Values of batched functions and contexts depend on it, since each has
            one stream of random numbers for it; those of plain functions do not. By default a fixed function of the
            variables' shapes and dtypes and of whether all stages are batched, at most the number of samples; where no
            value depends on it, as many as take a quarter of a second.
        chunk_size
            Samples in a Dask chunk, a multiple of ``sub_batch_size``. Values do not depend on it. By default some
            seconds of work of plain functions, and 16 to 32 chunks of batched ones; never more than 32 MiB.
        device
            ``"gpu"`` runs stages on a GPU that can run there - batched functions that take ``xp``, the array namespace
            - and others on the host; what is made there is backed by CuPy arrays, also when it is computed. ``"auto"``
            does so if this process sees a GPU. Values depend on the kind of device, since its generators are others.
        **conditions
            Values of variables, which are then not simulated: scalars, arrays with the batch axes in front, or
            DataArrays with the batch dims; or values for arguments that no stage provides. A distribution, which draws
            by ``sample((n,))`` as PyTorch's and sbi's posteriors and proposals do, or by ``rvs(size=n)`` as SciPy's, is
            drawn from at once, one draw a sample; the draws are a function of the seed.

        Returns
        -------
        xarray.Dataset
            One variable for each output and condition, dims ``("batch", ...)``, backed by Dask arrays. Nothing has
            been simulated but one or two samples, to find shapes and dtypes.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If an argument cannot be used.
        SimulatorError
            If the stages do not fit together.
        OutputError
            If a function returns no dict of numeric arrays.

        Examples
        --------
        >>> import dasksim
        >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=3)})
        >>> dict(simulator.sample(500, seed=1).sizes)
        {'batch': 500, 'x_dim_0': 3}
        """
        if (batch_shape is None) == (batch_size is None):
            got = "neither" if batch_shape is None else "both"
            raise ArgumentTypeError(f"give the number of samples as batch_shape or its synonym batch_size; got {got}")
        shape = as_shape("batch_shape", batch_shape) if batch_size is None else as_shape("batch_size", batch_size)
        pipeline, plan = self.plan(
            shape,
            seed=seed,
            sub_batch_size=sub_batch_size,
            chunk_size=chunk_size,
            conditions=conditions,
            device=device,
        )
        return _dataset(pipeline, plan)

    @shortened()
    def rejection_sample(
        self,
        batch_shape: int | Sequence[int],
        predicate: Callable[..., Any],
        *,
        sample_size: int | None = None,
        max_proposals: int | None = None,
        overshoot: bool = False,
        seed: int | None = None,
        sub_batch_size: int | None = None,
        chunk_size: int | None = None,
        device: Literal["auto", "cpu", "gpu"] = "auto",
        **conditions: Any,
    ) -> xr.Dataset:
        """Return a lazy Dataset of samples that a predicate accepts.

        Parameters
        ----------
        batch_shape
            Number of samples, or a batch shape as in :meth:`sample`.
        predicate
            A function of variables by name, or of one mapping of all variables. It is given whole arrays and returns a
            boolean array with one value for each proposal.
        sample_size
            Proposals of an attempt of batched functions; by default as many as the acceptance seen in the sub-batch
            lets expect to need.
        max_proposals
            Proposals for one sub-batch at most. By default 100 attempts in a row that accept nothing are an error.
        overshoot
            Whether to keep all that was accepted, at least ``batch_shape``: more where functions are batched. The
            samples are then computed at once, since only that tells their number.
        seed, sub_batch_size, chunk_size, device
            As in :meth:`sample`. What is accepted comes to the host.
        **conditions
            As in :meth:`sample`. Values with a batch axis stay with their rows: each row is proposed for until one is
            accepted.

        Returns
        -------
        xarray.Dataset

        Raises
        ------
        SimulatorError
            While computing, if too little is accepted.
        OutputError
            If the predicate returns something else than one boolean for each proposal.

        Examples
        --------
        >>> import dasksim
        >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal()})
        >>> ds = simulator.rejection_sample(100, lambda x: x > 0, seed=1)
        >>> ds.sizes["batch"], bool((ds.x > 0).all())
        (100, True)
        """
        shape = as_shape("batch_shape", batch_shape)
        pipeline, plan = self.plan(
            shape,
            seed=seed,
            sub_batch_size=sub_batch_size,
            chunk_size=chunk_size,
            conditions=conditions,
            device=device,
            lowering=replace(
                filtered(self.lower(), predicate, sample_size, max_proposals),
                call="rejection_sample({shape}, predicate",
            ),
        )
        if check_flag("overshoot", overshoot):
            return compute_all_accepted(pipeline, plan)
        return _dataset(pipeline, plan)

    def plan(
        self,
        shape: tuple[int, ...],
        *,
        seed: int | None,
        sub_batch_size: int | None,
        chunk_size: int | None,
        conditions: dict[str, Any],
        device: Any = "cpu",
        lowering: Lowering | None = None,
        most_probes: int = 1,
    ) -> tuple[Pipeline, Plan]:
        """Check the arguments of :meth:`sample`, find the schema, and cut the samples into chunks."""
        # probes of another lowering, such as one with a predicate, are not this simulator's
        is_own = lowering is None
        cache = self._probes if is_own else ProbeCache()
        lowering = self.lower() if lowering is None else lowering
        if sub_batch_size is not None:
            sub_batch_size = check_count("sub_batch_size", sub_batch_size)
        if chunk_size is not None:
            chunk_size = check_count("chunk_size", chunk_size)
        seed = check_seed(seed)
        conditions = drawn_conditions(conditions, shape, seed, lowering)
        pipeline = resolve(lowering, conditions, shape, seed, cache, most_probes=most_probes)
        device = choose_device(device, can_use_gpu(pipeline))
        cost = pipeline.cost(on_gpu=device == "gpu")
        plan = plan_samples(shape, cost, seed=seed, sub_batch_size=sub_batch_size, chunk_size=chunk_size)
        # sizes may follow contexts, which are those of a sub-batch: its size is known only now
        if any(step.stage.makes_contexts and step.is_run for step in pipeline.steps):

            def at(sub_batch: int) -> Pipeline:
                size = plan.sub_batch_size
                return resolve(lowering, conditions, shape, seed, cache, sub_batch, size, most_probes)

            pipeline = at(0)
            check_sizes_agree(pipeline, plan.n_samples, plan.sub_batch_size, at)
        if is_own and len(shape) == 1 + len(lowering.levels or ()):
            self._known = schema_of(pipeline)
        return on_device(pipeline, device), plan

    @property
    def variables(self) -> dict[str, VariableInfo]:
        """Dims, shape and dtype of each variable of one sample, by name.

        One or two samples are simulated to find them, unless they are known from earlier. Levels that the batch shape
        sets have size 1 here.

        Raises
        ------
        SimulatorError
            If the simulator needs conditions; ``sample`` with these shows what it makes.

        Examples
        --------
        >>> import dasksim
        >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=3)}, dims={"x": "time"})
        >>> print(simulator.variables["x"])
        (time: 3) float64
        """
        shape = (1,) * (1 + len(self.lower().levels or ()))
        pipeline, _ = self.plan(shape, seed=0, sub_batch_size=None, chunk_size=None, conditions={})
        return schema_of(pipeline)

    def visualize(self, **conditions: Any) -> Any:
        """Return the stages as a graph: boxes are stages, arrows the variables that pass between them.

        Parameters
        ----------
        **conditions
            Values for arguments that no stage provides, as in :meth:`sample`.

        Returns
        -------
        graphviz.Digraph
            Notebooks draw it; ``.render("simulator")`` writes it to a file.

        Raises
        ------
        ImportError
            If the package graphviz is not installed.
        """
        lowering = self.lower()
        shape = (1,) * (1 + len(lowering.levels or ()))
        return draw(resolve(lowering, conditions, shape, 0))

    def sample_batched(
        self, batch_shape: int | Sequence[int], *, sample_size: int, seed: int | None = None, **conditions: Any
    ) -> xr.Dataset:
        """Return a lazy Dataset of samples that are simulated ``sample_size`` at a time; BayesFlow's name for it.

        Parameters
        ----------
        batch_shape
            Number of samples, or a batch shape as in :meth:`sample`. Exactly as many are returned.
        sample_size
            What :meth:`sample` calls ``sub_batch_size``.
        seed
            As in :meth:`sample`.
        **conditions
            As in :meth:`sample`; ``chunk_size`` too.

        Returns
        -------
        xarray.Dataset

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If an argument cannot be used.

        Examples
        --------
        >>> import dasksim
        >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal()})
        >>> simulator.sample_batched(1000, sample_size=300, seed=1).sizes["batch"]
        1000
        """
        return self.sample(batch_shape, sub_batch_size=check_count("sample_size", sample_size), seed=seed, **conditions)

    @shortened()
    def sample_parallel(
        self, batch_shape: int | Sequence[int], n_jobs: int = -1, *, seed: int | None = None, **conditions: Any
    ) -> xr.Dataset:
        """Return a Dataset of samples in memory, computed in worker processes; its bits are those of :meth:`sample`.

        Parameters
        ----------
        batch_shape
            Number of samples, or a batch shape as in :meth:`sample`.
        n_jobs
            Number of worker processes, -1 for as many as there are CPUs. No more can work than there are sub-batches.
        seed
            As in :meth:`sample`.
        **conditions
            As in :meth:`sample`; ``sub_batch_size`` too.

        Returns
        -------
        xarray.Dataset

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If an argument cannot be used.

        Examples
        --------
        >>> import dasksim
        >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal()})
        >>> ds = simulator.sample_parallel(1000, n_jobs=2, seed=1)
        >>> ds.identical(simulator.sample(1000, seed=1).compute())
        True
        """
        return compute_in_processes(self.sample, batch_shape, n_jobs, seed, conditions)

    def to_bayesflow(self, seed: int | None = None) -> BayesFlowAdapter:
        """Return the simulator in the form that BayesFlow trains on.

        Parameters
        ----------
        seed
            Any integer >= 0; call number ``k`` then returns the same samples in every run. By default fresh entropy.

        Returns
        -------
        BayesFlowAdapter
            An object with the methods of BayesFlow's simulators, which return dicts of NumPy arrays, new ones at every
            call, also where worker processes call copies of it. Make it after BayesFlow was imported: it is then an
            instance of its ``Simulator``, which ``bayesflow.make_simulator`` takes among functions.

        Examples
        --------
        >>> import dasksim
        >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=3)})
        >>> simulator.to_bayesflow(seed=1).sample(32)["x"].shape
        (32, 3)
        """
        return for_bayesflow(self, seed)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Go to another process as functions do in a run, whoever sends the simulator."""
        # dumps comes back here, for this simulator and for those within it
        if _is_packed.get():
            return super().__reduce_ex__(protocol)
        token = _is_packed.set(True)
        try:
            return loads, (dumps(self),)
        finally:
            _is_packed.reset(token)

    def __copy__(self) -> Self:
        # copy.copy would go by __reduce_ex__, and copy the functions too
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # entered first: what it holds may lead back to it
        new = memo[id(self)] = object.__new__(type(self))
        # nobody seeds a copy of the generator of numpy.random
        memo.update(not_copied())
        vars(new).update(copy.deepcopy(vars(self), memo))
        return new

    def __repr__(self) -> str:
        lines = [f"<dasksim.{type(self).__name__}>"]
        for depth, name, arguments, how_often in rows_of(self.lower()):
            lines.append(f"{'  ' * (depth + 1)}{name}({arguments})  {how_often}")
        # what is not known yet would have to be simulated
        known = self._known
        lines += ["a sample, as last simulated:"] * bool(known)
        width = max(map(len, known), default=0)
        lines += [f"  {name:<{width}}  {variable}" for name, variable in known.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = rows_of(self.lower())
        stages = html_table(
            [("  " * depth + name, arguments, how_often) for depth, name, arguments, how_often in rows],
            head=("stage", "arguments", "called"),
            caption=f"dasksim.{type(self).__name__}",
        )
        variables = [(name, ", ".join(v.dims), str(v.shape), str(v.dtype)) for name, v in self._known.items()]
        head = ("variable of a sample", "dims", "shape", "dtype")
        return f"<div>{stages}{html_table(variables, head) if variables else ''}</div>"


def _dataset(pipeline: Pipeline, plan: Plan) -> xr.Dataset:
    """Return the lazy dataset.

    A function of another simulator may be asking, while its thread holds the lock of the process. Tasks in other
    threads would wait for that, and the function for them: it is computed here.
    """
    dataset = compile_dataset(pipeline, plan)
    return dataset.compute(scheduler="synchronous").chunk(batch=plan.chunk_size) if is_locked_here() else dataset

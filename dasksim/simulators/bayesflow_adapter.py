"""What BayesFlow trains on: batches as dicts of NumPy arrays, new ones at every call."""

import functools
import itertools
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dasksim._core.arrays import as_host
from dasksim._core.checks import as_shape, check_count, check_seed
from dasksim.errors import ArgumentError, ArgumentTypeError

__all__ = ["BayesFlowAdapter", "for_bayesflow"]

Batch = dict[str, npt.NDArray[Any]]

# How many words the spawn keys of members' seeds have: more than those of calls.
_MEMBER = (0,) * 5


class BayesFlowAdapter:
    """A simulator in the form that BayesFlow's workflows, datasets and simulators take.

    It has the methods of BayesFlow's simulators, and the attributes of dasksim's: ``expand_outputs``, ``p``, and the
    simulators within as a list of such objects (``simulators``, ``hierarchy``). If BayesFlow was imported before, it is
    an instance of ``bayesflow.simulators.Simulator``, so that ``bayesflow.make_simulator`` takes it in a list.

    What no function takes or makes is passed over among the conditions, as BayesFlow does: its simulators hand on all
    that they have. Each call returns new samples.

    Parameters
    ----------
    simulator
        A :class:`~dasksim.Simulator`.
    seed
        Any integer >= 0, by default fresh entropy. Call number ``k`` is then the same in every run. A copy of the
        adapter, in a forked process or unpickled, has calls of its own, so that no two workers make the same batch.
    """

    def __init__(self, simulator: Any, seed: int | None = None) -> None:
        self._simulator = simulator
        self._seed = check_seed(seed)
        self._calls = itertools.count()
        self._process = os.getpid()
        self._copy: tuple[int, ...] = ()
        self._variables: frozenset[str] = frozenset()
        self._contexts: frozenset[str] = frozenset()
        self._members: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._simulator, self._seed)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # its own, such as when it is not made yet
            return object.__getattribute__(self, name)
        # once: each member counts its calls
        if name not in self._members:
            self._members[name] = self._adapted(getattr(self._simulator, name), name)
        return self._members[name]

    def _adapted(self, value: Any, name: str) -> Any:
        if isinstance(value, tuple | list) and value and all(map(self._is_simulator, value)):
            return [for_bayesflow(one, self._seed_of(name, i)) for i, one in enumerate(value)]
        return for_bayesflow(value, self._seed_of(name, 0)) if self._is_simulator(value) else value

    def _is_simulator(self, value: Any) -> bool:
        return callable(getattr(value, "to_bayesflow", None))

    def sample(
        self,
        batch_shape: int | Sequence[int] | None = None,
        *,
        batch_size: int | Sequence[int] | None = None,
        **conditions: Any,
    ) -> Batch:
        """Return new samples, in memory.

        Parameters
        ----------
        batch_shape
            Number of samples, or a batch shape.
        batch_size
            A synonym of ``batch_shape``.
        **conditions
            As in :meth:`Simulator.sample`.

        Returns
        -------
        dict
            One array for each variable, the batch axes in front. The whole call is one sub-batch, so that a context has
            one value, and is given without batch axes.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If an argument cannot be used.
        """
        shape = _shape(batch_shape, batch_size)
        return self._made(self._simulator.sample, shape, conditions)

    def rejection_sample(
        self,
        batch_shape: int | Sequence[int] | None = None,
        predicate: Callable[..., Any] | None = None,
        *,
        batch_size: int | Sequence[int] | None = None,
        axis: int = 0,
        sample_size: int | None = None,
        **conditions: Any,
    ) -> Batch:
        """Return new samples that a predicate accepts, in memory; exactly as many as asked for.

        Parameters
        ----------
        batch_shape, batch_size
            As in :meth:`sample`.
        predicate
            A function of a dict of arrays, as :meth:`sample` returns it but for further batch axes, to one boolean for
            each sample.
        sample_size
            As in :meth:`Simulator.rejection_sample`.
        axis
            Which batch axis accepted samples are counted along: 0, the first, and no other.
        **conditions
            As in :meth:`sample`.

        Returns
        -------
        dict
            As that of :meth:`sample`.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If an argument cannot be used.
        """
        if axis != 0:
            raise ArgumentError(f"axis must be 0, as samples are accepted along the first batch axis; got {axis!r}")
        if not callable(predicate):
            raise ArgumentTypeError(f"predicate must be a function of a dict of arrays; got {predicate!r}")
        # a partial, since the search for generators looks into it
        accepts = functools.partial(_accepts, predicate, getattr(self._simulator, "expand_outputs", False))
        sample = functools.partial(self._simulator.rejection_sample, predicate=accepts, sample_size=sample_size)
        return self._made(sample, _shape(batch_shape, batch_size), conditions)

    def sample_batched(
        self,
        batch_shape: int | Sequence[int] | None = None,
        *,
        sample_size: int,
        batch_size: int | Sequence[int] | None = None,
        **conditions: Any,
    ) -> Batch:
        """Return new samples that are simulated ``sample_size`` at a time, in memory; exactly as many as asked for.

        Parameters
        ----------
        batch_shape, batch_size, **conditions
            As in :meth:`sample`.
        sample_size
            Samples that are simulated together. Each such batch has contexts of its own.

        Returns
        -------
        dict
            As that of :meth:`sample`; a context has the batch axes too.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If an argument cannot be used.
        """
        size = check_count("sample_size", sample_size)
        return self._made(self._simulator.sample, _shape(batch_shape, batch_size), conditions, size)

    def sample_parallel(
        self,
        batch_shape: int | Sequence[int] | None = None,
        n_jobs: int = -1,
        verbose: int = 0,
        *,
        batch_size: int | Sequence[int] | None = None,
        **conditions: Any,
    ) -> Batch:
        """Return new samples, in memory, simulated in worker processes; the bits are those that :meth:`sample` gives.

        Parameters
        ----------
        batch_shape, batch_size, **conditions
            As in :meth:`sample`.
        n_jobs
            Number of worker processes, -1 for as many as there are CPUs.
        verbose
            Is taken, and changes nothing.

        Returns
        -------
        dict
            As that of :meth:`sample`; a context has the batch axes too.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If an argument cannot be used.
        """
        sample = functools.partial(self._simulator.sample_parallel, n_jobs=n_jobs)
        return self._made(sample, _shape(batch_shape, batch_size), conditions, None)

    def _made(
        self, sample: Callable[..., xr.Dataset], shape: tuple[int, ...], conditions: dict[str, Any], *size: int | None
    ) -> Batch:
        """Call a method of the simulator, with all in one sub-batch unless its size is given, and return the arrays."""
        taken = self._taken(shape, conditions)
        options = {"sub_batch_size": size[0] if size else shape[0], "device": "cpu", **taken, "seed": self._next_seed()}
        dataset = sample(shape, **options).compute(scheduler="synchronous")
        arrays = {str(name): as_host(array.data) for name, array in dataset.items()}
        is_one = {name for name in self._contexts if not size}
        return {name: values[0] if name in is_one else values for name, values in arrays.items()}

    def _taken(self, shape: tuple[int, ...], conditions: dict[str, Any]) -> dict[str, Any]:
        """Return the conditions that a function takes, or that stand for what one makes."""
        stages = self._simulator.lower().stages
        names = {name for stage in stages for name in stage.names}
        if not self._variables:
            given = {name: value for name, value in conditions.items() if name in names}
            found, _ = self._simulator.plan(shape, seed=0, sub_batch_size=shape[0], chunk_size=None, conditions=given)
            self._variables = frozenset(v.name for v in found.variables)
            self._contexts = frozenset(v.name for v in found.variables if v.is_shared and v.name not in given)
        if any(stage.takes_all for stage in stages):
            return conditions
        return {name: value for name, value in conditions.items() if name in names | self._variables | self._options}

    _options = frozenset({"sub_batch_size", "chunk_size", "device", "max_proposals", "overshoot"})

    def _next_seed(self) -> int:
        # a fork has the object as it is, and would repeat the calls of its parent
        if self._process != os.getpid():
            # not from NumPy, whose generators a fork has from its parent too
            self._copy = (secrets.randbits(64),)  # first, for another thread may look at the process in between
            self._process = os.getpid()
        return _as_seed(np.random.SeedSequence(self._seed, spawn_key=(next(self._calls), *self._copy)))

    def _seed_of(self, name: str, index: int) -> int:
        """Return the seed of a member: its samples are others than those that it makes for this simulator."""
        return _as_seed(np.random.SeedSequence([self._seed, *name.encode()], spawn_key=(index, *_MEMBER)))

    def __repr__(self) -> str:
        return f"{self._simulator!r}\nfor BayesFlow, seed {self._seed}"


def for_bayesflow(simulator: Any, seed: int | None = None) -> BayesFlowAdapter:
    """Return a simulator as :meth:`Simulator.to_bayesflow` gives it."""
    # not imported for it: that takes seconds, and settles the backend of Keras
    module = sys.modules.get("bayesflow.simulators")
    return (BayesFlowAdapter if module is None else _instance_of(module.Simulator))(simulator, seed)


@functools.cache
def _instance_of(base: type) -> type[BayesFlowAdapter]:
    """Return the class of adapters that are simulators of BayesFlow too, by which its make_simulator goes."""
    return type("BayesFlowAdapter", (BayesFlowAdapter, base), {"__doc__": BayesFlowAdapter.__doc__})


def _shape(batch_shape: Any, batch_size: Any) -> tuple[int, ...]:
    if (batch_shape is None) == (batch_size is None):
        got = "neither" if batch_shape is None else "both"
        raise ArgumentTypeError(f"give the number of samples as batch_shape or its synonym batch_size; got {got}")
    return as_shape("batch_shape", batch_size if batch_shape is None else batch_shape)


def _accepts(predicate: Callable[..., Any], is_expanded: bool, variables: Mapping[str, Any]) -> Any:
    """Call a predicate with arrays in the shapes that BayesFlow's simulators give."""
    return predicate(
        {name: value[:, None] if is_expanded and np.ndim(value) == 1 else value for name, value in variables.items()}
    )


def _as_seed(sequence: np.random.SeedSequence) -> int:
    return int.from_bytes(sequence.generate_state(4, np.uint32).tobytes(), "little")


def _unpickled(simulator: Any, seed: int) -> BayesFlowAdapter:
    adapter = for_bayesflow(simulator, seed)
    adapter._process = 0  # of no process: it takes itself for a copy
    return adapter

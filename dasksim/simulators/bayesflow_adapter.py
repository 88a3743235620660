"""What BayesFlow trains on: batches as dicts of NumPy arrays, new ones at every call."""

import itertools
import os
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dasksim._core.arrays import as_host
from dasksim._core.checks import as_shape, check_seed
from dasksim.errors import ArgumentTypeError
from dasksim.store import Record

__all__ = ["BayesFlowAdapter"]


class BayesFlowAdapter:
    """A simulator in the form that BayesFlow's workflows and datasets take; see :meth:`Simulator.to_bayesflow`.

    Parameters
    ----------
    sample
        The ``sample`` method of a :class:`~dasksim.Simulator`.
    seed
        Any integer >= 0, by default fresh entropy. Call number ``k`` is then the same in every run. A copy of the
        adapter, in a forked process or unpickled, has calls of its own, so that no two workers make the same batch.
    """

    def __init__(self, sample: Callable[..., xr.Dataset], seed: int | None = None) -> None:
        self._sample = sample
        self._seed = check_seed(seed)
        self._calls = itertools.count()
        self._process = os.getpid()
        self._copy: tuple[int, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._sample, self._seed)

    def sample(
        self,
        batch_shape: int | Sequence[int] | None = None,
        *,
        batch_size: int | Sequence[int] | None = None,
        **conditions: Any,
    ) -> dict[str, npt.NDArray[Any]]:
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
        if (batch_shape is None) == (batch_size is None):
            got = "neither" if batch_shape is None else "both"
            raise ArgumentTypeError(f"give the number of samples as batch_shape or its synonym batch_size; got {got}")
        shape = as_shape("batch_shape", batch_size if batch_shape is None else batch_shape)
        options = {"sub_batch_size": shape[0], "device": "cpu", **conditions, "seed": self._next_seed()}
        dataset = self._sample(shape, **options).compute(scheduler="synchronous")
        contexts = Record.of_dataset(dataset.attrs).contexts
        arrays = {str(name): as_host(array.data) for name, array in dataset.items()}
        return {name: values[0] if name in contexts else values for name, values in arrays.items()}

    def _next_seed(self) -> int:
        # a fork has the object as it is, and would repeat the calls of its parent
        if self._process != os.getpid():
            # not from NumPy, whose generators a fork has from its parent too
            self._copy = (secrets.randbits(64),)  # first, for another thread may look at the process in between
            self._process = os.getpid()
        sequence = np.random.SeedSequence(self._seed, spawn_key=(next(self._calls), *self._copy))
        return int.from_bytes(sequence.generate_state(4, np.uint32).tobytes(), "little")


def _unpickled(sample: Callable[..., xr.Dataset], seed: int) -> BayesFlowAdapter:
    adapter = BayesFlowAdapter(sample, seed)
    adapter._process = 0  # of no process: it takes itself for a copy
    return adapter

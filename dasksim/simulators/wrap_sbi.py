"""A prior and a simulator, as sbi takes them, as a simulator of dasksim."""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim.errors import ArgumentTypeError
from dasksim.simulators.lambda_simulator import LambdaSimulator
from dasksim.simulators.sequential_simulator import SequentialSimulator
from dasksim.simulators.simulator import Simulator

__all__ = ["from_sbi"]

Array = npt.NDArray[np.float32]

_lock = threading.RLock()  # PyTorch's global generator is one for all threads


def from_sbi(prior: Any, simulator: Callable[..., Any]) -> Simulator:
    """Make a simulator of a prior and a simulator as sbi takes them.

    Both become batched stages, with the variables ``theta`` and ``x`` of dtype float32. PyTorch's global generator is
    seeded for each sub-batch, under a lock of the process, and put back afterwards; NumPy's and Python's generators are
    isolated like those of any function. A ``torch.Generator`` of their own is not.

    Parameters
    ----------
    prior
        An object with a method ``sample((n,))`` that returns a tensor with one row a sample, such as a distribution of
        PyTorch or sbi.
    simulator
        A function of a tensor with one row a sample that returns another one, or a NumPy array.

    Returns
    -------
    Simulator

    Raises
    ------
    ArgumentTypeError
        If the prior has no method ``sample``, or the simulator is not callable.

    Examples
    --------
    >>> import torch  # doctest: +SKIP
    >>> prior = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))  # doctest: +SKIP
    >>> simulator = from_sbi(prior, lambda theta: theta + torch.randn_like(theta))  # doctest: +SKIP
    >>> simulator.sample(1000, seed=2025).x.shape  # doctest: +SKIP
    (1000, 2)
    """
    if not callable(getattr(prior, "sample", None)):
        raise ArgumentTypeError(
            f"prior must have a method sample((n,)), as PyTorch's distributions have; got {prior!r}"
        )
    if not callable(simulator):
        raise ArgumentTypeError(f"simulator must be callable; got {simulator!r}")
    # partials, since the search for generators looks into them
    stages = {"prior": functools.partial(_prior, prior), "simulator": functools.partial(_simulator, simulator)}
    return SequentialSimulator({name: LambdaSimulator(stage, is_batched=True) for name, stage in stages.items()})


def _prior(prior: Any, batch_shape: tuple[int, ...], seed: int) -> dict[str, Array]:
    with _seeded(seed):
        return {"theta": _rows(prior.sample((math.prod(batch_shape),)), batch_shape)}


def _simulator(
    simulator: Callable[..., Any], batch_shape: tuple[int, ...], theta: Array, seed: int
) -> dict[str, Array]:
    flat = theta.reshape(-1, *theta.shape[len(batch_shape) :])
    with _seeded(seed) as torch:
        # a copy: what a function is given is read-only, which tensors cannot be
        return {"x": _rows(simulator(torch.tensor(flat)), batch_shape)}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[Any]:
    """Give PyTorch with its global generators, those of GPUs too, seeded."""
    import torch  # only where it is used: it takes seconds, and dasksim does not need it

    # devices are named, since PyTorch warns where there are several and none is
    with _lock, torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield torch


def _rows(values: Any, batch_shape: tuple[int, ...]) -> Array:
    """Return a tensor as an array that begins with ``batch_shape``, if it has as many rows."""
    # NumPy takes no tensor that has a gradient or is on a GPU
    host = values.detach().cpu() if hasattr(values, "detach") else values
    array = np.asarray(host, dtype=np.float32)
    if array.shape[:1] != (math.prod(batch_shape),):
        return array  # which is refused, with the name of the variable
    return array.reshape(*batch_shape, *array.shape[1:])

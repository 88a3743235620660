"""A prior and a simulator, as sbi takes them, as a simulator of dasksim."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim.errors import ArgumentTypeError
from dasksim.simulators.distributions import draws_of, is_distribution, on_host, torch_seeded
from dasksim.simulators.lambda_simulator import LambdaSimulator
from dasksim.simulators.sequential_simulator import SequentialSimulator
from dasksim.simulators.simulator import Simulator

__all__ = ["from_sbi"]

Array = npt.NDArray[np.float32]


def from_sbi(prior: Any, simulator: Callable[..., Any]) -> Simulator:
    """Make a simulator of a prior and a simulator as sbi takes them.

    They become stages with the variables ``theta`` and ``x`` of dtype float32. PyTorch's global generators are seeded
    for each sub-batch, or for each sample if the simulator takes one row at a time, under a lock of the process, and
    put back afterwards; other generators are isolated like those of any function.

    Parameters
    ----------
    prior
        An object with a method ``sample((n,))`` that returns a tensor or an array with one row a sample, such as a
        distribution of PyTorch or sbi, or with ``rvs(size=n)``, as SciPy's have; or a sequence of such objects, which
        are independent and give one column each, or more.
    simulator
        A function of ``theta`` that returns ``x``, tensors or arrays: of many rows at once, or of one. Which it is
        shows when it is called with two and with three rows, as sbi finds it out. It is given what the prior draws,
        tensors or NumPy arrays; of several, tensors if one draws such.

    Returns
    -------
    Simulator

    Raises
    ------
    ArgumentTypeError
        If the prior cannot be drawn from, or the simulator is not callable.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.stats
    >>> simulator = from_sbi([scipy.stats.norm(), scipy.stats.gamma(2)], lambda theta: np.sqrt(np.abs(theta)))
    >>> simulator.sample(1000, seed=2025).x.shape
    (1000, 2)
    """
    members = prior if isinstance(prior, Sequence) else [prior]
    if not members or not all(map(is_distribution, members)):
        raise ArgumentTypeError(
            "prior must have a method sample((n,)), as PyTorch's distributions have, or rvs(size=n), as SciPy's have, "
            f"or be a sequence of such; got {prior!r}"
        )
    if not callable(simulator):
        raise ArgumentTypeError(f"simulator must be callable; got {simulator!r}")
    # partials, since the search for generators looks into them
    trial = LambdaSimulator(functools.partial(_takes_rows, prior, simulator))
    found = trial.sample(1, seed=0, device="cpu").compute(scheduler="synchronous")
    is_batched, is_torch = bool(found.is_batched.values[0]), bool(found.is_torch.values[0])
    stage = functools.partial(_simulator if is_batched else _row, simulator, is_torch)
    stages = {
        "prior": LambdaSimulator(functools.partial(_prior, prior), is_batched=True),
        "simulator": LambdaSimulator(stage, is_batched=is_batched),
    }
    return SequentialSimulator(stages)


def _takes_rows(prior: Any, simulator: Callable[..., Any], seed: int) -> dict[str, bool]:
    """Find out whether a simulator takes many rows at once, and whether they are tensors."""
    with torch_seeded(seed):
        members = prior if isinstance(prior, Sequence) else [prior]
        is_torch = any(hasattr(one, "sample") and hasattr(one.sample((1,)), "detach") for one in members)
        for n in (2, 3):
            drawn = draws_of(prior, n)
            theta = drawn.reshape(len(drawn), -1).astype(np.float32)
            try:
                shape = np.shape(on_host(simulator(_given(theta, is_torch))))
            except Exception:  # noqa: BLE001  # of whatever kind: it is called row by row then, and says so again
                return {"is_batched": False, "is_torch": is_torch}
            if shape[:1] != (n,):
                return {"is_batched": False, "is_torch": is_torch}
    return {"is_batched": True, "is_torch": is_torch}


def _prior(prior: Any, batch_shape: tuple[int, ...], seed: int) -> dict[str, Array]:
    n = math.prod(batch_shape)
    with torch_seeded(seed):
        values = draws_of(prior, n)
    return {"theta": _rows(values.reshape(len(values), -1), batch_shape)}


def _simulator(
    simulator: Callable[..., Any], is_torch: bool, batch_shape: tuple[int, ...], theta: Array, seed: int
) -> dict[str, Array]:
    flat = theta.reshape(-1, *theta.shape[len(batch_shape) :])
    with torch_seeded(seed):
        return {"x": _rows(simulator(_given(flat, is_torch)), batch_shape)}


def _row(simulator: Callable[..., Any], is_torch: bool, theta: Array, seed: int) -> dict[str, Array]:
    with torch_seeded(seed):
        return {"x": np.asarray(on_host(simulator(_given(theta, is_torch))), dtype=np.float32).reshape(-1)}


def _given(theta: Array, is_torch: bool) -> Any:
    """Return what a simulator is given, a copy: what a function is given is read-only, which tensors cannot be."""
    if not is_torch:
        return theta.copy()
    import torch  # only where it is used: it takes seconds, and dasksim does not need it

    return torch.tensor(theta)


def _rows(values: Any, batch_shape: tuple[int, ...]) -> Array:
    """Return a tensor as an array that begins with ``batch_shape``, if it has as many rows."""
    array = np.asarray(on_host(values), dtype=np.float32)
    if array.shape[:1] != (math.prod(batch_shape),):
        return array  # which is refused, with the name of the variable
    return array.reshape(*batch_shape, *array.shape[1:])

"""Distributions, as PyTorch, SciPy and sbi have them: priors, and what conditions may be drawn from."""

import contextlib
import functools
import inspect
import math
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.failures import Policy
from dasksim._core.plan import Plan
from dasksim._engine.chunks import simulate_chunk
from dasksim._engine.filter import FilterStage
from dasksim._engine.functions import BatchedStage
from dasksim._engine.resolution import resolve
from dasksim._engine.steps import Lowering
from dasksim.errors import ArgumentError

__all__ = ["drawn_conditions", "draws_of", "is_distribution", "on_host", "torch_seeded"]

Array = npt.NDArray[Any]

# Rows of a condition that are drawn at once, whole, so that the first ones are the same however many there are.
_ROWS = 512

# How posteriors and proposals of sbi are told not to speak of every few rows.
_SPEAKS = {"show_progress_bars", "print_rejected_frac"}

_lock = threading.RLock()  # PyTorch's global generator is one for all threads


def is_distribution(value: Any) -> bool:
    """Whether a value draws samples: by ``sample((n,))``, or as SciPy's by ``rvs(size=n)``; tables are none."""
    if hasattr(value, "__array__") or hasattr(value, "lower"):  # pandas samples rows, and a simulator is no value
        return False
    return any(callable(getattr(value, name, None)) for name in ("sample", "rvs"))


def draws_of(distribution: Any, n: int) -> Array:
    """Return ``n`` draws, the first axis theirs; of several distributions those of each as columns."""
    if isinstance(distribution, Sequence):
        return np.concatenate([draws_of(one, n).reshape(n, -1) for one in distribution], axis=1)
    if not callable(getattr(distribution, "sample", None)):
        drawn = np.asarray(distribution.rvs(size=n))
        return drawn if drawn.shape[:1] == (n,) else drawn.reshape(n, -1)  # SciPy leaves out the axis of one draw
    quietly = _SPEAKS.intersection(inspect.signature(distribution.sample).parameters)
    return on_host(distribution.sample((n,), **dict.fromkeys(quietly, False)))


def on_host(values: Any) -> Array:
    """Return a tensor as an array: NumPy takes none that has a gradient or is on a GPU."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


@contextlib.contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's global generators, those of GPUs too, if it is there, and put them back."""
    torch = sys.modules.get("torch")  # not imported for it: that takes seconds
    if torch is None:
        yield
        return
    # devices are named, since PyTorch warns where there are several and none is
    with _lock, torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def drawn_conditions(
    conditions: Mapping[str, Any], shape: tuple[int, ...], seed: int, lowering: Lowering
) -> dict[str, Any]:
    """Return conditions with draws in place of distributions, in memory: the same for a seed, whatever the length.

    Raises
    ------
    ArgumentError
        If the simulator rejects samples, of which each would keep the first draw.
    """
    drawn = [name for name, value in conditions.items() if is_distribution(value)]
    if drawn and any(isinstance(stage, FilterStage) for stage in lowering.stages):
        raise ArgumentError(
            f"condition {drawn[0]!r} is a distribution, and samples are rejected: one draw would stay with each sample "
            "until it is accepted; make a stage that draws from it, in place of the prior"
        )
    return {
        name: _rows(name, value, shape, seed) if is_distribution(value) else value for name, value in conditions.items()
    }


def _rows(name: str, distribution: Any, shape: tuple[int, ...], seed: int) -> Array:
    # a stage, whose randomness is that of its address, and leaves the caller's generators alone
    draw = functools.partial(_draw, distribution, name)
    n = math.prod(shape)
    pipeline = resolve(Lowering((BatchedStage(f"conditions/{name}", draw),)), {}, (n,), seed)
    plan = Plan(n, (), seed, _ROWS, -(-n // _ROWS) * _ROWS)
    values = simulate_chunk(pipeline, plan, 0, {}, Policy()).variables[name]
    return values.reshape(*shape, *values.shape[1:])


def _draw(distribution: Any, name: str, batch_shape: tuple[int, ...], seed: int) -> dict[str, Array]:
    with torch_seeded(seed):
        return {name: draws_of(distribution, math.prod(batch_shape))}

"""Simulators of BayesFlow as simulators of dasksim."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dasksim.errors import ArgumentTypeError
from dasksim.simulators.lambda_simulator import LambdaSimulator
from dasksim.simulators.simulator import Simulator

__all__ = ["from_bayesflow"]


def from_bayesflow(simulator: Any) -> Simulator:
    """Make a simulator of one of BayesFlow's.

    It becomes one batched stage. NumPy's and Python's generators that its functions reach are isolated like those of
    any function, so that samples are reproducible, and no two workers make the same ones.

    Parameters
    ----------
    simulator
        Any object with a method ``sample(batch_shape, **kwargs)`` that returns a dict of arrays. It is called with
        ``batch_shape=(n,)``; further batch axes are put back afterwards. A value without axes, such as one from
        BayesFlow's ``meta_fn``, stands in every row of its sub-batch. Conditions are passed on as keyword arguments.

    Returns
    -------
    Simulator

    Raises
    ------
    ArgumentTypeError
        If it has no method ``sample``.

    Examples
    --------
    >>> import numpy as np
    >>> class Normal:
    ...     def sample(self, batch_shape, loc=0.0):
    ...         return {"x": np.random.normal(loc, size=batch_shape)}
    >>> ds = from_bayesflow(Normal()).sample(1000, seed=2025, loc=100.0)
    >>> bool((ds.x > 50).all())
    True
    """
    if not callable(getattr(simulator, "sample", None)):
        raise ArgumentTypeError(
            f"simulator must have a method sample(batch_shape, **kwargs), as BayesFlow's have; got {simulator!r}"
        )
    # a partial, since the search for generators looks into it
    return LambdaSimulator(functools.partial(bayesflow, simulator), is_batched=True)


def bayesflow(simulator: Any, batch_shape: tuple[int, ...], **conditions: Any) -> Any:
    """Call BayesFlow's simulator on one flat batch; the name is that of the stage."""
    n, n_axes = math.prod(batch_shape), len(batch_shape)
    is_expanded = getattr(simulator, "expand_outputs", False)

    def flat(value: Any) -> Any:
        if np.shape(value)[:n_axes] != batch_shape:
            return value
        rows = value.reshape(n, *value.shape[n_axes:])
        return rows[:, 0] if is_expanded and rows.shape[1:] == (1,) else rows  # BayesFlow's stages see no such axis

    outputs = simulator.sample((n,), **{name: flat(value) for name, value in conditions.items()})
    if not isinstance(outputs, Mapping):
        return outputs
    return {name: _shaped(np.asarray(value), batch_shape) for name, value in outputs.items()}


def _shaped(array: Any, batch_shape: tuple[int, ...]) -> Any:
    if not array.ndim:
        return np.full(batch_shape, array)
    if len(array) != math.prod(batch_shape):
        return array  # which is refused, with the name of the variable
    return array.reshape(*batch_shape, *array.shape[1:])

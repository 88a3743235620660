r"""Two populations whose growth depends on each other, solved for many rows at once.

.. math::

    \dot x_1 = x_1 (g_1 + p_1 x_2), \quad \dot x_2 = x_2 (g_2 + p_2 x_1)

is Lotka-Volterra with :math:`g = (\alpha, -\gamma)` and :math:`p = (-\beta, \delta)`, and SIR, for the susceptible and
the infected, with :math:`g = (0, -\gamma)` and :math:`p = (-\beta, \beta)`.

A step is a Taylor series around its beginning, of the populations in units of their values there: the coefficients
follow from one product of two series. Their integrals move the logarithms, so that a population may fall below what
floating-point numbers hold and come back. The last terms of the series give the size of the step.
"""

import math
from types import ModuleType
from typing import Any

from dasksim._core.arrays import concat

__all__ = ["trajectories"]

# Highest power of a series, and how far a step may go in units of the fastest rate of growth. What grows within a step
# has all terms of one sign, so that they must have begun to fall for the last one kept to tell the sum of those left
# out; what decays has terms of alternating signs, whose sum is less than the first.
_ORDER = 12
_LARGEST_GROWTH = 4.0

# Steps after which a row has failed, hundreds of times what a row of a prior takes; and the largest logarithm of a
# population that is followed.
_MAX_STEPS = 20_000
_LARGEST_LOG = 300.0

# Rows that take their steps together: few enough for a core's cache, many enough that a call of NumPy is cheap. A GPU,
# which is busy with no less, takes all.
_BLOCK = 16384

# What a block knows of its rows: floats, and integers.
_LOGS, _GROWTH, _PULL, _TIME = slice(0, 2), slice(2, 4), slice(4, 6), 6
_ROW, _NEXT, _STEPS = range(3)


def trajectories(logs: Any, growth: Any, pull: Any, times: list[float], tolerance: float, xp: ModuleType) -> Any:
    """Return the logarithms of both populations at some times.

    Every row takes steps of its own sizes. A row that is done leaves its block, and what is left of all blocks fills
    new ones, so that a stiff row costs its own steps and nobody else's.

    Parameters
    ----------
    logs
        Logarithms at time 0, float64 of shape (2, rows); minus infinity for none.
    growth
        The rates of growth by themselves, float64 of shape (2, rows).
    pull
        What each of the other population adds to the rates, float64 of shape (2, rows).
    times
        At least one time >= 0, in increasing order.
    tolerance
        What the last terms of a series may change a logarithm by in one step. The errors add up and grow in the steep
        parts of a cycle.
    xp
        The array namespace.

    Returns
    -------
    array
        float64 of shape (2, times, rows). NaN where numbers are not finite, where a population passes 1e130, and where
        20 000 steps do not suffice.
    """
    n_rows = logs.shape[1]
    ends = xp.asarray([*times, math.inf], dtype=xp.float64)
    rows = xp.arange(n_rows)
    is_good = xp.all(xp.isfinite(growth) & xp.isfinite(pull) & (logs < _LARGEST_LOG), axis=0)
    # What a population of none would do is nothing to take small steps for.
    is_moved = is_good & (logs > -math.inf)
    growth, pull = xp.where(is_moved, growth, 0.0), xp.where(is_moved, pull, 0.0)
    logs = xp.where(is_good, logs, math.nan)
    numbers = concat([logs, growth, pull, xp.zeros((1, n_rows), dtype=xp.float64)], xp)
    left = (numbers, xp.stack([rows, xp.zeros_like(rows), xp.zeros_like(rows)]))
    made: list[tuple[Any, Any]] = []
    while left[0].shape[1]:
        n_left = left[0].shape[1]
        size = n_left if xp.__name__ == "cupy" else _BLOCK
        blocks = [slice(i, min(i + size, n_left)) for i in range(0, n_left, size)]
        parts = [_advance(left[0][:, block], left[1][:, block], ends, n_rows, tolerance, made, xp) for block in blocks]
        left = (concat([part[0] for part in parts], xp, 1), concat([part[1] for part in parts], xp, 1))
    # Values were recorded as rows passed the times; now they go in the order of times and rows.
    order = xp.argsort(concat([places for places, _ in made], xp))
    return xp.reshape(xp.take(concat([values for _, values in made], xp, 1), order, axis=1), (2, len(times), n_rows))


def _advance(
    numbers: Any, counts: Any, ends: Any, n_rows: int, tolerance: float, made: list[tuple[Any, Any]], xp: ModuleType
) -> tuple[Any, Any]:
    """Step the rows of a block until a quarter of them are done, and return the others."""
    n, n_times = counts.shape[1], ends.shape[0] - 1
    while True:
        numbers, counts = _step(numbers, counts, ends, n_rows, tolerance, made, xp)
        is_left = counts[_NEXT, :] < n_times
        # Written so that it holds for NaN too.
        is_lost = is_left & (~xp.all(numbers[_LOGS, :] < _LARGEST_LOG, axis=0) | (counts[_STEPS, :] >= _MAX_STEPS))
        lost = xp.nonzero(is_lost)[0]
        if lost.shape[0]:
            _give_up(xp.take(counts, lost, axis=1), n_times, n_rows, made, xp)
            is_left = is_left & ~is_lost
            counts[_NEXT, :] = xp.where(is_lost, n_times, counts[_NEXT, :])
            numbers[_LOGS, :] = xp.where(is_lost, 0.0, numbers[_LOGS, :])
        left = xp.nonzero(is_left)[0]
        # Not for each row that is done: to leave one out copies all others.
        if left.shape[0] <= 3 * n // 4:
            return xp.take(numbers, left, axis=1), xp.take(counts, left, axis=1)


def _give_up(counts: Any, n_times: int, n_rows: int, made: list[tuple[Any, Any]], xp: ModuleType) -> None:
    """Record that rows have no values from their next time on."""
    for i in range(n_times):
        rows = xp.take(counts[_ROW, :], xp.nonzero(counts[_NEXT, :] <= i)[0])
        made.append((i * n_rows + rows, xp.full((2, rows.shape[0]), math.nan, dtype=xp.float64)))


def _step(
    numbers: Any, counts: Any, ends: Any, n_rows: int, tolerance: float, made: list[tuple[Any, Any]], xp: ModuleType
) -> tuple[Any, Any]:
    """Move each row that is not done by one step, and record the values at the times that it passes."""
    logs, time = numbers[_LOGS, :], numbers[_TIME, :]
    growth, pull = numbers[_GROWTH, :], numbers[_PULL, :] * xp.exp(xp.flip(logs, axis=0))
    # In units of the fastest rate no coefficient overflows.
    unit = 1 / (xp.max(xp.abs(growth), axis=0) + xp.max(xp.abs(pull), axis=0) + 1e-30)
    growth, pull = growth * unit, pull * unit
    series = _integrals(growth, pull, xp)
    target = xp.take(ends, counts[_NEXT, :])
    is_done = counts[_NEXT, :] == ends.shape[0] - 1
    # The time before the last, which is infinite, is the last one asked for: no row steps beyond it.
    step = xp.where(is_done, 0.0, xp.minimum(_step_size(series, growth, pull, tolerance, xp) * unit, ends[-2] - time))
    next_times = counts[_NEXT, :]
    while True:
        # A step may pass several times, and is not cut short for them: the series gives the values in between.
        is_passed = time + step >= target
        passed = xp.nonzero(is_passed)[0]
        if not passed.shape[0]:
            break
        distance = xp.take((target - time) / unit, passed)
        start, g, p = (xp.take(part, passed, axis=1) for part in (logs, growth, pull))
        values = start + _moved(xp.take(series, passed, axis=2), g, p, distance, xp)
        made.append((xp.take(next_times * n_rows + counts[_ROW, :], passed), values))
        next_times = next_times + xp.asarray(is_passed, dtype=next_times.dtype)
        target = xp.take(ends, next_times)
    numbers = concat(
        [logs + _moved(series, growth, pull, step / unit, xp), numbers[2:6, :], (time + step)[None, :]], xp
    )
    return numbers, xp.stack([counts[_ROW, :], next_times, counts[_STEPS, :] + 1])


def _integrals(growth: Any, pull: Any, xp: ModuleType) -> Any:
    """Return the coefficients of the integrals of both populations over time, without the first, which is 0."""
    w = xp.empty((_ORDER + 1, *growth.shape), dtype=xp.float64)
    w[0, ...] = 1.0
    for i in range(_ORDER):
        product = xp.sum(w[: i + 1, 0, :] * w[i::-1, 1, :], axis=0)
        w[i + 1, ...] = (growth * w[i, ...] + pull * product) / (i + 1)
    w /= xp.reshape(xp.arange(1, _ORDER + 2, dtype=xp.float64), (-1, 1, 1))
    return w


def _step_size(series: Any, growth: Any, pull: Any, tolerance: float, xp: ModuleType) -> Any:
    """Return how far the last two terms of the series let a row go."""
    last = xp.max(xp.abs(series[-2:, ::-1, :] * pull), axis=1)
    logs = math.log(tolerance) - xp.log(xp.asarray(xp.maximum(last, 1e-30), dtype=xp.float32))
    powers = xp.asarray([[_ORDER], [_ORDER + 1]], dtype=xp.float32)
    step = xp.asarray(xp.exp(xp.min(logs / powers, axis=0)), dtype=xp.float64)
    fastest = xp.max(xp.maximum(growth, pull), axis=0)
    return xp.minimum(step, _LARGEST_GROWTH / xp.maximum(fastest, 1e-30))


def _moved(series: Any, growth: Any, pull: Any, step: Any, xp: ModuleType) -> Any:
    """Return by how much the logarithms change in a step."""
    total = series[-1, ...] * step
    for i in range(_ORDER - 1, -1, -1):
        total += series[i, ...]
        total *= step
    # The integral of each population moves the logarithm of the other.
    return growth * step + pull * xp.flip(total, axis=0)

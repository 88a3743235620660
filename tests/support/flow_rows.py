"""Rows of the equation of Lotka-Volterra and SIR, as the models solve them and as scipy does at tight tolerances."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import integrate

from dasksim.models import _flow
from dasksim.models.lotka_volterra import _TOLERANCE as LV_TOLERANCE
from dasksim.models.sir import _TOLERANCE as SIR_TOLERANCE

Array = NDArray[np.float64]

LV_TIMES = [2.1 * i for i in range(10)]
SIR_TIMES = [17.0 * i for i in range(10)]


def exact(logs: Array, growth: Array, pull: Array, times: list[float]) -> Array:
    """Return what scipy finds for all rows together, in logarithms."""

    def slope(_: float, y: Array) -> Array:
        y = y.reshape(2, -1)
        return np.ravel(growth + pull * np.exp(y[::-1]))

    solution = integrate.solve_ivp(
        slope, (0, times[-1]), logs.ravel(), method="DOP853", t_eval=times, rtol=3e-14, atol=1e-11
    )
    assert solution.success
    return np.asarray(np.swapaxes(solution.y.reshape(2, -1, len(times)), 1, 2))


def lv_rows(rates: Array, start: tuple[float, float] = (30.0, 1.0)) -> tuple[Array, Array, Array]:
    alpha, beta, gamma, delta = rates
    logs = np.zeros((2, rates.shape[1])) + np.log(start)[:, None]
    return logs, np.stack([alpha, -gamma]), np.stack([-beta, delta])


def sir_rows(rates: Array, infected: float = 1e-6) -> tuple[Array, Array, Array]:
    beta, gamma = rates
    logs = np.zeros((2, rates.shape[1])) + np.array([[math.log1p(-infected)], [math.log(infected)]])
    return logs, np.stack([np.zeros_like(gamma), -gamma]), np.stack([-beta, beta])


def lv_rates(z: Any) -> Array:
    return np.asarray(np.exp(0.5 * np.asarray(z).T + np.array([-0.125, -3, -0.125, -3])[:, None]))


def sir_rates(z: Any) -> Array:
    return np.asarray(np.exp(np.array([[0.5], [0.2]]) * np.asarray(z).T + np.log([[0.4], [0.125]])))


def solved(logs: Array, growth: Array, pull: Array, times: list[float], tolerance: float | None = None) -> Array:
    """Return what the models find, in logarithms."""
    default = SIR_TOLERANCE if times is SIR_TIMES else LV_TOLERANCE
    return np.asarray(_flow.trajectories(logs, growth, pull, times, tolerance or default, np))


def clipped(logs: Array) -> Array:
    return np.clip(logs, math.log(1e-10), math.log(1e4))


def normals(n: int, n_rates: int) -> Array:
    return np.random.default_rng(1).standard_normal((n, n_rates))

"""Lotka-Volterra: predators and prey."""

import math
from types import ModuleType
from typing import Any, Literal

from dasksim import simulators
from dasksim.errors import ArgumentError
from dasksim.models._benchmark import Draws, benchmark, check_variant, spaced
from dasksim.models._draws import normal
from dasksim.models._flow import trajectories

__all__ = ["lotka_volterra"]

_SMALLEST, _LARGEST = 1e-10, 1e4

# Errors are then below 1e-5 for draws of the prior, and below 1e-4 where all rates are five standard deviations off.
_TOLERANCE = 3e-8


def lotka_volterra(
    X0: float = 30,
    Y0: float = 1,
    T: float = 20,
    subsample: int | str | None = "original",
    flatten: bool = True,
    obs_noise: float = 0.1,
    dt: float = 0.1,
    variant: Literal["bayesflow", "sbibm"] = "bayesflow",
) -> "simulators.Simulator":
    r"""Lotka-Volterra: prey and predators over time, given four rates.

    .. math::

        \dot X = \alpha X - \beta X Y, \quad \dot Y = -\gamma Y + \delta X Y, \quad
        x_{kt} \sim \mathrm{LogNormal}(\log u_{kt}, \mathrm{obs\_noise}), \quad u_t = (X_t, Y_t)

    with :math:`\log(\alpha, \beta, \gamma, \delta) \sim N((-0.125, -3, -0.125, -3), 0.5)` and :math:`u` clipped to
    :math:`[10^{-10}, 10^4]`.

    Parameters
    ----------
    X0, Y0
        Prey and predators at time 0.
    T
        Time of the last point of the grid.
    subsample
        ``"original"`` for every 21st point of the grid, which are 10, an integer for so many points, as far apart as
        they can be from time 0 on, None for all.
    flatten
        Whether ``observables`` has one axis, with all prey before all predators.
    obs_noise
        Standard deviation of the logarithm of an observation.
    dt
        Distance of the points of the grid.
    variant
        Whose definition it is, ``"bayesflow"`` or ``"sbibm"``; they are equal.

    Returns
    -------
    Simulator
        Batched, with the variables ``parameters`` (4), dims ``("batch", "parameter")``, and ``observables``, dims
        ``("batch", "observable")`` or ``("batch", "time", "population")``, both float32.

    Notes
    -----
    The equation is solved in double precision for all samples at once, each with steps of its own, to an error below
    1e-4 in the logarithm of a population above :math:`10^{-10}`. A sample that needs more than 20 000 steps, whose
    populations pass 1e130, or whose parameters are not finite, has NaN; under the prior there is none.

    References
    ----------
    Lotka, A. J.: Analytical note on certain rhythmic relations in organic systems, PNAS 1920. Definition and defaults
    as in Lueckmann, J.-M. et al.: Benchmarking simulation-based inference, AISTATS 2021, task T.10, and BayesFlow
    2.0.12.

    Examples
    --------
    >>> ds = lotka_volterra(flatten=False).sample(100, seed=1)
    >>> ds.observables.dims, ds.time.values[:3].tolist()
    (('batch', 'time', 'population'), [0.0, 2.1, 4.2])
    """
    check_variant(variant)
    if not (X0 >= 0 and Y0 >= 0 and T > 0 and dt > 0 and obs_noise >= 0):
        raise ArgumentError(
            f"X0, Y0 and obs_noise must be >= 0, T and dt > 0; got {X0!r}, {Y0!r}, {obs_noise!r}, {T!r} and {dt!r}"
        )
    points = spaced(round(T / dt) + 1, subsample, 21)
    # rounded, since 63 * 0.1 is not 6.3
    times = [round(i * dt, 12) for i in points]
    start = [math.log(n) if n else -math.inf for n in (X0, Y0)]

    def prior(batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        z = normal((*batch_shape, 4), rng, xp)
        return {"parameters": xp.exp(0.5 * z + xp.asarray([-0.125, -3.0, -0.125, -3.0], dtype=z.dtype))}

    def observe(parameters: Any, batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        rates = xp.asarray(xp.reshape(parameters, (-1, 4)), dtype=xp.float64).T
        logs = xp.zeros((2, rates.shape[1]), dtype=xp.float64) + xp.asarray(start, dtype=xp.float64)[:, None]
        growth = xp.stack([rates[0, :], -rates[2, :]])
        pull = xp.stack([-rates[1, :], rates[3, :]])
        flow = trajectories(logs, growth, pull, times, _TOLERANCE, xp)
        # as logarithms: populations up to 1e130 are beyond single precision
        flow = xp.asarray(xp.clip(flow, math.log(_SMALLEST), math.log(_LARGEST)), dtype=xp.float32)
        # in one order of axes whatever `flatten` says, so that it changes no number
        x = normal((*batch_shape, 2, len(times)), rng, xp)
        x *= obs_noise
        x += xp.reshape(xp.moveaxis(flow, 2, 0), x.shape)
        x = xp.exp(x)
        if flatten:
            return {"observables": xp.reshape(x, (*batch_shape, 2 * len(times)))}
        return {"observables": xp.moveaxis(x, -1, -2)}

    coords: dict[str, Any] = {"parameter": ["alpha", "beta", "gamma", "delta"]}
    if flatten:
        coords["observable"] = [f"{kind} {t:g}" for kind in ("prey", "predators") for t in times]
        return benchmark(prior, observe, ["observable"], coords)
    return benchmark(
        prior, observe, ["time", "population"], {**coords, "time": times, "population": ["prey", "predators"]}
    )

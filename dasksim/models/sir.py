"""SIR: the infected in an epidemic."""

import math
from types import ModuleType
from typing import Any, Literal

from dasksim import simulators
from dasksim._core.checks import check_count
from dasksim.errors import ArgumentError
from dasksim.models._benchmark import Draws, benchmark, check_variant, spaced
from dasksim.models._draws import normal
from dasksim.models._flow import trajectories

__all__ = ["sir"]

# Errors are then below 3e-7 for draws of the prior, and where both rates are five standard deviations off.
_TOLERANCE = 3e-7


def sir(
    N: float = 1e6,
    T: int = 160,
    I0: float = 1.0,
    R0: float = 0.0,
    subsample: int | str | None = "original",
    total_count: int = 1000,
    scale_by_total: bool | None = None,
    variant: Literal["bayesflow", "sbibm"] = "bayesflow",
) -> "simulators.Simulator":
    r"""SIR: tests for an infection over the time of an epidemic, given the rates of contact and of recovery.

    .. math::

        \dot S = -\beta S I / N, \quad \dot I = \beta S I / N - \gamma I, \quad \dot R = \gamma I, \quad
        x_t \sim \mathrm{Binomial}(\mathrm{total\_count}, I_t / N)

    with :math:`\log \beta \sim N(\log 0.4, 0.5)` and :math:`\log \gamma \sim N(\log 0.125, 0.2)`.

    Parameters
    ----------
    N
        Size of the population.
    T
        Number of days: the grid is 0, 1, ..., T - 1.
    I0, R0
        The infected and the recovered at time 0.
    subsample
        ``"original"`` for every 17th day, which are 10, an integer for so many days, as far apart as they can be from
        day 0 on, None for all, with a last axis of size 1.
    total_count
        Number of tests.
    scale_by_total
        Whether the positive tests are divided by their number; by default in the variant ``"bayesflow"`` only.
    variant
        Whose definition it is, ``"bayesflow"`` or ``"sbibm"``; they differ in ``scale_by_total``.

    Returns
    -------
    Simulator
        Batched, with the variables ``parameters`` (2), dims ``("batch", "parameter")``, and ``observables``, dims
        ``("batch", "time")`` or ``("batch", "time", "population")``, both float32.

    Notes
    -----
    The equation is solved in double precision for all samples at once, each with steps of its own, to an error below
    1e-6 in :math:`I / N`. A sample that needs more than 20 000 steps, or whose parameters are not finite, has NaN;
    under the prior there is none.

    References
    ----------
    Kermack, W. O., McKendrick, A. G.: A contribution to the mathematical theory of epidemics, Proc. R. Soc. A 1927.
    Definition and defaults as in Lueckmann, J.-M. et al.: Benchmarking simulation-based inference, AISTATS 2021, task
    T.9, and BayesFlow 2.0.12.

    Examples
    --------
    >>> ds = sir().sample(100, seed=1)
    >>> ds.observables.dims, ds.time.values[:3].tolist()
    (('batch', 'time'), [0, 17, 34])
    """
    check_variant(variant)
    check_count("T", T)
    total_count = check_count("total_count", total_count)
    susceptible = N - I0 - R0
    if not (N > 0 and I0 >= 0 and R0 >= 0 and susceptible >= 0):
        raise ArgumentError(f"I0 and R0 must be >= 0 and at most N > 0 together; got {I0!r}, {R0!r} and {N!r}")
    times = spaced(T, subsample, 17)
    # as parts of N, so that no rate has to be divided by it
    start = [math.log(n / N) if n else -math.inf for n in (susceptible, I0)]
    is_scaled = variant == "bayesflow" if scale_by_total is None else scale_by_total

    def prior(batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        z = normal((*batch_shape, 2), rng, xp)
        scale, loc = xp.asarray([0.5, 0.2], dtype=z.dtype), xp.asarray([math.log(0.4), math.log(0.125)], dtype=z.dtype)
        return {"parameters": xp.exp(scale * z + loc)}

    def observe(parameters: Any, batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        rates = xp.asarray(xp.reshape(parameters, (-1, 2)), dtype=xp.float64).T
        beta, gamma = rates[0, :], rates[1, :]
        logs = xp.zeros((2, rates.shape[1]), dtype=xp.float64) + xp.asarray(start, dtype=xp.float64)[:, None]
        growth, pull = xp.stack([xp.zeros_like(gamma), -gamma]), xp.stack([-beta, beta])
        infected = xp.exp(trajectories(logs, growth, pull, [float(t) for t in times], _TOLERANCE, xp)[1, ...].T)
        is_failed = xp.isnan(infected)
        # NumPy refuses NaN for a probability, and errors of the solution may lead a little beyond 1
        p = xp.where(is_failed, 0.0, xp.clip(infected, 0.0, 1.0))
        x = xp.asarray(rng.binomial(total_count, p), dtype=xp.float32)
        x = xp.where(is_failed, math.nan, x)
        if is_scaled:
            x = x * (1 / total_count)
        return {"observables": xp.reshape(x, (*batch_shape, len(times), *(() if subsample is not None else (1,))))}

    coords: dict[str, Any] = {"parameter": ["beta", "gamma"], "time": list(times)}
    if subsample is not None:
        return benchmark(prior, observe, ["time"], coords)
    return benchmark(prior, observe, ["time", "population"], {**coords, "population": ["infected"]})

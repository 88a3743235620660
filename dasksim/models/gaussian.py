"""Gaussian models: a linear one with a Gaussian or a uniform prior, and a mixture of two scales."""

import math
from types import ModuleType
from typing import Any, Literal

from dasksim import simulators
from dasksim._core.checks import check_count
from dasksim.errors import ArgumentError
from dasksim.models._benchmark import Draws, benchmark, check_variant, labels
from dasksim.models._draws import normal, uniform

__all__ = ["gaussian_linear", "gaussian_linear_uniform", "gaussian_mixture"]


def gaussian_linear(
    D: int = 10,
    prior_scale: float | None = None,
    n_obs: int | None = None,
    obs_scale: float | None = None,
    variant: Literal["bayesflow", "sbibm"] = "bayesflow",
) -> "simulators.Simulator":
    r"""Gaussian linear: the mean of a normal distribution, with a normal prior.

    .. math::

        \theta_i \sim N(0, \mathrm{prior\_scale}), \quad x_i \sim N(\theta_i, \mathrm{obs\_scale}), \quad
        i = 1, \dots, D

    Parameters
    ----------
    D
        Number of parameters.
    prior_scale, obs_scale
        Standard deviations of the prior and of an observation. By default both are 0.1, or, in the variant ``"sbibm"``,
        the root of 0.1: its code takes 0.1 for a variance.
    n_obs
        Number of observations of all components; None for one without an axis of its own.
    variant
        Whose definition it is, ``"bayesflow"`` or ``"sbibm"``.

    Returns
    -------
    Simulator
        Batched, with the variables ``parameters``, dims ``("batch", "parameter")``, and ``observables``, dims
        ``("batch", "observable")`` or ``("batch", "observation", "observable")``, float32.

    References
    ----------
    Lueckmann, J.-M. et al.: Benchmarking simulation-based inference, AISTATS 2021, task T.1. Defaults of BayesFlow
    2.0.12 and sbibm 1.1.0.

    Examples
    --------
    >>> dict(gaussian_linear(n_obs=3).sample(1000, seed=1).observables.sizes)
    {'batch': 1000, 'observation': 3, 'observable': 10}
    """
    check_variant(variant)
    check_count("D", D)
    default = _default_scale(variant)
    spread = default if prior_scale is None else prior_scale

    def prior(batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        theta = normal((*batch_shape, D), rng, xp)
        theta *= spread
        return {"parameters": theta}

    return _noisy(prior, D, n_obs, default if obs_scale is None else obs_scale)


def gaussian_linear_uniform(
    D: int = 10,
    lower: float = -1.0,
    upper: float = 1.0,
    n_obs: int | None = None,
    obs_scale: float | None = None,
    variant: Literal["bayesflow", "sbibm"] = "bayesflow",
) -> "simulators.Simulator":
    r"""Gaussian linear uniform: the mean of a normal distribution, with a uniform prior.

    .. math::

        \theta_i \sim U(\mathrm{lower}, \mathrm{upper}), \quad x_i \sim N(\theta_i, \mathrm{obs\_scale}), \quad
        i = 1, \dots, D

    Parameters
    ----------
    D
        Number of parameters.
    lower, upper
        Bounds of the uniform prior, the same for all parameters.
    n_obs
        Number of observations of all components; None for one without an axis of its own.
    obs_scale
        Standard deviation of an observation. By default 0.1, or, in the variant ``"sbibm"``, the root of 0.1: its code
        takes 0.1 for a variance, which makes a different, harder task.
    variant
        Whose definition it is, ``"bayesflow"`` or ``"sbibm"``.

    Returns
    -------
    Simulator
        Batched, with the variables ``parameters``, dims ``("batch", "parameter")``, and ``observables``, dims
        ``("batch", "observable")`` or ``("batch", "observation", "observable")``, float32.

    References
    ----------
    Lueckmann, J.-M. et al.: Benchmarking simulation-based inference, AISTATS 2021, task T.2. Defaults of BayesFlow
    2.0.12 and sbibm 1.1.0.

    Examples
    --------
    >>> dict(gaussian_linear_uniform(D=4).sample(1000, seed=1).sizes)
    {'batch': 1000, 'parameter': 4, 'observable': 4}
    """
    check_variant(variant)
    check_count("D", D)

    def prior(batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        return {"parameters": uniform((*batch_shape, D), rng, xp, lower, upper)}

    return _noisy(prior, D, n_obs, _default_scale(variant) if obs_scale is None else obs_scale)


def _default_scale(variant: str) -> float:
    return math.sqrt(0.1) if variant == "sbibm" else 0.1


def _noisy(prior: Any, n_parameters: int, n_obs: int | None, scale: float) -> "simulators.Simulator":
    """Return the simulator that observes all parameters with normal noise."""
    repeats = () if n_obs is None else (check_count("n_obs", n_obs),)

    def observe(parameters: Any, batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        x = normal((*batch_shape, *repeats, n_parameters), rng, xp)
        x *= scale
        x += parameters[..., None, :] if repeats else parameters
        return {"observables": x}

    dims = ["observation", "observable"] if repeats else ["observable"]
    coords = {"parameter": labels("theta", n_parameters), "observable": labels("x", n_parameters)}
    return benchmark(prior, observe, dims, coords)


def gaussian_mixture(
    D: int = 2,
    lower: float = -10.0,
    upper: float = 10.0,
    prob: float = 0.5,
    scale_c1: float = 1.0,
    scale_c2: float = 0.1,
    variant: Literal["bayesflow", "sbibm"] = "bayesflow",
) -> "simulators.Simulator":
    r"""Gaussian mixture: the common mean of a wide and a narrow normal distribution.

    .. math::

        \theta_i \sim U(\mathrm{lower}, \mathrm{upper}), \quad k \sim \mathrm{Bernoulli}(\mathrm{prob}), \quad
        x_i \sim N(\theta_i, \sigma_k), \quad \sigma_0 = \mathrm{scale\_c1}, \ \sigma_1 = \mathrm{scale\_c2}

    with one :math:`k` for all components of a sample.

    Parameters
    ----------
    D
        Number of parameters.
    lower, upper
        Bounds of the uniform prior, the same for all parameters.
    prob
        Probability of the second distribution.
    scale_c1, scale_c2
        Standard deviations of the first and the second distribution.
    variant
        Whose definition it is, ``"bayesflow"`` or ``"sbibm"``; they are equal.

    Returns
    -------
    Simulator
        Batched, with the variables ``parameters``, dims ``("batch", "parameter")``, and ``observables``, dims
        ``("batch", "observable")``, both float32.

    References
    ----------
    Sisson, S. A., Fan, Y., Tanaka, M. M.: Sequential Monte Carlo without likelihoods, PNAS 2007. Definition and
    defaults as in Lueckmann, J.-M. et al.: Benchmarking simulation-based inference, AISTATS 2021, task T.7.

    Examples
    --------
    >>> dict(gaussian_mixture().sample(1000, seed=1).sizes)
    {'batch': 1000, 'parameter': 2, 'observable': 2}
    """
    check_variant(variant)
    check_count("D", D)
    if not 0 <= prob <= 1:
        raise ArgumentError(f"prob must be from 0 to 1; got {prob!r}")

    def prior(batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        return {"parameters": uniform((*batch_shape, D), rng, xp, lower, upper)}

    def observe(parameters: Any, batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        is_second = uniform(batch_shape, rng, xp) < prob
        x = normal((*batch_shape, D), rng, xp)
        # in the dtype of x: two numbers of Python would make an array of double precision
        x *= xp.where(is_second, xp.asarray(scale_c2, dtype=x.dtype), xp.asarray(scale_c1, dtype=x.dtype))[..., None]
        x += parameters
        return {"observables": x}

    return benchmark(prior, observe, ["observable"], {"parameter": labels("theta", D), "observable": labels("x", D)})

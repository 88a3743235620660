"""SLCP: a simple likelihood with a complex posterior, by itself and among distractors."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import numpy as np

from dasksim import simulators
from dasksim._core.arrays import concat
from dasksim._core.checks import check_count
from dasksim.errors import ArgumentError
from dasksim.models._benchmark import Draws, benchmark, check_variant, labels
from dasksim.models._draws import normal, uniform

__all__ = ["slcp", "slcp_distractors"]

# Added to the variances in the variant "sbibm".
_EPSILON = 1e-6

_N_COMPONENTS = 20
_N_FIXED = 92


def slcp(
    lower: float = -3.0,
    upper: float = 3.0,
    n_obs: int = 4,
    flatten: bool = True,
    variant: Literal["bayesflow", "sbibm"] = "bayesflow",
) -> "simulators.Simulator":
    r"""SLCP: mean and covariance of a bivariate normal distribution, in a parametrisation with four equal modes.

    .. math::

        \theta_i &\sim U(\mathrm{lower}, \mathrm{upper}), \quad i = 1, \dots, 5, \quad
        x_k \sim N(m, S), \quad k = 1, \dots, \mathrm{n\_obs} \\
        m &= (\theta_1, \theta_2), \quad
        S = \begin{pmatrix} s_1^2 & \rho s_1 s_2 \\ \rho s_1 s_2 & s_2^2 \end{pmatrix}, \quad
        s_1 = \theta_3^2, \ s_2 = \theta_4^2, \ \rho = \tanh \theta_5

    Parameters
    ----------
    lower, upper
        Bounds of the uniform prior, the same for all parameters.
    n_obs
        Number of observations.
    flatten
        Whether ``observables`` has one axis, of the first pair, then the second, and so on.
    variant
        Whose definition it is, ``"bayesflow"`` or ``"sbibm"``; the latter adds 1e-6 to both variances.

    Returns
    -------
    Simulator
        Batched, with the variables ``parameters`` (5), dims ``("batch", "parameter")``, and ``observables``, dims
        ``("batch", "observable")`` or ``("batch", "observation", "observable")``, both float32.

    References
    ----------
    Papamakarios, G., Sterratt, D., Murray, I.: Sequential neural likelihood, AISTATS 2019. Definition and defaults as
    in Lueckmann, J.-M. et al.: Benchmarking simulation-based inference, AISTATS 2021, task T.3.

    Examples
    --------
    >>> slcp(flatten=False).sample(1000, seed=1).observables.shape
    (1000, 4, 2)
    """
    check_variant(variant)
    check_count("n_obs", n_obs)
    epsilon = _EPSILON if variant == "sbibm" else 0.0

    def observe(parameters: Any, batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        x = _pairs(parameters, normal((2, *batch_shape, n_obs), rng, xp), epsilon, xp)
        return {"observables": xp.reshape(x, (*batch_shape, 2 * n_obs)) if flatten else x}

    return _simulator(_prior(lower, upper), observe, n_obs, flatten)


def slcp_distractors(
    lower: float = -3.0,
    upper: float = 3.0,
    n_obs: int = 4,
    n_dist: int = 46,
    mu_scale: float = 15.0,
    shape_scale: float = 0.01,
    flatten: bool = True,
    variant: Literal["bayesflow", "sbibm"] = "bayesflow",
) -> "simulators.Simulator":
    r"""SLCP with distractors: the observations of SLCP among others that tell nothing of the parameters.

    In the variant ``"bayesflow"`` a distractor is a pair from a mixture of 20 bivariate Student distributions with 2
    degrees of freedom, whose locations are drawn anew for every sample:

    .. math::

        \mu_j \sim N(0, \mathrm{mu\_scale}^2 I), \quad j = 1, \dots, 20, \quad
        x_k = \mu_{c_k} + \sqrt{\mathrm{shape\_scale} / e_k}\, z_k, \quad
        c_k \sim U\{1, \dots, 20\}, \ e_k \sim \mathrm{Exp}(1), \ z_k \sim N(0, I)

    (half of a chi-squared variable with 2 degrees of freedom is exponential). The informative pairs come first.

    In the variant ``"sbibm"`` all 92 distractors are one draw from a fixed mixture of 20 Student distributions with 2
    degrees of freedom, with correlated components, and the 100 columns are in a fixed order that mixes them with the
    informative ones.

    Parameters
    ----------
    lower, upper
        Bounds of the uniform prior, the same for all parameters.
    n_obs
        Number of informative pairs.
    n_dist
        Number of distracting pairs.
    mu_scale
        Standard deviation of the locations.
    shape_scale
        What the shape matrix has on its diagonal: the square of the scale.
    flatten
        Whether ``observables`` has one axis, of the first pair, then the second, and so on.
    variant
        Whose definition it is, ``"bayesflow"`` or ``"sbibm"``; the latter takes no other ``n_obs``, ``n_dist``,
        ``mu_scale``, ``shape_scale`` or ``flatten`` than the default.

    Returns
    -------
    Simulator
        Batched, with the variables ``parameters`` (5), dims ``("batch", "parameter")``, and ``observables`` (100), dims
        ``("batch", "observable")`` or ``("batch", "observation", "observable")``, both float32.

    Notes
    -----
    BayesFlow's argument ``dim`` is missing: it fails with any value but 2. The constants of sbibm are made as its
    source says, from ``numpy.random.RandomState(42)``, whose stream NumPy keeps. They were compared with those in the
    files of sbibm 1.1.0: the order of the columns is equal, and locations and scales differ by 4e-15 at most.

    References
    ----------
    Greenberg, D., Nonnenmacher, M., Macke, J.: Automatic posterior transformation for likelihood-free inference, ICML
    2019. Definition and defaults as in Lueckmann, J.-M. et al.: Benchmarking simulation-based inference, AISTATS 2021,
    task T.4.

    Examples
    --------
    >>> slcp_distractors().sample(1000, seed=1).observables.shape
    (1000, 100)
    """
    check_variant(variant)
    check_count("n_obs", n_obs)
    check_count("n_dist", n_dist)
    if variant == "sbibm":
        if (n_obs, n_dist, mu_scale, shape_scale, flatten) != (4, 46, 15.0, 0.01, True):
            raise ArgumentError(
                "slcp_distractors(variant='sbibm') has fixed distractors; leave out n_obs, n_dist, mu_scale, "
                "shape_scale and flatten"
            )
        return _simulator(_prior(lower, upper), _among_fixed_distractors(), 50, True)
    scale = math.sqrt(shape_scale)

    def observe(parameters: Any, batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        informative = _pairs(parameters, normal((2, *batch_shape, n_obs), rng, xp), 0.0, xp)
        n_rows = math.prod(batch_shape)
        location = normal((2, n_rows * _N_COMPONENTS), rng, xp)
        location *= mu_scale
        component = xp.asarray(rng.integers(0, _N_COMPONENTS, size=(n_rows, n_dist)))
        # the locations of all rows lie behind each other, so that one take finds them
        component += xp.arange(0, n_rows * _N_COMPONENTS, _N_COMPONENTS)[:, None]
        distractors = normal((2, n_rows * n_dist), rng, xp)
        distractors *= scale * _inverse_root((n_rows * n_dist,), rng, xp)
        distractors += xp.take(location, xp.reshape(component, (-1,)), axis=1)
        pairs = xp.stack([distractors[0, :], distractors[1, :]], axis=-1)
        x = concat([informative, xp.reshape(pairs, (*batch_shape, n_dist, 2))], xp, axis=-2)
        return {"observables": xp.reshape(x, (*batch_shape, 2 * (n_obs + n_dist))) if flatten else x}

    return _simulator(_prior(lower, upper), observe, n_obs + n_dist, flatten)


def _among_fixed_distractors() -> Callable[..., Draws]:
    """Return the observation model of sbibm."""
    # in the order of sbibm's source: what is drawn depends on what was drawn before
    numbers = np.random.RandomState(42)
    location = np.stack([15 * numbers.normal(size=_N_FIXED) for _ in range(_N_COMPONENTS)]).astype("float32")
    scale = np.zeros((_N_COMPONENTS, _N_FIXED, _N_FIXED), "float32")
    for k in range(_N_COMPONENTS):
        lower = np.tril(numbers.normal(size=(_N_FIXED, _N_FIXED)))
        scale[k] = 3 * (lower + np.diag(np.exp(numbers.normal(size=_N_FIXED))))
    columns = numbers.permutation(_N_FIXED + 8)

    def observe(parameters: Any, batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        informative = _pairs(parameters, normal((2, *batch_shape, 4), rng, xp), _EPSILON, xp)
        n_rows = math.prod(batch_shape)
        component = xp.asarray(rng.integers(0, _N_COMPONENTS, size=n_rows))
        z = normal((n_rows, _N_FIXED), rng, xp)
        z *= _inverse_root((n_rows, 1), rng, xp)
        order, parts = [], []
        for k in range(_N_COMPONENTS):
            # one product of matrices for all rows of a component
            rows = xp.nonzero(component == k)[0]
            part = xp.matmul(xp.take(z, rows, axis=0), xp.asarray(scale[k].T))
            part += xp.asarray(location[k])
            order.append(rows)
            parts.append(part)
        distractors = xp.take(concat(parts, xp), xp.argsort(concat(order, xp)), axis=0)
        x = concat([xp.reshape(informative, (n_rows, 8)), distractors], xp, axis=1)
        return {"observables": xp.reshape(xp.take(x, xp.asarray(columns), axis=1), (*batch_shape, _N_FIXED + 8))}

    return observe


def _prior(lower: float, upper: float) -> Callable[..., Draws]:
    def prior(batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        return {"parameters": uniform((*batch_shape, 5), rng, xp, lower, upper)}

    return prior


def _simulator(
    prior: Callable[..., Draws], observe: Callable[..., Draws], n_pairs: int, flatten: bool
) -> "simulators.Simulator":
    coords = {"parameter": labels("theta", 5), "observable": labels("x", 2 * n_pairs if flatten else 2)}
    return benchmark(prior, observe, ["observable"] if flatten else ["observation", "observable"], coords)


def _pairs(parameters: Any, z: Any, epsilon: float, xp: ModuleType) -> Any:
    """Return pairs with the mean and covariance of the parameters, from standard normal draws.

    With the lower triangular root of the covariance. For ``epsilon = 0`` it is ``s1``, ``rho s2`` and
    ``sqrt(1 - rho**2) s2``, where ``sqrt(1 - tanh(t)**2) = 1 / cosh(t)`` loses no digits.
    """
    first, second, s1, s2, t = (parameters[..., i, None] for i in range(5))
    # 1 / cosh(t) by a power that cannot overflow
    decay = xp.exp(-xp.abs(t))
    s1, s2, rho, rest = s1 * s1, s2 * s2, xp.tanh(t), 2 * decay / (1 + decay * decay)
    if epsilon:
        root = xp.sqrt(s1 * s1 + epsilon)
        rest = xp.sqrt((rest * s1 * s2) ** 2 + epsilon * (s2 * s2 + root * root)) / root
        s1, rho, s2 = root, rho * s1 * s2 / root, xp.ones_like(s2)
    x = first + s1 * z[0, ...]
    y = second + s2 * (rho * z[0, ...] + rest * z[1, ...])
    return xp.stack([x, y], axis=-1)


def _inverse_root(shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Any:
    """Return ``1 / sqrt(e)``, ``e`` exponential: what makes a normal draw one of Student with 2 degrees of freedom.

    Drawn in double precision: the smallest values make the tails, and in single precision some are 0.
    """
    return 1 / xp.sqrt(xp.asarray(rng.standard_exponential(shape), dtype=xp.float32))

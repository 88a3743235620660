"""Bernoulli GLM: binary responses to a stimulus, as they are or by their sufficient statistics."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dasksim import simulators
from dasksim._core.arrays import concat
from dasksim._core.checks import check_count
from dasksim.models._benchmark import Draws, benchmark, check_variant, labels
from dasksim.models._draws import normal, uniform

__all__ = ["bernoulli_glm", "bernoulli_glm_raw"]

_N_WEIGHTS = 9
_PARAMETERS = ["offset", *labels("weight", _N_WEIGHTS)]

Array = npt.NDArray[Any]


def bernoulli_glm(
    T: int = 100,
    scale_by_T: bool | None = None,
    variant: Literal["bayesflow", "sbibm"] = "bayesflow",
) -> "simulators.Simulator":
    r"""Bernoulli GLM: sufficient statistics of binary responses to a stimulus, given an offset and nine weights.

    .. math::

        \beta \sim N(0, \sigma), \quad f \sim N(0, (F^\top F)^{-1}), \quad
        z_t \sim \mathrm{Bernoulli}(\mathrm{logistic}(v_t^\top f + \beta)), \quad t = 1, \dots, T, \quad
        x = \left(\sum_t z_t, \sum_t z_t v_t\right)

    where :math:`F` penalises second differences of the weights. In the variant ``"bayesflow"`` :math:`\sigma = 2`, all
    :math:`v_t \sim N(0, I)` are drawn anew for every sample, and :math:`x` is divided by :math:`T`. In the variant
    ``"sbibm"`` :math:`\sigma = \sqrt 2`, and :math:`v_t` holds the last nine values of one fixed stimulus.

    Parameters
    ----------
    T
        Number of responses.
    scale_by_T
        Whether the statistics are divided by ``T``; by default in the variant ``"bayesflow"`` only.
    variant
        Whose definition it is, ``"bayesflow"`` or ``"sbibm"``.

    Returns
    -------
    Simulator
        Batched, with the variables ``parameters`` (10), dims ``("batch", "parameter")``, and ``observables`` (10), dims
        ``("batch", "observable")``, both float32.

    Notes
    -----
    The new stimulus of the variant ``"bayesflow"`` takes 2 T + 9 draws a sample instead of 10 T. Let :math:`e` be the
    direction of :math:`f`. Then :math:`v_t = e u_t + w_t` with independent :math:`u_t \sim N(0, 1)` and
    :math:`w_t \sim N(0, I - e e^\top)`. The responses depend on :math:`v_t^\top f = |f| u_t` alone, so that given the
    responses the :math:`w_t` are still independent and normal, and

    .. math::

        \sum_t z_t v_t = e \sum_t z_t u_t + \sum_t z_t w_t, \quad
        \sum_t z_t w_t \sim N\left(0, n (I - e e^\top)\right), \quad n = \sum_t z_t .

    The last term is drawn at once, as the part of :math:`\sqrt n\, N(0, I)` that is orthogonal to :math:`e`.

    References
    ----------
    Gonçalves, P. J. et al.: Training deep neural density estimators to identify mechanistic models of neural dynamics,
    eLife 2020. Definition as in Lueckmann, J.-M. et al.: Benchmarking simulation-based inference, AISTATS 2021, task
    T.5; defaults of BayesFlow 2.0.12 and sbibm 1.1.0.

    Examples
    --------
    >>> dict(bernoulli_glm().sample(1000, seed=1).sizes)
    {'batch': 1000, 'parameter': 10, 'observable': 10}
    """
    check_variant(variant)
    check_count("T", T)
    is_scaled = variant == "bayesflow" if scale_by_T is None else scale_by_T
    factor = 1 / T if is_scaled else 1.0
    design = _fixed_design(T)

    def observe_new(parameters: Any, batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        weights = parameters[..., 1:]
        length = xp.sqrt(xp.sum(weights * weights, axis=-1, keepdims=True))
        direction = weights / xp.maximum(length, 1e-30)  # 0 for no weights: w is all there is
        along = normal((*batch_shape, T), rng, xp)
        z = _responses(parameters[..., :1] + length * along, rng, xp)
        n = xp.sum(z, axis=-1, keepdims=True)
        rest = normal((*batch_shape, _N_WEIGHTS), rng, xp)
        # without its part in the direction of the weights, which `along` has
        rest -= direction * xp.sum(direction * rest, axis=-1, keepdims=True)
        along *= z
        x = concat([n, direction * xp.sum(along, axis=-1, keepdims=True) + xp.sqrt(n) * rest], xp, axis=-1)
        x *= factor
        return {"observables": x}

    def observe_fixed(parameters: Any, rng: Any, xp: ModuleType) -> Draws:
        v = xp.asarray(design)
        x = xp.matmul(_responses(xp.matmul(parameters, v.T), rng, xp), v)
        x *= factor
        return {"observables": x}

    coords = {"parameter": _PARAMETERS, "observable": ["n", *labels("v", _N_WEIGHTS)]}
    observe = observe_fixed if variant == "sbibm" else observe_new
    return benchmark(_prior(variant), observe, ["observable"], coords)


def bernoulli_glm_raw(T: int = 100, variant: Literal["bayesflow", "sbibm"] = "bayesflow") -> "simulators.Simulator":
    r"""Bernoulli GLM raw: binary responses to a stimulus, given an offset and nine weights.

    .. math::

        \beta \sim N(0, \sigma), \quad f \sim N(0, (F^\top F)^{-1}), \quad
        z_t \sim \mathrm{Bernoulli}(\mathrm{logistic}(v_t^\top f + \beta)), \quad t = 1, \dots, T

    with the priors and stimuli of :func:`bernoulli_glm`. In the variant ``"bayesflow"`` the observables are
    :math:`(z_t, v_t)`, in the variant ``"sbibm"`` they are :math:`z_t` alone, as :math:`v_t` is fixed.

    Parameters
    ----------
    T
        Number of responses.
    variant
        Whose definition it is, ``"bayesflow"`` or ``"sbibm"``.

    Returns
    -------
    Simulator
        Batched, with the variables ``parameters`` (10), dims ``("batch", "parameter")``, and ``observables``, dims
        ``("batch", "time", "observable")`` of sizes T and 10 or, in the variant ``"sbibm"``, ``("batch", "time")``,
        both float32.

    References
    ----------
    As for :func:`bernoulli_glm`; task T.6.

    Examples
    --------
    >>> bernoulli_glm_raw().sample(100, seed=1).observables.shape
    (100, 100, 10)
    """
    check_variant(variant)
    check_count("T", T)
    design = _fixed_design(T)

    def observe_new(parameters: Any, batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        x = normal((*batch_shape, T, 1 + _N_WEIGHTS), rng, xp)
        x[..., 0] = 1.0  # by the offset; the response takes its place, so that nothing large is copied
        x[..., 0] = _responses(xp.matmul(x, parameters[..., None])[..., 0], rng, xp)
        return {"observables": x}

    def observe_fixed(parameters: Any, rng: Any, xp: ModuleType) -> Draws:
        return {"observables": _responses(xp.matmul(parameters, xp.asarray(design).T), rng, xp)}

    coords = {"parameter": _PARAMETERS, "time": range(T)}
    if variant == "sbibm":
        return benchmark(_prior(variant), observe_fixed, ["time"], coords)
    coords["observable"] = ["z", *labels("v", _N_WEIGHTS)]
    return benchmark(_prior(variant), observe_new, ["time", "observable"], coords)


def _prior(variant: str) -> Callable[..., Draws]:
    """Return the prior of an offset and of weights whose second differences are small."""
    penalty = np.diag(1 + np.sqrt(np.arange(_N_WEIGHTS) / _N_WEIGHTS))
    penalty += np.diag(np.full(_N_WEIGHTS - 1, -2.0), -1) + np.diag(np.ones(_N_WEIGHTS - 2), -2)
    root = np.zeros((_N_WEIGHTS + 1, _N_WEIGHTS + 1))
    root[0, 0] = 2.0 if variant == "bayesflow" else math.sqrt(2.0)
    # f = F^-1 z has the covariance (F^T F)^-1
    root[1:, 1:] = np.linalg.inv(penalty)
    root_transposed = np.ascontiguousarray(root.T, dtype="float32")

    def prior(batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        z = normal((*batch_shape, _N_WEIGHTS + 1), rng, xp)
        return {"parameters": xp.matmul(z, xp.asarray(root_transposed))}

    return prior


def _fixed_design(n: int) -> Array:
    """Return the design of sbibm: ones, and its stimulus with lags of 0 to 8, 0 before it begins."""
    # NumPy keeps the stream of RandomState, so that these are sbibm's numbers in all versions
    stimulus = np.random.RandomState(42).randn(n)
    design = np.ones((n, _N_WEIGHTS + 1))
    for lag in range(_N_WEIGHTS):
        design[:, 1 + lag] = np.concatenate([np.zeros(lag), stimulus])[:n]
    return design.astype("float32")


def _responses(logits: Any, rng: Any, xp: ModuleType) -> Any:
    """Draw 0 or 1, with the logistic of the logits, in a form without overflow, as the probability of 1."""
    p = xp.tanh(0.5 * logits)
    p *= 0.5
    p += 0.5
    return xp.asarray(uniform(tuple(logits.shape), rng, xp) < p, dtype=p.dtype)

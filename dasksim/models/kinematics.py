"""Inverse kinematics: where the hand of an arm of three segments is."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

from dasksim import simulators
from dasksim.errors import ArgumentError
from dasksim.models._benchmark import Draws, benchmark, check_variant, labels
from dasksim.models._draws import normal

__all__ = ["inverse_kinematics"]


def inverse_kinematics(
    scales: Sequence[float] = (0.25, 0.5, 0.5, 0.5),
    l1: float = 0.5,
    l2: float = 0.5,
    l3: float = 1.0,
    variant: Literal["bayesflow"] = "bayesflow",
) -> "simulators.Simulator":
    r"""Inverse kinematics: height and three angles of an arm, from the position of its hand, without noise.

    .. math::

        \theta_i &\sim N(0, \mathrm{scales}_i) \\
        x_1 &= \theta_1 + l_1 \sin \varphi_1 + l_2 \sin \varphi_2 + l_3 \sin \varphi_3 \\
        x_2 &= l_1 \cos \varphi_1 + l_2 \cos \varphi_2 + l_3 \cos \varphi_3 \\
        \varphi &= (\theta_2,\ \theta_2 + \theta_3,\ \theta_2 + \theta_3 + \theta_4)

    Parameters
    ----------
    scales
        Standard deviations of the four parameters.
    l1, l2, l3
        Lengths of the segments.
    variant
        Whose definition it is: ``"bayesflow"``. sbibm has none.

    Returns
    -------
    Simulator
        Batched, with the variables ``parameters`` (4), dims ``("batch", "parameter")``, and ``observables`` (2), dims
        ``("batch", "observable")``, both float32.

    References
    ----------
    Kruse, J. et al.: Benchmarking invertible architectures on inverse problems, 2021, arXiv:2101.10763. Defaults of
    BayesFlow 2.0.12.

    Examples
    --------
    >>> dict(inverse_kinematics().sample(1000, seed=1).sizes)
    {'batch': 1000, 'parameter': 4, 'observable': 2}
    """
    check_variant(variant, ("bayesflow",))
    spread = [float(scale) for scale in scales]
    if len(spread) != 4:
        raise ArgumentError(f"scales must be 4 numbers, one for each parameter; got {scales!r}")

    def prior(batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        theta = normal((*batch_shape, 4), rng, xp)
        theta *= xp.asarray(spread, dtype=theta.dtype)
        return {"parameters": theta}

    def observe(parameters: Any, xp: ModuleType) -> Draws:
        first = parameters[..., 1] + 0.0  # contiguous
        second = first + parameters[..., 2]
        third = second + parameters[..., 3]
        height = parameters[..., 0] + l1 * xp.sin(first) + l2 * xp.sin(second) + l3 * xp.sin(third)
        reach = l1 * xp.cos(first) + l2 * xp.cos(second) + l3 * xp.cos(third)
        return {"observables": xp.stack([height, reach], axis=-1)}

    return benchmark(prior, observe, ["observable"], {"parameter": labels("theta", 4), "observable": labels("x", 2)})

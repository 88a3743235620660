"""Two moons: a posterior of two crescents."""

import math
from types import ModuleType
from typing import Any, Literal

from dasksim import simulators
from dasksim.models._benchmark import Draws, benchmark, check_variant, labels
from dasksim.models._draws import normal, uniform

__all__ = ["two_moons"]


def two_moons(
    lower: float = -1.0, upper: float = 1.0, variant: Literal["bayesflow", "sbibm"] = "bayesflow"
) -> "simulators.Simulator":
    r"""Two moons: two parameters, two observables, a bimodal posterior of two crescents.

    .. math::

        \theta_1, \theta_2 &\sim U(\mathrm{lower}, \mathrm{upper}), \quad
        a \sim U(-\pi/2, \pi/2), \quad r \sim N(0.1, 0.01) \\
        x_1 &= r \cos a + 0.25 - |\theta_1 + \theta_2| / \sqrt 2 \\
        x_2 &= r \sin a + (-\theta_1 + \theta_2) / \sqrt 2

    Parameters
    ----------
    lower, upper
        Bounds of the uniform prior, the same for both parameters.
    variant
        Whose definition it is, ``"bayesflow"`` or ``"sbibm"``; they are equal.

    Returns
    -------
    Simulator
        Batched, with the variables ``parameters``, dims ``("batch", "parameter")``, and ``observables``, dims
        ``("batch", "observable")``, both of size 2 and float32.

    References
    ----------
    Greenberg, D., Nonnenmacher, M., Macke, J.: Automatic posterior transformation for likelihood-free inference, ICML
    2019. Definition and defaults as in Lueckmann, J.-M. et al.: Benchmarking simulation-based inference, AISTATS 2021.

    Examples
    --------
    >>> dict(two_moons().sample(1000, seed=1).sizes)
    {'batch': 1000, 'parameter': 2, 'observable': 2}
    """
    check_variant(variant)
    half_root = math.sqrt(0.5)

    def prior(batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        return {"parameters": uniform((*batch_shape, 2), rng, xp, lower, upper)}

    def observe(parameters: Any, batch_shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Draws:
        angle = uniform(batch_shape, rng, xp, -math.pi / 2, math.pi / 2)
        radius = 0.1 + 0.01 * normal(batch_shape, rng, xp)
        first, second = parameters[..., 0], parameters[..., 1]
        x = radius * xp.cos(angle) + 0.25 - half_root * xp.abs(first + second)
        y = radius * xp.sin(angle) + half_root * (second - first)
        return {"observables": xp.stack([x, y], axis=-1)}

    return benchmark(prior, observe, ["observable"], {"parameter": labels("theta", 2), "observable": labels("x", 2)})

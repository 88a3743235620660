"""All models by name."""

from collections.abc import Callable

from dasksim import simulators
from dasksim.models.bernoulli_glm import bernoulli_glm, bernoulli_glm_raw
from dasksim.models.gaussian import gaussian_linear, gaussian_linear_uniform, gaussian_mixture
from dasksim.models.graphical import crossed_design_irt, single_level, three_level, two_level
from dasksim.models.kinematics import inverse_kinematics
from dasksim.models.lotka_volterra import lotka_volterra
from dasksim.models.sir import sir
from dasksim.models.slcp import slcp, slcp_distractors
from dasksim.models.two_moons import two_moons

__all__ = ["MODELS"]

#: All models by name.
MODELS: dict[str, Callable[..., "simulators.Simulator"]] = {
    model.__name__: model
    for model in (
        two_moons,
        gaussian_linear,
        gaussian_linear_uniform,
        gaussian_mixture,
        slcp,
        slcp_distractors,
        bernoulli_glm,
        bernoulli_glm_raw,
        sir,
        lotka_volterra,
        inverse_kinematics,
        single_level,
        two_level,
        three_level,
        crossed_design_irt,
    )
}

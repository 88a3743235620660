from ._registry import MODELS
from .bernoulli_glm import bernoulli_glm, bernoulli_glm_raw
from .gaussian import gaussian_linear, gaussian_linear_uniform, gaussian_mixture
from .graphical import crossed_design_irt, single_level, three_level, two_level
from .kinematics import inverse_kinematics
from .lotka_volterra import lotka_volterra
from .sir import sir
from .slcp import slcp, slcp_distractors
from .two_moons import two_moons

__all__ = [
    "MODELS",
    "bernoulli_glm",
    "bernoulli_glm_raw",
    "crossed_design_irt",
    "gaussian_linear",
    "gaussian_linear_uniform",
    "gaussian_mixture",
    "inverse_kinematics",
    "lotka_volterra",
    "single_level",
    "sir",
    "slcp",
    "slcp_distractors",
    "three_level",
    "two_level",
    "two_moons",
]

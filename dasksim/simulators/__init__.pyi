from .drawing import VariableInfo
from .graphical_simulator import GraphicalSimulator
from .hierarchical_simulator import HierarchicalSimulator
from .lambda_simulator import LambdaSimulator
from .make import SimulatorLike, as_simulator, is_simulator_like, make_simulator
from .model_comparison_simulator import ModelComparisonSimulator
from .rejection_simulator import RejectionSimulator
from .sequential_simulator import SequentialSimulator
from .simulator import Simulator
from .wrap_bayesflow import from_bayesflow
from .wrap_sbi import from_sbi

__all__ = [
    "GraphicalSimulator",
    "HierarchicalSimulator",
    "LambdaSimulator",
    "ModelComparisonSimulator",
    "RejectionSimulator",
    "SequentialSimulator",
    "Simulator",
    "SimulatorLike",
    "VariableInfo",
    "as_simulator",
    "from_bayesflow",
    "from_sbi",
    "is_simulator_like",
    "make_simulator",
]

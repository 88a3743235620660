"""What users declare: one class a file, each of which lowers to stages."""

from dasksim.simulators.graphical_simulator import GraphicalSimulator
from dasksim.simulators.hierarchical_simulator import HierarchicalSimulator
from dasksim.simulators.lambda_simulator import LambdaSimulator
from dasksim.simulators.make import make_simulator
from dasksim.simulators.model_comparison_simulator import ModelComparisonSimulator
from dasksim.simulators.rejection_simulator import RejectionSimulator
from dasksim.simulators.sequential_simulator import SequentialSimulator
from dasksim.simulators.simulator import Simulator
from dasksim.simulators.wrap_bayesflow import from_bayesflow
from dasksim.simulators.wrap_sbi import from_sbi

__all__ = [
    "GraphicalSimulator",
    "HierarchicalSimulator",
    "LambdaSimulator",
    "ModelComparisonSimulator",
    "RejectionSimulator",
    "SequentialSimulator",
    "Simulator",
    "from_bayesflow",
    "from_sbi",
    "make_simulator",
]

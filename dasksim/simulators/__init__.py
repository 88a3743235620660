"""What users declare: one class a file, each of which lowers to stages."""

from dasksim.simulators.lambda_simulator import LambdaSimulator
from dasksim.simulators.make import make_simulator
from dasksim.simulators.sequential_simulator import SequentialSimulator
from dasksim.simulators.simulator import Simulator

__all__ = ["LambdaSimulator", "SequentialSimulator", "Simulator", "make_simulator"]

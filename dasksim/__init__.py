"""Simulate training sets for simulation-based inference, lazily, in parallel, and with the same bits every time."""

from dasksim._version import __version__
from dasksim.errors import (
    ArgumentError,
    ArgumentTypeError,
    DasksimError,
    IncompleteStoreError,
    OutputError,
    SimulatorError,
    StoreError,
    StoreMismatchError,
)
from dasksim.simulators import LambdaSimulator, SequentialSimulator, Simulator, make_simulator

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "DasksimError",
    "IncompleteStoreError",
    "LambdaSimulator",
    "OutputError",
    "SequentialSimulator",
    "Simulator",
    "SimulatorError",
    "StoreError",
    "StoreMismatchError",
    "__version__",
    "make_simulator",
]

"""Simulate training sets for simulation-based inference, lazily, in parallel, and with the same bits every time."""

from dasksim import loaders, models, plots
from dasksim._analysis.arviz import to_arviz
from dasksim._analysis.report import report
from dasksim._core.failures import Failure
from dasksim._operations.derive import derive
from dasksim._operations.generate import extend, generate
from dasksim._operations.replay import Replay, StageReplay, replay
from dasksim._operations.verify import Verification, verify
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
from dasksim.external import ExternalProgram
from dasksim.simulators import (
    GraphicalSimulator,
    HierarchicalSimulator,
    LambdaSimulator,
    ModelComparisonSimulator,
    RejectionSimulator,
    SequentialSimulator,
    Simulator,
    from_bayesflow,
    from_sbi,
    make_simulator,
)
from dasksim.store import Status, open_dataset, status

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "DasksimError",
    "ExternalProgram",
    "Failure",
    "GraphicalSimulator",
    "HierarchicalSimulator",
    "IncompleteStoreError",
    "LambdaSimulator",
    "ModelComparisonSimulator",
    "OutputError",
    "RejectionSimulator",
    "Replay",
    "SequentialSimulator",
    "Simulator",
    "SimulatorError",
    "StageReplay",
    "Status",
    "StoreError",
    "StoreMismatchError",
    "Verification",
    "__version__",
    "derive",
    "extend",
    "from_bayesflow",
    "from_sbi",
    "generate",
    "loaders",
    "make_simulator",
    "models",
    "open_dataset",
    "plots",
    "replay",
    "report",
    "status",
    "to_arviz",
    "verify",
]

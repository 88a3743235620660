from . import errors, loaders, models, plots, random
from ._analysis.arviz import to_arviz
from ._analysis.report import report
from ._core.accessor import DatasetAccessor
from ._core.audits import AuditOutcome
from ._core.failures import Failure
from ._operations.check import SimulatorCheck, check
from ._operations.derive import derive
from ._operations.generate import extend, generate
from ._operations.replay import Replay, StageReplay, replay
from ._operations.verify import Verification, verify
from ._version import __version__
from .errors import (
    ArgumentError,
    ArgumentTypeError,
    DasksimError,
    IncompleteStoreError,
    IrreproducibleError,
    OutputError,
    SimulatorError,
    StoreError,
    StoreMismatchError,
)
from .external import ExternalProgram
from .simulators import (
    GraphicalSimulator,
    HierarchicalSimulator,
    LambdaSimulator,
    ModelComparisonSimulator,
    RejectionSimulator,
    SequentialSimulator,
    Simulator,
    VariableInfo,
    from_bayesflow,
    from_sbi,
    make_simulator,
)
from .store import Status, open_dataset, status

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "AuditOutcome",
    "DasksimError",
    "DatasetAccessor",
    "ExternalProgram",
    "Failure",
    "GraphicalSimulator",
    "HierarchicalSimulator",
    "IncompleteStoreError",
    "IrreproducibleError",
    "LambdaSimulator",
    "ModelComparisonSimulator",
    "OutputError",
    "RejectionSimulator",
    "Replay",
    "SequentialSimulator",
    "Simulator",
    "SimulatorCheck",
    "SimulatorError",
    "StageReplay",
    "Status",
    "StoreError",
    "StoreMismatchError",
    "VariableInfo",
    "Verification",
    "__version__",
    "check",
    "derive",
    "errors",
    "extend",
    "from_bayesflow",
    "from_sbi",
    "generate",
    "loaders",
    "make_simulator",
    "models",
    "open_dataset",
    "plots",
    "random",
    "replay",
    "report",
    "status",
    "to_arviz",
    "verify",
]

"""Every example in a docstring runs."""

import doctest
import importlib
import importlib.util
import pkgutil
from types import ModuleType

import pytest

import dasksim

#: Modules that need a package which dasksim does not.
OPTIONAL = {"dasksim.loaders.torch": "torch", "dasksim.loaders.keras": "keras"}
MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(dasksim.__path__, "dasksim.")
    if not module.name.endswith("__main__") and importlib.util.find_spec(OPTIONAL.get(module.name, "sys"))
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_examples_of_a_module_run(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def test_examples_are_found() -> None:
    names = {test.name for module in MODULES for test in doctest.DocTestFinder().find(module) if test.examples}

    assert {
        "dasksim._operations.generate.generate",
        "dasksim.external._program.ExternalProgram",
        "dasksim.errors.nearest",
        "dasksim.loaders._batches.batches",
        "dasksim.models.two_moons.two_moons",
        "dasksim.simulators.lambda_simulator.LambdaSimulator",
        "dasksim.simulators.make.make_simulator",
        "dasksim.simulators.sequential_simulator.SequentialSimulator",
        "dasksim.simulators.simulator.Simulator.sample",
    } <= names

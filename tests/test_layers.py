"""Imports point down only, as drawn in docs/design.md, and in no circle."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "dasksim").rglob("*.py"))

#: Imports within functions: (file, package).
LAZY = {
    ("_arrays.py", "cupy"),
    ("_cluster_pool.py", "distributed"),
    ("_executors.py", "distributed"),
    ("_icechunk.py", "icechunk"),
    ("_bands.py", "matplotlib"),
    ("_panels.py", "matplotlib"),
    ("_pyplot.py", "matplotlib"),
    ("_rates.py", "matplotlib"),
    ("cli.py", "distributed"),
    ("page.py", "jinja2"),
    ("pictures.py", "markupsafe"),
    ("pictures.py", "matplotlib"),
    ("drawing.py", "graphviz"),
    ("wrap_sbi.py", "torch"),
}


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file): file for file in FILES}


def drawn_layers() -> dict[str, int]:
    """Return the layer of each module and subpackage in the drawing."""
    drawing = (ROOT / "docs" / "design.md").read_text().partition("Imports point down only")[2].split("```")[1]
    layers: dict[str, int] = {}
    number = -1
    for line in drawing.splitlines()[1:]:
        found = re.match(r"(?:L(\d)|  )  (\S+?)/?(?:, (\S+))?(?:  |$)", line)
        assert found, line
        number = int(found[1]) if found[1] else number
        layers.update({name: number for name in found.groups()[1:] if name})
    return layers


def imports(file: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Return the modules that a file imports, one for each name where the name is a module."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node, inner if inner in MODULES else node.module or ""


def own_imports(file: Path) -> set[str]:
    """Return the modules of dasksim that a file imports."""
    return {name for _, name in imports(file) if name.partition(".")[0] == "dasksim"}


def place(module: str) -> str:
    """Return what stands for a module in the drawing."""
    return module.split(".")[1] if "." in module else "__init__"


def test_every_module_is_drawn() -> None:
    assert {place(module) for module in MODULES} - {"__main__"} == set(drawn_layers())


@pytest.mark.parametrize("module", [module for module in MODULES if module != "dasksim.__main__"])
def test_imports_point_down(module: str) -> None:
    layers = drawn_layers()
    upward = {name for name in own_imports(MODULES[module]) if layers[place(name)] > layers[place(module)]}

    assert not upward


def test_imports_form_no_circle() -> None:
    graph = {module: own_imports(file) - {module} for module, file in MODULES.items()}

    order = list(TopologicalSorter(graph).static_order())

    assert set(order) == set(MODULES)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_stand_at_the_top_of_a_file(file: Path) -> None:
    top = set(ast.parse(file.read_text()).body)
    lines = {(node.lineno, type(node)) for node in top}
    inner = {
        (file.name, name.partition(".")[0]) for node, name in imports(file) if (node.lineno, type(node)) not in lines
    }

    assert inner <= LAZY


@pytest.mark.parametrize("folder", ["store", "external", "loaders", "simulators", "models", "plots", "_report"])
def test_a_package_is_imported_from_outside_by_its_own_name(folder: str) -> None:
    deep = {
        (module, name)
        for module, file in MODULES.items()
        if place(module) != folder
        for name in own_imports(file)
        if name.startswith(f"dasksim.{folder}.")
    }

    assert not deep

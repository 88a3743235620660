"""Imports point down only, as drawn in docs/design.md, and in no circle."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from sources import FILES, MODULES, ROOT, imports, module_name, own_imports, stub_of

#: Imports within functions: (file, package).
LAZY = {
    ("arrays.py", "cupy"),
    ("_cluster_pool.py", "distributed"),
    ("chunks.py", "dask"),
    ("executors.py", "distributed"),
    ("_telling.py", "distributed"),
    ("_icechunk.py", "icechunk"),
    ("bands.py", "matplotlib"),
    ("panels.py", "matplotlib"),
    ("_pyplot.py", "matplotlib"),
    ("rates.py", "matplotlib"),
    ("_completion.py", "shtab"),
    ("_commands.py", "dask"),
    ("_commands.py", "distributed"),
    ("compiled.py", "numba"),
    ("_create.py", "xarray"),
    ("_metadata.py", "xarray"),
    ("progress.py", "IPython"),
    ("report.py", "jinja2"),
    ("_samples.py", "dask"),
    ("_pictures.py", "markupsafe"),
    ("_pictures.py", "matplotlib"),
    ("drawing.py", "graphviz"),
    ("wrap_sbi.py", "torch"),
}

#: What only gathers names, and may take them from its own level.
NAMES_ONLY = {"__init__", "__main__", "cli"}


def drawn_places() -> dict[str, tuple[int, set[str]]]:
    """Return the level of each module at the top and of each folder in the drawing, and the modules in the folder."""
    drawing = (ROOT / "docs" / "design.md").read_text().partition("## The house")[2].split("```")[1]
    places: dict[str, tuple[int, set[str]]] = {}
    level, inside = -1, set[str]()
    for line in drawing.splitlines()[1:]:
        level = int(line[1]) if line.startswith("L") else level
        names = re.split(r"  +|$", line[4:].strip())[0].rstrip(",").split(", ")
        if line[4:].startswith("  "):
            inside |= {*names}
            continue
        inside = set()
        places |= {name.removesuffix("/"): (level, inside) for name in names}
    return places


def place(module: str) -> str:
    """Return what stands for a module in the drawing: a folder, or a module at the top."""
    return module.split(".")[1] if "." in module else "__init__"


def test_every_module_is_drawn() -> None:
    files: dict[str, set[str]] = {place(module): set() for module in MODULES}
    for module in MODULES:
        if module.count(".") > 1:
            files[place(module)].add(module.rpartition(".")[2])

    assert files == {name: inside for name, (_, inside) in drawn_places().items()}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    levels = {name: level for name, (level, _) in drawn_places().items()}
    here = place(module)
    upward = {
        name
        for name in own_imports(MODULES[module])
        if place(name) != here and levels[place(name)] >= levels[here] and here not in NAMES_ONLY
    }

    assert not upward


def test_imports_form_no_circle() -> None:
    graph = {module: own_imports(file) - {module} for module, file in MODULES.items()}

    order = list(TopologicalSorter(graph).static_order())

    assert set(order) == set(MODULES)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_stand_at_the_top_of_a_file(file: Path) -> None:
    top = set(ast.parse(file.read_text() + stub_of(file)).body)
    lines = {(node.lineno, type(node)) for node in top}
    inner = {
        (file.name, name.partition(".")[0]) for node, name in imports(file) if (node.lineno, type(node)) not in lines
    }

    assert inner <= LAZY


@pytest.mark.parametrize("module", MODULES)
def test_nobody_reaches_into_another_folder(module: str) -> None:
    deep = {
        name
        for name in own_imports(MODULES[module])
        if place(name) != place(module)
        and name.count(".") > 1
        and (not place(name).startswith("_") or name.rpartition(".")[2].startswith("_"))
    }

    assert not deep

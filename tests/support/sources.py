"""The modules of dasksim, and what they import."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


FILES = sorted((ROOT / "dasksim").rglob("*.py"))


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file): file for file in FILES}


def stub_of(file: Path) -> str:
    """Return the names that an ``__init__`` gives when they are asked for, as absolute imports."""
    stub = file.with_suffix(".pyi")
    text = stub.read_text() if stub.exists() else ""
    return re.sub(r"^from \.", f"from {module_name(file)}.", text, flags=re.MULTILINE).replace(". import", " import")


def imports(file: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Return the modules that a file imports, or loads when a name is asked for; one for each name of a module."""
    for node in ast.walk(ast.parse(file.read_text() + stub_of(file))):
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

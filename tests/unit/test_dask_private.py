"""What Dask does not document is taken from it in one module, which says why."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dasksim
from dasksim._core import dask_private

PACKAGE = Path(dasksim.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def private_uses(source: str) -> Iterator[str]:
    """Return the private names of Dask and of distributed that are imported, or reached from what is imported."""
    tree, roots = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
            roots |= {alias.asname or alias.name.partition(".")[0] for alias in node.names if _is_of_dask(alias.name)}
        elif isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
            roots |= {alias.asname or alias.name for alias in node.names if _is_of_dask(node.module or "")}
        else:
            continue
        yield from (name for name in found if _is_of_dask(name) and _is_private(name))
    for node in ast.walk(tree):
        name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if name.partition(".")[0] in roots and _is_private(name):
            yield name
        if name.endswith("._meta"):  # of an array, wherever it comes from
            yield name


def _is_of_dask(name: str) -> bool:
    return name.partition(".")[0] in {"dask", "distributed"}


def _is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


@pytest.mark.parametrize(
    "source",
    [
        "from dask._task_spec import Task",
        "from dask import _task_spec",
        "import dask._task_spec as spec",
        "import dask\ndask._expr.Expr",
        "import dask.array as da\nda.core._should_delegate(x)",
        "def f():\n    from distributed.client import _get_global_client",
        "array._meta",
    ],
)
def test_private_uses_are_found(source: str) -> None:
    assert list(private_uses(source))
    assert not list(
        private_uses("import dask.array as da\nfrom dasksim._core.arrays import _x\nda.__version__\nself._y")
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_what_is_private_of_dask_is_used_in_one_module(file: Path) -> None:
    assert file.name == "dask_private.py" or not list(private_uses(file.read_text()))


def test_each_private_name_is_explained() -> None:
    uses = {name.rpartition(".")[2] for name in private_uses(Path(dask_private.__file__).read_text())}
    assert uses == set(dask_private.__all__) - {"check_graphs"}
    assert all(f"``{name}``" in (dask_private.__doc__ or "") for name in uses)

"""What Zarr does not document is used in one module, so that a new version of it can break no other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "dasksim"
PLACE = ROOT / "store" / "_zarr_private.py"
FILES = sorted(file for file in ROOT.rglob("*.py") if file != PLACE)

#: Attributes of Zarr's objects that its documents have instead, or that it does not document.
PRIVATE = {"_ensure_open", "_store", "_zf", "_store_dict", "encode_chunk_key", "to_buffer_dict", "index_location"}


def private_uses(source: str) -> Iterator[str]:
    """Return what code uses of Zarr that is private: modules, names of modules, and attributes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.ImportFrom):
            yield from (name for alias in node.names if is_private(name := f"{node.module}.{alias.name}"))
        elif isinstance(node, ast.Attribute) and is_private(ast.unparse(node)):
            yield ast.unparse(node)
        elif isinstance(node, ast.Attribute) and node.attr in PRIVATE and ast.unparse(node.value) != "self":
            yield node.attr


def is_private(name: str) -> bool:
    package, *parts = name.split(".")
    return package == "zarr" and any(part == "core" or part.startswith("_") for part in parts)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import zarr.core.sync", "zarr.core.sync"),
        ("from zarr.core.sync import sync", "zarr.core.sync.sync"),
        ("from zarr import core", "zarr.core"),
        ("zarr.core.config.config", "zarr.core.config"),
        ("from zarr.storage._local import _put", "zarr.storage._local._put"),
        ("store._ensure_open()", "_ensure_open"),
        ("import zarr.storage\nzarr.buffer.cpu\nself._store", None),
    ],
)
def test_private_uses_are_found(source: str, found: str | None) -> None:
    uses = set(private_uses(source))
    assert found in uses if found else not uses


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_private_of_zarr_is_used_elsewhere(file: Path) -> None:
    assert not set(private_uses(file.read_text()))

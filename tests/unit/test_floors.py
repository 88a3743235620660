"""The environment of the oldest versions tests the floors that pyproject.toml names, each of them."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPTIONAL = ("test", "remote", "icechunk", "plots", "graphviz")


def floors(requirements: list[str]) -> set[tuple[str, str]]:
    found = [re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement) for requirement in requirements]
    assert all(found), requirements
    return {(match[1], _padded(match[2])) for match in found if match}


def _padded(version: str) -> str:
    return version + ".0" * (2 - version.count("."))


def test_the_oldest_versions_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = floors(project["dependencies"]).union(*(floors(project["optional-dependencies"][e]) for e in OPTIONAL))
    environment = (ROOT / "tox.ini").read_text().partition("[testenv:minimum]")[2]
    pinned = {(name, _padded(version)) for name, version in re.findall(r"^    ([\w-]+)==([\d.]+)$", environment, re.M)}
    assert named == {pin for pin in pinned if pin[0] != "pyparsing"}

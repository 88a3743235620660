"""What is packaged and cited: the contents of sdist and wheel, the version everywhere, the links of the README."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import dasksim

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HATCH = PYPROJECT["tool"]["hatch"]
README = (ROOT / "README.md").read_text()

#: A link or image of Markdown or HTML, to another page or to a file.
LINK = re.compile(r'\]\((?!#)([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"')


def links(text: str) -> list[str]:
    return [match[1] or match[2] for match in LINK.finditer(text)]


def citation() -> dict[str, str]:
    """Return the fields of CITATION.cff that have one value."""
    return dict(re.findall(r'^([\w-]+): "?(.+?)"?$', (ROOT / "CITATION.cff").read_text(), re.MULTILINE))


def test_sdist_has_all_that_the_repository_has() -> None:
    """Its tests need the benchmarks and examples, its documentation the changelog: all but what is hidden goes in."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository")
    run = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    kept = {path.partition("/")[0] for path in run.stdout.splitlines() if not path.startswith(".")}
    patterns = [pattern.removeprefix("/") for pattern in HATCH["build"]["targets"]["sdist"]["include"]]
    patterns += ["pyproject.toml", *PYPROJECT["project"]["license-files"]]  # go in without being named

    assert {name for name in kept if not any(Path(name).match(pattern) for pattern in patterns)} == set()


def test_installed_package_has_its_files_besides_code() -> None:
    package = Path(dasksim.__file__).parent
    others = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.suffix not in {".py", ".pyc"}}

    assert {"py.typed", "__init__.pyi", "_analysis/report.html"} <= others


def test_citation_is_of_this_version_and_its_release() -> None:
    """A version that the changelog does not have yet has no date."""
    released = dict(re.findall(r"^## \[([\d.]+)\] - ([\d-]+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE))

    assert citation()["version"] == dasksim.__version__
    assert citation().get("date-released") == released.get(dasksim.__version__)


def test_citation_and_package_say_the_same() -> None:
    project = PYPROJECT["project"]

    assert citation()["license"] == project["license"]
    assert citation()["repository-code"] == project["urls"]["Source"]
    assert project["description"] in citation()["title"]


def test_addresses_are_of_one_repository() -> None:
    source = PYPROJECT["project"]["urls"]["Source"]

    assert all(address.startswith(source) for address in PYPROJECT["project"]["urls"].values())


def test_links_of_the_readme_are_of_files() -> None:
    files = [link.partition("#")[0] for link in links(README) if not link.startswith("https://")]

    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_links_of_the_readme_are_whole_on_an_index_page() -> None:
    text = README
    for substitution in HATCH["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)

    assert len(links(text)) == len(links(README))
    assert [link for link in links(text) if not link.startswith("https://")] == []

"""Every code block of the README and the documentation runs."""

import importlib.util
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from processes import run_python

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

#: Packages that examples and pages need and dasksim does not. Their own warnings are no errors of the example.
OPTIONAL = {
    "compiled_loops.py": "numba",
    "posterior.md": "sbi",
    "rounds_sbi.py": "sbi",
    "train_bayesflow.py": "bayesflow",
    "train_sbi.py": "sbi",
    "train_torch.py": "torch",
    "varying_sizes.py": "torch",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_all_blocks_have_a_known_language() -> None:
    fences = {fence for page in PAGES for fence in re.findall(r"^```(\S+)$", page.read_text(), flags=re.MULTILINE)}

    assert fences <= {"python", "bash", "py", "sh", "c", "r", "julia", "text", "{toctree}", "{eval-rst}", "{include}"}


def test_python_that_is_not_run_is_python() -> None:
    """What needs other packages or machines stands in blocks of ``py`` and ``sh``, which nothing executes."""
    for page in PAGES:
        for block in blocks(page, "py"):
            compile(block, page.name, "exec")


#: What takes longest, and shows what other pages show too.
SLOW = {
    "analysis.md",
    "coming_from_bayesflow.md",
    "derived.md",
    "failing_simulator.py",
    "gallery.md",
    "posterior.md",
    "report.py",
}


def quick_ones(paths: Iterable[Path]) -> list[Any]:
    """Return pages or examples as parameters, of which some are slow."""
    return [pytest.param(path, id=path.name, marks=pytest.mark.slow if path.name in SLOW else ()) for path in paths]


def arguments_of(path: Path) -> list[str]:
    """Return Python's arguments for a page or an example; skip one whose package is missing."""
    package = OPTIONAL.get(path.name)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    return [] if package else ["-W", "error"]


@pytest.mark.parametrize("page", quick_ones(page for page in PAGES if blocks(page, "python")))
def test_python_blocks_run_as_one_script(page: Path, tmp_path: Path) -> None:
    strict = arguments_of(page)
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page, "python")))

    run = run_python(*strict, script, cwd=tmp_path)

    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=lambda page: page.name)
def test_bash_blocks_run(page: Path, tmp_path: Path) -> None:
    commands = [line for block in blocks(page, "bash") for line in block.splitlines()]

    for command in commands:
        if command.startswith("python -m pip"):  # .ci/run makes an environment and installs into it
            command = command.partition("&&")[2].strip()
        if command == "pytest":
            continue
        words = shlex.split(command)
        assert words[0] == "dasksim", f"{command!r} is not tested"
        run = run_python("-m", *words, cwd=tmp_path)
        assert run.returncode == 0, run.stderr


def test_readme_shows_what_its_commands_print(tmp_path: Path) -> None:
    """But for times, and for how many samples were simulated again and where."""
    page = ROOT / "README.md"
    (tmp_path / "page.py").write_text("\n".join(blocks(page, "python")))
    command = shlex.split(blocks(page, "bash")[0].partition("&&")[2])
    runs = [run_python("-m", *command, cwd=tmp_path), run_python("page.py", cwd=tmp_path)]
    printed = "".join(run.stdout + run.stderr for run in runs).replace(f"{tmp_path}/", "")
    shown = blocks(page, "text")

    def sure(text: str) -> str:
        return re.sub(r"^(  time|  audited) .*", r"\1", text, flags=re.MULTILINE)

    assert len(shown) >= 2
    assert [text for text in shown if sure(text) not in sure(printed)] == []


@pytest.mark.parametrize("example", quick_ones(EXAMPLES))
def test_examples_run(example: Path, tmp_path: Path) -> None:
    run = run_python(*arguments_of(example), example, cwd=tmp_path)

    assert run.returncode == 0, run.stderr
    assert run.stdout

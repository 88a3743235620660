"""Pages as notebooks: plain Markdown, whose blocks are executed and show what they print and draw."""

import re
import tempfile
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

__all__ = ["WORK", "read_page"]

#: Where pages write. Its name is seen in what they print, and so it is plain unless another build is running.
WORK = Path(tempfile.gettempdir(), "dasksim")
if WORK.exists():
    WORK = Path(tempfile.mkdtemp(prefix="dasksim-"))

_FENCE = re.compile(r"^```(python|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

_PYTHON = {"display_name": "Python 3", "language": "python", "name": "python3"}

# Each page has a folder of its own. What warns is an error, as it is in the tests.
_SET_UP = """\
import os, subprocess, warnings
import xarray
os.makedirs({folder!r})
os.chdir({folder!r})
warnings.simplefilter("error")
xarray.set_options(display_expand_attrs=False)
warnings.filterwarnings("ignore", module=".*(ipykernel|matplotlib_inline)")
%config InlineBackend.figure_formats = ["retina"]
%config InlineBackend.print_figure_kwargs = {{"facecolor": "white", "bbox_inches": "tight"}}
"""

# Where there are several commands, each is said again before its output.
_BASH = """\
run = subprocess.run(["bash", "-e"], input={commands!r}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
print(run.stdout)
run.check_returncode()
"""


def read_page(text: str) -> nbformat.NotebookNode:
    """Return a page as a notebook; one without blocks has no cells to execute."""
    name = re.sub(r"\W+", "-", text.partition("\n")[0].lower()).strip("-")
    cells, lines = [], []

    def add(cell: nbformat.NotebookNode, position: int) -> None:
        cells.append(cell)
        lines.append(text.count("\n", 0, position))

    end = 0
    for block in _FENCE.finditer(text):
        is_python = block[1] == "python"
        add(new_markdown_cell(text[end : block.start() if is_python else block.end()]), end)
        if end == 0:
            add(new_code_cell(_SET_UP.format(folder=str(WORK / name)), metadata={"tags": ["remove-cell"]}), 0)
        if is_python:
            add(new_code_cell(block[2].rstrip()), block.start())
        else:  # stays in the page as it is, and is executed beside
            commands = block[2] if block[2].count("\n") == 1 else f"PS4='$ '; set -x\n{block[2]}"
            add(new_code_cell(_BASH.format(commands=commands), metadata={"tags": ["remove-input"]}), block.start())
        end = block.end()
    add(new_markdown_cell(text[end:]), end)
    return new_notebook(cells=cells, metadata={"kernelspec": _PYTHON, "source_map": lines})

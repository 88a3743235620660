"""Configuration of Sphinx."""

import atexit
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

import pages
from sphinx.util import inspect

from dasksim import __version__

project = "dasksim"
author = "the dasksim developers"
project_copyright = "the dasksim developers"
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx_codeautolink"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"dasksim {__version__}"
exclude_patterns = ["_build"]

myst_heading_anchors = 3

# Blocks are executed anew by each build. One that fails is a warning, and an error with -W.
os.environ["ICECHUNK_LOG"] = "error"  # else it warns of concurrent commits, for each local repository
nb_custom_formats = {".md": ["pages.read_page", {}]}
nb_execution_mode = "force"
nb_execution_timeout = 300
# trains a network of sbi, which the extra docs installs; elsewhere the page shows no outputs
nb_execution_excludepatterns = [] if importlib.util.find_spec("sbi") else ["posterior.md"]
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # the progress bar; what warns is an error, and what commands write there is shown

codeautolink_concat_default = True  # blocks of a page go on where those before them stopped
suppress_warnings = ["codeautolink.match_block"]  # Sphinx drops the marks of doctest, which codeautolink looks for

autodoc_mock_imports = ["keras", "torch"]  # their loaders are documented where they are not installed
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring = False


def setup(app: Any) -> None:
    if shutil.which("dot") is None:
        raise SystemExit("pages have graphs, which need the program dot of Graphviz (apt install graphviz)")
    pages.WORK.mkdir(exist_ok=True)
    atexit.register(shutil.rmtree, pages.WORK)
    app.connect("build-finished", keep_reports)
    app.connect("autodoc-process-signature", signature_of_init)


def signature_of_init(app: Any, what: str, name: str, obj: Any, options: Any, found: str, result: str) -> Any:
    """Return the signature of a class whose base is mocked, and hides it."""
    if what == "class" and found == "(*args, **kwargs)":
        own = inspect.signature(obj.__init__, bound_method=True)
        return inspect.stringify_signature(own, show_annotation=False), result
    return None


def keep_reports(app: Any, exception: Exception | None) -> None:
    """Copy the reports that pages have written to where they link to them, as ``written/<page>/<name>.html``."""
    for report in pages.WORK.glob("*/*.html"):
        kept = Path(app.outdir, "written", report.relative_to(pages.WORK))
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(report, kept)

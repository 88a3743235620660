"""Configuration of Sphinx."""

from dasksim import __version__

project = "dasksim"
author = "the dasksim developers"
project_copyright = "the dasksim developers"
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = f"dasksim {__version__}"
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # code blocks are executed by tests/test_docs.py
autodoc_mock_imports = ["keras", "torch"]  # their loaders are documented where they are not installed
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False

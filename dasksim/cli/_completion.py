"""What shells complete beside commands, options and their choices; shtab writes the rest of each shell's script."""

import argparse
from collections.abc import Iterable

import dasksim
from dasksim.errors import ArgumentError

__all__ = ["DTYPES", "FILES", "FUNCTIONS", "SCHEDULERS", "SHELLS", "STORES", "TARGETS", "script"]

SHELLS = ("bash", "zsh", "fish")

#: Names of shtab's own.
FILES, STORES = "file", "directory"


def _called(name: str) -> dict[str, str]:
    return {"bash": f"_dasksim_{name}", "zsh": f"_dasksim_{name}", "fish": f"(_dasksim_{name})"}


TARGETS, FUNCTIONS, DTYPES, SCHEDULERS = map(_called, ("target", "function", "dtype", "scheduler"))

# Words, and files of Python with the folders on the way to them.
_WORDS = {
    "bash": "compgen -W '{}' -- $1",
    "zsh": "compadd -- {}",
    "fish": "string split ' ' '{}'",
}
_SCRIPTS = {
    "bash": "compgen -f -X '!*.py' -- $1; compgen -d -- $1",
    "zsh": "_files -g '*.py'",
    "fish": "__fish_complete_suffix .py",
}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script by which a shell completes the command line.

    Raises
    ------
    ArgumentError
        If shtab is not installed.
    """
    try:
        import shtab  # optional
    except ImportError as error:
        raise ArgumentError("completion needs the package shtab: pip install 'dasksim[completion]'") from error
    functions = [
        _function(shell, "target", dasksim.models.MODELS, with_scripts=True),
        _function(shell, "function", (), with_scripts=True),
        _function(shell, "dtype", ("float16", "float32", "float64")),
        _function(shell, "scheduler", ("synchronous", "threads", "processes")),
    ]
    return str(shtab.complete(parser, shell, preamble="\n".join(functions)))


def _function(shell: str, name: str, words: Iterable[str], *, with_scripts: bool = False) -> str:
    listed = " ".join(words)
    body = "\n  ".join([_WORDS[shell].format(listed)] * bool(listed) + [_SCRIPTS[shell]] * with_scripts)
    return f"function _dasksim_{name}\n  {body}\nend" if shell == "fish" else f"_dasksim_{name}() {{\n  {body}\n}}"

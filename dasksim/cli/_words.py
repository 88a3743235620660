"""What is typed at a command line, and what is said there: numbers as people write them, options for arguments."""

import argparse
import ast
import contextlib
import math
import re
import shlex
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

__all__ = ["assignment", "count", "in_options", "part", "seconds"]

_FACTORS = {"k": 10**3, "m": 10**6, "g": 10**9, "": 1}

# Arguments of Python's that have another name here; the others differ by dashes alone.
_OPTIONS = {"dtypes": "--dtype", "conditions": "--set", "is_batched": "--batched"}
_FLAGS = ("overwrite", "repair", "allow_changed", "dry_run", "is_batched")
_VALUES = ("on_error", "on_nonfinite", "scheduler", "audit", "device", "dtypes", "timeout", "part")
_SIZES = ("sub_batch_size", "chunk_size", "n_samples", "seed", "retries", "resimulate")
_NAMED = ("dtypes", "seed", "device", "scheduler", "retries", "resimulate")
_COMMANDS = ("generate", "extend", "derive", "verify", "replay", "check", "status", "report")


def count(text: str) -> int:
    """Return a whole number, as in ``1000``, ``1_000``, ``1,000``, ``1e6``, ``10k`` or ``2.5M``.

    Examples
    --------
    >>> [count(text) for text in ("1000", "1,000", "1e6", "10k", "2.5M")]
    [1000, 1000, 1000000, 10000, 2500000]
    """
    whole = r"\d{1,3}(?:,\d{3})+|\d+(?:_\d+)*"
    found = re.fullmatch(rf"([+-]?(?:{whole}))((?:\.\d+)?)(?:[eE]\+?(\d{{1,2}}))?\s*([kKmMgG]?)", text.strip())
    if found:
        number = Fraction(found[1].replace(",", "").replace("_", "") + found[2])  # exact, however long a seed is
        number *= 10 ** int(found[3] or 0) * _FACTORS[found[4].lower()]
        if number.denominator == 1:
            return int(number)
    raise argparse.ArgumentTypeError(f"must be a whole number, such as 1000, 1e6 or 10k; got {text!r}")


def part(text: str) -> tuple[int, int]:
    """Return the share and the number of shares of ``i/m``."""
    i, _, m = text.partition("/")
    if i.isdecimal() and m.isdecimal() and int(i) < int(m):
        return int(i), int(m)
    raise argparse.ArgumentTypeError(f"must be i/m with 0 <= i < m, such as 0/4 for the first of four; got {text!r}")


def seconds(text: str) -> float:
    """Return a positive number of seconds."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number of seconds greater than 0; got {text!r}")


def assignment(text: str) -> tuple[str, Any]:
    """Return the name and the value of ``name=value``; a value that is no literal of Python is text.

    Examples
    --------
    >>> assignment("theta=0.5"), assignment("variant=sbibm"), assignment("theta=[1, 2]")
    (('theta', 0.5), ('variant', 'sbibm'), ('theta', [1, 2]))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise argparse.ArgumentTypeError(f"must be name=value, such as theta=0.5; got {text!r}")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()


def in_options(message: str, simulator: Sequence[str] = ("TARGET",)) -> str:
    """Return a message of Python's in the words of the command line, in which a target and options are a simulator.

    Examples
    --------
    >>> in_options("overwrite=True removes it; run generate(..., repair=True), or give on_error='mask'")
    '--overwrite removes it; run dasksim generate ... --repair, or give --on-error mask'
    >>> in_options("run it alone with dasksim.replay('s.zarr', simulator, sample=12)")
    'run it alone with dasksim replay TARGET s.zarr 12'
    >>> in_options("give conditions={'a': ..., 'b': ...}")
    'give --set a=... --set b=...'
    """
    target, *options = simulator
    message = re.sub(r"\bstore=(?=')", "", message)
    message = re.sub(
        r"\bconditions=\{([^}]*)\}", lambda found: re.sub(r"'(\w+)': (\S+?)(,|$)", r"--set \1=\2", found[1]), message
    )
    message = message.replace("'processes', a Client or an address", "'processes' or an address")
    message = re.sub(rf"\b({'|'.join(_NAMED)})(?= must\b|= needs\b)=?", lambda found: _option(found[1]), message)
    for name in _FLAGS:
        message = re.sub(rf"\b{name}=True\b", _option(name), message)
    for name in (*_VALUES, *_SIZES):
        message = re.sub(rf"\b{name}='?([\w./:]+)'?", rf"{_option(name)} \1", message)
    for name in ("on_error", "on_nonfinite", "allow_changed", "sub_batch_size", "chunk_size", "n_samples"):
        message = re.sub(rf"\b{name}\b", _option(name), message)
    commands = "|".join(_COMMANDS)
    message = re.sub(
        r"dasksim\.replay\('([^']*)', simulator, sample=(\d+)[^)\n]*\)",
        lambda found: f"dasksim replay {shlex.join([target, found[1], found[2], *options])}",
        message,
    )
    message = re.sub(rf"\bdasksim\.({commands})\b(?!\()", r"dasksim \1", message)
    message = re.sub(rf"(?<![\w.])({commands})\(\.\.\., ([^()]*)\)", r"dasksim \1 ... \2", message)
    return re.sub(rf"\brun ({commands}) again\b", r"run dasksim \1 again", message)


def _option(name: str) -> str:
    return _OPTIONS.get(name, f"--{name.replace('_', '-')}")

"""What a program wrote, as variables.

All numbers of a text are float64, since ``1`` may be how a program prints ``1.0``. What cannot be read raises what
Python raises: it is a failure of this one run.
"""

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.variables import check_name
from dasksim.errors import ArgumentError, ArgumentTypeError, OutputError

__all__ = ["Outputs", "check_file_name", "check_outputs", "read_outputs"]

_EXACT_BELOW = 2**53  # here float64 begins to skip integers

Array = npt.NDArray[Any]

#: A file with all variables, files by variable, or a function of the run's folder.
Outputs = str | Mapping[str, str] | Callable[[Path], Mapping[str, Any]]


def check_outputs(outputs: Any) -> Outputs:
    """Return ``outputs``, if they say where a program's outputs are.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If they do not.
    """
    if isinstance(outputs, str):
        if outputs != "stdout" and not outputs.endswith((".json", ".npz")):
            raise ArgumentError(
                "outputs must be 'stdout' or a file with a JSON object or an .npz archive, in which variables have "
                f"names; for a file that holds one variable, give {{'x': {outputs!r}}}, or {{{outputs!r}: 'stdout'}}"
            )
        return check_file_name(outputs, "outputs")
    if isinstance(outputs, Mapping) and outputs:
        for name, file in outputs.items():
            check_name(name, "outputs holds", ArgumentError)
            if check_file_name(file, f"outputs[{name!r}]").endswith(".npz"):
                raise ArgumentError(
                    f"outputs[{name!r}]={file!r} holds arrays with names of their own; give outputs={file!r}"
                )
        return dict(outputs)
    if callable(outputs):
        read: Callable[[Path], Mapping[str, Any]] = outputs
        return read
    raise ArgumentTypeError(
        "outputs must be the name of a file with all variables, a mapping of variables to files, or a function of the "
        f"run's folder that returns a dict; got {outputs!r}"
    )


def check_file_name(name: Any, where: str) -> str:
    """Return ``name``, if it is that of a file within a run's folder.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If it is not.
    """
    if not isinstance(name, str):
        raise ArgumentTypeError(f"{where} must be the name of a file, a str; got {name!r}")
    path = Path(name)
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise ArgumentError(f"{where} must be the name of a file within the run's own folder; got {name!r}")
    return name


def read_outputs(folder: Path, outputs: Outputs) -> Any:
    """Return the variables that a program left in its folder."""
    if callable(outputs):
        return outputs(folder)
    if isinstance(outputs, Mapping):
        return {name: _read_one(folder / file) for name, file in outputs.items()}
    if outputs.endswith(".npz"):
        # all of it: NumPy reads an archive when it is asked, and by then the folder may be gone
        with np.load(folder / outputs) as archive:
            return dict(archive)
    found = _read_json(folder / outputs)
    return {name: _as_numbers(value) for name, value in found.items()} if isinstance(found, dict) else found


def _read_one(path: Path) -> Array:
    if path.suffix == ".npy":
        return np.asarray(np.load(path))
    if path.suffix == ".json":
        return _as_numbers(_read_json(path))
    lines = [line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines()]
    rows = [[word.strip() for word in (line.split(",") if "," in line else line.split())] for line in lines if line]
    values = np.array(rows or "", dtype=np.float64).squeeze()  # nothing at all is an error too: '' is no number
    # words are looked at one by one only where a number may have been rounded
    if (np.abs(values) >= _EXACT_BELOW).any():
        for word in itertools.chain(*rows):
            if word.lstrip("+-").isdigit():
                _exactly(word)
    return values


def _read_json(path: Path) -> Any:
    return json.loads(path.read_bytes(), parse_int=_exactly)


def _exactly(digits: str) -> float:
    value = float(digits)
    if value != int(digits):
        raise OutputError(
            f"a program wrote the integer {digits}, which float64, the type of all numbers in texts, cannot hold; let "
            "it write an .npy file, or read it with a function, outputs=read"
        )
    return value


def _as_numbers(value: Any) -> Array:
    """Return a number or nested lists as an array; null is NaN, for so R, Julia and JavaScript write it."""
    array = np.asarray(value)
    return array if array.dtype.kind == "b" else np.array(value, dtype=np.float64)

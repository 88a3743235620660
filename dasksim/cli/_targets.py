"""From what is typed to a simulator: a model's name, ``package.module:object`` or ``file.py:object``."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

# as users do: a name is loaded when a command asks for it
import dasksim
from dasksim.errors import ArgumentError, nearest

__all__ = ["load_object", "load_simulator"]


def load_simulator(target: str, options: Mapping[str, Any] | None = None) -> "dasksim.Simulator":
    """Return the simulator that a target names.

    Parameters
    ----------
    target
        The name of a model, ``package.module:object`` or ``file.py:object``. The object is a simulator, or anything
        that :func:`~dasksim.make_simulator` takes. A file with one simulator needs no object.
    options
        Keyword arguments of a model.

    Raises
    ------
    ArgumentError
        If there is none.
    """
    if target in dasksim.models.MODELS:
        made: dasksim.Simulator = _made(dasksim.models.MODELS[target], target, options or {})
        return made
    found = load_object(target)
    if options:
        if isinstance(found, dasksim.Simulator) or not callable(found):
            raise ArgumentError(
                f"--option is for models and functions that make a simulator; {target!r} is one already"
            )
        found = _made(found, target, options)
    return found if isinstance(found, dasksim.Simulator) else dasksim.make_simulator(found)


def _made(make: Any, target: str, options: Mapping[str, Any]) -> Any:
    """Return what a model or a function makes with some options."""
    takes = inspect.signature(make).parameters
    if not any(one.kind is one.VAR_KEYWORD for one in takes.values()):
        for name in options:
            if name not in takes:
                raise ArgumentError(f"{target!r} has no option {name!r}; {nearest(name, takes)}")
    return make(**options)


def load_object(target: str) -> Any:
    """Return the object that a target names."""
    if target.endswith(".py"):
        return _only_simulator(target)
    module_name, colon, path = target.rpartition(":")
    if not colon or not module_name or not path:
        raise ArgumentError(
            f"target {target!r} is no model, and no package.module:object or file.py:object; {_near_target(target)}"
        )
    module = found = _load(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            # of the module's own names simulators are meant, not what it imports
            hint = nearest(name, _simulators(module) if found is module else ())
            hint = hint if hint.startswith("did you mean") else nearest(name, dir(found))
            raise ArgumentError(f"{module_name!r} has no {name!r}; {hint}")
        found = getattr(found, name)
    return found


def _only_simulator(file: str) -> Any:
    module = _load(file)
    names = _simulators(module)
    if len(names) == 1:
        return getattr(module, names[0])
    if not names:
        raise ArgumentError(f"{file!r} has no simulator; make one with dasksim.make_simulator([prior, likelihood])")
    listed = ", ".join(f"{file}:{name}" for name in names)
    raise ArgumentError(f"{file!r} has {len(names)} simulators: {listed}; give one of these")


def _near_target(target: str) -> str:
    """Return what may be meant: a file, a model, or the simulator before a store that was given in its place."""
    if (Path(target) / "zarr.json").exists():
        return f"it is a store, before which the simulator comes: TARGET {target}"
    if Path(f"{target}.py").is_file():
        return f"did you mean '{target}.py'?"
    hint = nearest(target, dasksim.models.MODELS)
    return hint if hint.startswith("did you mean") else "dasksim models lists the models"


def _simulators(module: ModuleType) -> list[str]:
    """Return the names of the simulators of a module; of two names for one simulator the first."""
    found = {id(value): name for name, value in reversed(vars(module).items()) if isinstance(value, dasksim.Simulator)}
    return list(reversed(found.values()))


def _load(name: str) -> ModuleType:
    return _load_file(Path(name)) if name.endswith(".py") else _load_module(name)


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the current folder, as for python -m
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ArgumentError(f"cannot import {name!r}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        hint = nearest(path.name, [one.name for one in path.parent.glob("*.py")])
        raise ArgumentError(
            f"there is no file {str(path)!r}; {hint if hint != 'known: none' else 'no .py file is there'}"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"cannot import {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    # before it runs: dataclasses look for the module of a class there, and cloudpickle does below
    sys.modules[path.stem] = module
    # so that it can import its neighbours, as a script can
    sys.path.insert(0, str(path.parent.absolute()))
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)  # workers cannot import it
    return module

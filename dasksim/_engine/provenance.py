"""What a dataset says of how it was made."""

import ast
import functools
import hashlib
import importlib.metadata
import inspect
import platform
import sys
import textwrap
import tokenize
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.conditions import Condition
from dasksim._core.plan import Plan
from dasksim._engine._syntax import lambda_of
from dasksim._engine.nested import NestedStage
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.stage import Stage
from dasksim._engine.steps import Step
from dasksim._version import __version__

__all__ = ["describe_condition", "digest_array", "provenance", "source_digest"]

_PACKAGES = ("dask", "numpy", "xarray", "zarr")


def provenance(pipeline: Pipeline, plan: Plan) -> dict[str, Any]:
    """Return what determines the values of a dataset, and the versions that made it, ready for JSON."""
    return {
        "version": __version__,
        "seed": plan.seed,
        "sub_batch_size": plan.sub_batch_size,
        "device": pipeline.device,
        "stages": [
            {
                "name": step.stage.name,
                "kind": step.stage.kind,
                "digest": _stage_digest(step.stage),
                "probe": step.probe_digest,
                "inputs": list(step.binding.inputs),
                # sizes follow from the others, and older stores have none
                "outputs": [v.name for v in step.outputs if not v.sizes_of],
                "settings": _settings(pipeline, step),
            }
            for step in pipeline.steps
            if not step.stage.is_transfer
        ],
        "conditions": {name: describe_condition(condition) for name, condition in sorted(pipeline.conditions.items())},
        "packages": {
            "python": platform.python_version(),
            **_versions(),
            **({"cupy": _cupy_version()} if pipeline.device == "gpu" else {}),
        },
    }


@functools.cache
def _versions() -> dict[str, str]:
    """Return the versions of packages, which stay the same in a process; to look them up takes milliseconds."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _cupy_version() -> str | None:
    """Return CuPy's version, or None in a process that lacks it, and sends its chunks to others."""
    return getattr(sys.modules.get("cupy"), "__version__", None)


def describe_condition(condition: Condition) -> Any:
    """Return the value of a condition, or what tells an array from others, ready for JSON."""
    if condition.is_scalar:
        # JSON has no complex numbers
        return np.asarray(condition.values).item() if condition.variable.dtype.kind != "c" else str(condition.values)
    described = {"shape": list(condition.values.shape), "dtype": str(condition.values.dtype)}
    # a lazy one is not computed for this; the receipts of a store tell its values
    if isinstance(condition.values, np.ndarray):
        described["digest"] = digest_array(condition.values)
    return described


def _settings(pipeline: Pipeline, step: Step) -> dict[str, Any]:
    """Return what values depend on besides functions, the settings of stages inside included, ready for JSON.

    A name is always there, with None where it has no influence: a later version may know more names.
    """
    made = {v.name for v in step.outputs}
    given = [name for name in made if name in pipeline.conditions]
    is_ragged = any(v.ragged or set(v.plates) & set(pipeline.max_sizes) for v in step.outputs)
    settings = {
        **step.stage.settings(),
        "replace_inputs": all(pipeline.sources.get(name) is None for name in given) if given else None,
        "max_sizes": dict(sorted(pipeline.max_sizes.items())) if is_ragged else None,
        "device": step.device,
    }
    if is_ragged:
        settings["fill_value"] = repr(np.asarray(pipeline.fill_value).item())  # NaN would differ from itself
    if isinstance(step.stage, NestedStage):
        inner = step.stage.pipeline
        settings["stages"] = {s.stage.name: _settings(inner, s) for s in inner.steps if not s.stage.is_transfer}
    return settings


def _stage_digest(stage: Stage) -> str:
    """Return a digest of the source of a stage's functions, or of what a stage without one says of itself."""
    digests = [source_digest(function.function) for function in stage.functions]
    if len(digests) == 1:
        return digests[0]
    # as in older stores; what else a stage depends on stands among its settings
    settings = [getattr(stage, name, None) for name in ("p", "is_mixed", "key_conflicts", "models")]
    return hashlib.blake2b(repr((digests, settings)).encode(), digest_size=8).hexdigest()


def digest_array(values: npt.NDArray[Any]) -> str:
    """Return a digest of an array's bytes."""
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).hexdigest()


def source_digest(function: Any) -> str:
    """Return a digest of a function's source, blind to comments, docstrings and layout.

    A lambda is told from what stands beside it by where its code comes from. Where no source can be read (builtins,
    code typed into ``python -c``), its bytecode stands in, which differs between versions of Python. An object may say
    itself what it is, by Dask's method ``__dask_tokenize__``.
    """
    while hasattr(function, "func"):
        function = function.func
    if not isinstance(function, type) and hasattr(function, "__dask_tokenize__"):
        return hashlib.blake2b(repr(function.__dask_tokenize__()).encode(), digest_size=8).hexdigest()
    if not inspect.isroutine(function) and not isinstance(function, type):
        function = type(function)
    code = getattr(function, "__code__", None)
    # inspect reads the source of what is wrapped, which the code of the wrapper does not tell
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        return _digest_of_source(function, code)
    # where code is the same at the same place, so is its source; to read and parse that takes a millisecond
    key = (function.__code__, function.__code__.co_filename, function.__code__.co_linetable)
    digest = _digests.get(key) or _digest_of_source(function, code)
    if len(_digests) >= _MOST_DIGESTS:
        _digests.clear()
    _digests[key] = digest
    return digest


# By code and where it comes from: equal code alone may come from sources that differ.
_digests: dict[tuple[CodeType, str, bytes], str] = {}

_MOST_DIGESTS = 1000


def _digest_of_source(function: Any, code: CodeType | None) -> str:
    try:
        found = lambda_of(code) if code and code.co_name == "<lambda>" else None
        text = ast.dump(found) if found else _normalised(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, tokenize.TokenError):  # the last of a file that is being edited
        text = _bytecode(code) if code else repr(function)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _bytecode(code: CodeType) -> str:
    # the repr of code has an address, which is another one in each process
    constants = [_bytecode(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, constants))


def _normalised(source: str) -> str:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a lambda in the middle of a call
        return source
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and len(body) > 1 and _is_docstring(body[0]):
            del body[0]
    return ast.dump(tree)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)

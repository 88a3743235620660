"""What a dataset says of how it was made."""

import ast
import hashlib
import importlib.metadata
import inspect
import platform
import textwrap
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._conditions import Condition
from dasksim._pipeline import Pipeline
from dasksim._plan import Plan
from dasksim._stage import Stage
from dasksim._version import __version__

__all__ = ["describe_condition", "digest_array", "provenance", "source_digest"]

_PACKAGES = ("dask", "numpy", "xarray", "zarr")


def provenance(pipeline: Pipeline, plan: Plan) -> dict[str, Any]:
    """Return what determines the values of a dataset, and the versions that made it, ready for JSON."""
    return {
        "version": __version__,
        "seed": plan.seed,
        "sub_batch_size": plan.sub_batch_size,
        "stages": [
            {
                "name": step.stage.name,
                "kind": type(step.stage).__name__,
                "digest": _stage_digest(step.stage),
                "probe": step.probe_digest,
                "inputs": list(step.binding.inputs),
                "outputs": [v.name for v in step.outputs],
            }
            for step in pipeline.steps
        ],
        "conditions": {name: describe_condition(condition) for name, condition in sorted(pipeline.conditions.items())},
        "packages": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    }


def describe_condition(condition: Condition) -> Any:
    """Return the value of a condition, or what tells an array from others, ready for JSON."""
    if condition.is_scalar:
        return np.asarray(condition.values).item() if condition.variable.dtype.kind != "c" else str(condition.values)
    described = {"shape": list(condition.values.shape), "dtype": str(condition.values.dtype)}
    if isinstance(condition.values, np.ndarray):
        described["digest"] = digest_array(condition.values)
    return described


def _stage_digest(stage: Stage) -> str:
    """Return a digest of the source of a stage's functions, or of what a stage without one says of itself."""
    digests = [source_digest(function.function) for function in stage.functions]
    if len(digests) == 1:
        return digests[0]
    settings = [getattr(stage, name, None) for name in ("p", "is_mixed", "key_conflicts", "models")]
    return hashlib.blake2b(repr((digests, settings)).encode(), digest_size=8).hexdigest()


def digest_array(values: npt.NDArray[Any]) -> str:
    """Return a digest of an array's bytes."""
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).hexdigest()


def source_digest(function: Any) -> str:
    """Return a digest of a function's source, blind to comments, docstrings and layout.

    Where no source can be read (builtins, code typed into ``python -c``), its bytecode stands in, which differs between
    versions of Python. An object may say itself what it is, by Dask's method ``__dask_tokenize__``.
    """
    while hasattr(function, "func"):
        function = function.func
    if not isinstance(function, type) and hasattr(function, "__dask_tokenize__"):
        return hashlib.blake2b(repr(function.__dask_tokenize__()).encode(), digest_size=8).hexdigest()
    if not inspect.isroutine(function) and not isinstance(function, type):
        function = type(function)
    try:
        text = _normalised(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        text = repr((code.co_code, code.co_names, code.co_varnames)) if code else repr(function)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


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

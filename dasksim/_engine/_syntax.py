"""The source of a user's function as a syntax tree."""

import ast
import functools
import inspect
import textwrap
import tokenize
from types import CodeType, FunctionType

__all__ = ["definition_of", "lambda_of", "returned_values"]


def definition_of(function: object) -> ast.FunctionDef | ast.Lambda | None:
    """Return the definition of a function, method or callable object, or None where there is none that can be read."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if callable(function) and not isinstance(function, FunctionType):
        function = type(function).__call__
    # of what a decorator has wrapped, inspect would read the source
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        return None
    try:
        if function.__name__ == "<lambda>":
            return lambda_of(function.__code__)
        found = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError, RecursionError, tokenize.TokenError):
        return None
    # a file that was edited since has something else at its lines
    is_its = len(found) == 1 and isinstance(found[0], ast.FunctionDef) and found[0].name == function.__code__.co_name
    return found[0] if is_its else None  # type: ignore[return-value]


def lambda_of(code: CodeType) -> ast.Lambda | None:
    """Return the lambda in the source that code was compiled from: the innermost one whose body has all its positions.

    Raises
    ------
    OSError
        If the source cannot be read.
    """
    lines, _ = inspect.findsource(code)
    places = [(p[0], p[2], p[1], p[3]) for p in code.co_positions() if None not in p and p[2] != p[3]]
    try:
        lambdas = [node for node in ast.walk(ast.parse("".join(lines))) if isinstance(node, ast.Lambda)]
    except SyntaxError:
        return None
    spans = [(_span(node.body), node) for node in lambdas if node.lineno == code.co_firstlineno]
    around = [
        (start, end, node) for (start, end), node in spans if all(start <= p[:2] and p[2:] <= end for p in places)
    ]
    return max(around, key=lambda found: found[0])[2] if places and around else None


def _span(node: ast.expr) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)


def returned_values(value: ast.expr | None) -> dict[str, ast.expr] | None:
    """Return the values of a literal dict with names as keys, ``{"x": x}`` or ``dict(x=x)``; None of all else."""
    if isinstance(value, ast.Dict):
        names = [key.value if isinstance(key, ast.Constant) else None for key in value.keys]
        pairs = zip(names, value.values, strict=True)
        return {str(n): v for n, v in pairs} if names and all(isinstance(n, str) for n in names) else None
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "dict":
        names = [keyword.arg for keyword in value.keywords]
        found = {str(k.arg): k.value for k in value.keywords}
        return found if names and None not in names and not value.args else None
    return None

"""Which numbers a function returns as an integer for some samples and as a float for others.

A probe sees one of them only: of ``{"weight": 1 if ok else 0.5}`` an integer, and a column of integers could not hold
what comes later. The source has both. What it does not tell, such as what another function returns, is left as the
probe saw it.
"""

import ast
from collections.abc import Iterator

from dasksim._engine._syntax import definition_of, returned_values

__all__ = ["sometimes_float"]

# Methods of generators, and functions of `math`, that return a float.
_FLOAT_METHODS = frozenset(
    {"beta", "chisquare", "exp", "expm1", "exponential", "f", "gamma", "gumbel", "laplace", "log", "log10", "log1p"}
    | {"logistic", "lognormal", "noncentral_chisquare", "normal", "pareto", "power", "random", "rayleigh", "sqrt"}
    | {"standard_cauchy", "standard_exponential", "standard_gamma", "standard_normal", "standard_t", "triangular"}
    | {"uniform", "vonmises", "wald", "weibull"}
)


def sometimes_float(function: object) -> frozenset[str]:
    """Return the names of the values in the dicts that a function returns which its source may make a float."""
    definition = definition_of(function)
    if definition is None:
        return frozenset()
    if isinstance(definition, ast.Lambda):
        returned, assigned = [definition.body], {}
    else:
        statements = list(_statements(definition.body))
        returned = [s.value for s in statements if isinstance(s, ast.Return) and s.value is not None]
        assigned = _assigned(definition.body)
    found = [returned_values(value) or {} for value in returned]
    return frozenset(
        n for values in found for n, value in values.items() if _may_be_float(value, assigned, frozenset())
    )


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements with those within them, but not those of functions and classes within."""
    for statement in body:
        yield statement
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for name in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, name, []))
            for handler in getattr(statement, "handlers", []):
                yield from _statements(handler.body)
            for case in getattr(statement, "cases", []):
                yield from _statements(case.body)


def _assigned(body: list[ast.stmt]) -> dict[str, list[ast.expr]]:
    """Return what each name may have been given last; what stands in no branch takes the place of all before."""
    found: dict[str, list[ast.expr]] = {}
    for statement in body:
        for name, value in _assignments(statement):
            found[name] = [value]
        for inner in _statements([statement]):
            if inner is not statement:
                for name, value in _assignments(inner):
                    found.setdefault(name, []).append(value)
    return found


def _assignments(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name):
                yield target.id, statement.value
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        yield statement.target.id, statement.value
    elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        name = statement.target
        yield name.id, ast.BinOp(ast.Name(name.id, ast.Load()), statement.op, statement.value)


def _may_be_float(value: ast.expr, assigned: dict[str, list[ast.expr]], within: frozenset[str]) -> bool:
    """Whether the value of an expression is a float in some case, as far as it can be read."""
    match value:
        case ast.Constant():
            return isinstance(value.value, float)
        case ast.BinOp(op=ast.Div()) | ast.Call(func=ast.Name(id="float")):
            return True
        case ast.Call(func=ast.Attribute(attr=name)):
            return name in _FLOAT_METHODS
        case ast.Name(id=name):
            given = [] if name in within else assigned.get(name, [])
            return any(_may_be_float(other, assigned, within | {name}) for other in given)
    return any(_may_be_float(part, assigned, within) for part in _deciding_parts(value))


def _deciding_parts(value: ast.expr) -> list[ast.expr]:
    """Return the parts of an expression of which one that is a float makes the whole a float."""
    match value:
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            return [value.operand]
        case ast.IfExp():
            return [value.body, value.orelse]
        case ast.BoolOp():
            return value.values
        case ast.BinOp():
            return [value.left, value.right]
        case ast.Call(func=ast.Name(id="min" | "max" | "abs")):
            return value.args
    return []

"""Which numbers a function returns as an integer for some samples and as a float for others.

A probe sees one of them only: of ``{"weight": 1 if ok else 0.5}`` an integer, and a column of integers could not hold
what comes later. The source has both. Only literal numbers are read: a literal float in some case makes the column one
of floats; what is computed in all cases stays as the probe saw it.
"""

import ast
from collections import defaultdict

from dasksim._engine._syntax import definition_of, returned_values

__all__ = ["sometimes_float"]


def sometimes_float(function: object) -> frozenset[str]:
    """Return the names of the values in the dicts that a function returns of which the source has a literal float."""
    definition = definition_of(function)
    if definition is None:
        return frozenset()
    returned, assigned = _returned_and_assigned(definition)
    found = [returned_values(value) or {} for value in returned]
    return frozenset(name for values in found for name, value in values.items() if _has_float(value, assigned))


def _returned_and_assigned(
    definition: ast.FunctionDef | ast.Lambda,
) -> tuple[list[ast.expr], dict[str, list[ast.expr | None]]]:
    """Return what a function returns, and what its names stand for: an expression, or None for what comes otherwise."""
    returned: list[ast.expr] = []
    assigned: dict[str, list[ast.expr | None]] = defaultdict(list)
    if isinstance(definition, ast.Lambda):
        return [definition.body], assigned
    nodes: list[ast.AST] = [definition.args, *definition.body]
    while nodes:
        match nodes.pop():
            case ast.Return(value=ast.expr() as value):
                returned.append(value)
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                assigned[name].append(value)
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                assigned[name].append(None)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)) as node:
                assigned[name].append(None)
                nodes += ast.iter_child_nodes(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Lambda():
                pass  # with names and values of its own
            case node:
                nodes += ast.iter_child_nodes(node)
    return returned, assigned


def _has_float(value: ast.expr, assigned: dict[str, list[ast.expr | None]]) -> bool:
    """Whether an expression is a literal float in some case; a name is if it only ever stands for literal numbers."""
    if isinstance(value, ast.Name):
        kinds = [kind for given in assigned.get(value.id, []) for kind in _literals(given)]
        return float in kinds and None not in kinds
    return float in _literals(value)


def _literals(value: ast.expr | None) -> list[type | None]:
    """Return the types of the literal numbers that an expression may be; None stands for whatever else it may be."""
    match value:
        case ast.Constant(value=bool() | int() | float() as number):
            return [type(number)]
        case (
            ast.Attribute(value=ast.Name(id="math" | "np" | "numpy"), attr="nan" | "inf")
            | ast.Call(func=ast.Name(id="float"), args=[ast.Constant()])
        ):
            return [float]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _literals(operand)
        case ast.IfExp(body=one, orelse=other):
            return [*_literals(one), *_literals(other)]
    return [None]

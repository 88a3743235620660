"""A user's function as Numba can compile it: one that returns a tuple where the user's returns a dict."""

import ast
import builtins
import inspect
import marshal
import textwrap
import types
from collections.abc import Callable, Mapping
from typing import Any

from dasksim._engine._syntax import returned_values
from dasksim.errors import SimulatorError

__all__ = ["Source", "fingerprint", "returning_tuples", "source_of"]

Jit = Callable[[Callable[..., Any]], Any]

#: The lines of a function, and the number of the first in its file.
Source = tuple[list[str], int]


def source_of(function: Callable[..., Any], stage: str) -> Source:
    """Return the source of a function, which no other process may be able to read.

    Raises
    ------
    SimulatorError
        If it cannot be read.
    """
    if not isinstance(function, types.FunctionType):
        why = f"is a {type(function).__name__}, and only a plain function can be compiled"
        raise SimulatorError(_refusal(stage, why))
    try:
        return inspect.getsourcelines(function)
    except (OSError, TypeError) as error:
        raise SimulatorError(_refusal(stage, f"has no source that can be read ({error})")) from error


def fingerprint(function: Any, within: tuple[Any, ...] = ()) -> Any:
    """Return what tells a function from others, with all that it reads by name; it can be pickled."""
    if not isinstance(function, types.FunctionType):
        return function
    if function in within:
        return function.__qualname__
    found = inspect.getclosurevars(function)
    named = sorted({**found.globals, **found.nonlocals}.items())
    read = [(name, fingerprint(value, (*within, function))) for name, value in named]
    return marshal.dumps(function.__code__), function.__defaults__, function.__kwdefaults__, read


def returning_tuples(function: Any, source: Source, stage: str, jit: Jit) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """Return a function that returns the values of a dict as a tuple, and the names of the values.

    What it reads from its module or from a function around it is as it is now. Functions among it are compiled too.

    Parameters
    ----------
    function
        A function each ``return`` of which is a literal dict.
    source
        Its source.
    stage
        Its stage, for messages.
    jit
        What compiles a function.

    Raises
    ------
    SimulatorError
        If it is no such function.
    """
    rewritten = _Rewritten(stage)
    definition = rewritten.visit(_definition(source, stage))
    if not rewritten.names:
        raise SimulatorError(_refusal(stage, "never returns a literal dict such as {'x': x}"))
    module = ast.fix_missing_locations(ast.Module([definition], []))
    namespace = _namespace(function, jit, {})
    # under the name and at the lines of the user's own, so that Numba's messages point there
    exec(compile(module, function.__code__.co_filename, "exec"), namespace)
    found = namespace[definition.name]
    found.__defaults__, found.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return found, rewritten.names


def _refusal(stage: str, why: str) -> str:
    return f"stage {stage!r} cannot be compiled: it {why}; leave compile= out for it"


def _definition(source: Source, stage: str) -> ast.FunctionDef:
    """Return the definition of a function, at its lines, without decorators, annotations and defaults."""
    lines, first = source
    try:
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except SyntaxError as error:  # a lambda amid a call
        raise SimulatorError(_refusal(stage, "is not defined by a def statement of its own")) from error
    ast.increment_lineno(tree, first - 1)
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise SimulatorError(_refusal(stage, "is not defined by a def statement of its own"))
    if definition.args.vararg or definition.args.kwarg:
        raise SimulatorError(_refusal(stage, "takes *args or **kwargs"))
    definition.decorator_list = []
    definition.returns = None
    arguments = definition.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        argument.annotation = None
    # set afterwards, as they are now; keyword-only arguments are given by place
    arguments.args = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    arguments.posonlyargs, arguments.kwonlyargs, arguments.defaults, arguments.kw_defaults = [], [], [], []
    return definition


class _Rewritten(ast.NodeTransformer):
    """Puts a tuple in place of each dict that a function returns, and finds the names."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._depth = 0
        self.names: tuple[str, ...] = ()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._depth += 1
        # what a function within returns is its own affair
        found = self.generic_visit(node) if self._depth == 1 else node
        self._depth -= 1
        return found

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        values = returned_values(node.value)
        if values is None:
            why = f"returns something else than a literal dict in line {node.lineno}"
            raise SimulatorError(_refusal(self._stage, why))
        self.names = self.names or tuple(values)
        if set(values) != set(self.names):
            why = f"returns {list(values)} in line {node.lineno}, and {list(self.names)} before"
            raise SimulatorError(_refusal(self._stage, why))
        node.value = ast.Tuple([values[name] for name in self.names], ast.Load())
        return node


def _namespace(function: types.FunctionType, jit: Jit, made: dict[int, Any]) -> dict[str, Any]:
    """Return what a function reads by name, with plain functions compiled."""
    found = inspect.getclosurevars(function)
    named: Mapping[str, Any] = {**found.globals, **found.nonlocals}
    namespace = {name: _compiled(value, jit, made) for name, value in named.items()}
    return {**namespace, "__builtins__": vars(builtins), "__name__": function.__module__}


def _compiled(value: Any, jit: Jit, made: dict[int, Any]) -> Any:
    if not isinstance(value, types.FunctionType):
        return value
    if id(value) not in made:
        made[id(value)] = None  # one that calls itself is compiled as Numba has it
        inner = inspect.getclosurevars(value)
        named = {name: _compiled(v, jit, made) for name, v in inner.globals.items() if v is not value}
        copy = types.FunctionType(
            value.__code__, {**value.__globals__, **named}, value.__name__, value.__defaults__, value.__closure__
        )
        made[id(value)] = jit(copy)
    return made[id(value)]

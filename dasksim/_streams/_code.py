"""What the code of a function names."""

import dis
import functools
import types

__all__ = ["names_in", "tells_processes_apart"]

Chain = tuple[str, ...]


# What differs from process to process, and by what code comes to it.
_OF_PROCESS = frozenset({"hash", "id", "set", "frozenset", "getpid", "getppid", "environ", "getenv", "getnode"})


@functools.lru_cache(maxsize=1024)
def tells_processes_apart(code: types.CodeType) -> bool:
    """Whether code names or builds something that differs from process to process, such as a set of strings."""
    names = {name for chain in names_in(code)[0] for name in chain}
    builds = any(instruction.opname in ("BUILD_SET", "SET_ADD") for instruction in dis.get_instructions(code))
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return bool(names & _OF_PROCESS) or builds or any(map(tells_processes_apart, inner))


@functools.lru_cache(maxsize=1024)
def names_in(code: types.CodeType) -> tuple[tuple[Chain, ...], bool]:
    """Return the dotted names that ``code`` loads from outside, such as ``("np", "random", "normal")``.

    And whether it assigns to globals.
    """
    # in the order in which the code names them, from which the numbers of generators follow
    chains: dict[Chain, None] = {}
    assigns = False
    chain: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"):
            chain = [instruction.argval]
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            chain = [*chain, instruction.argval]
        elif instruction.opname != "EXTENDED_ARG":
            # all else ends a name; only an EXTENDED_ARG may stand between its parts
            chain = []
        assigns = assigns or instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")
        if chain:
            # the longer name takes the place of its beginning, which is followed with it
            chains.pop(tuple(chain[:-1]), None)
            chains[tuple(chain)] = None
    # inner functions, comprehensions and classes are constants with code of their own
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner, inner_assigns = names_in(constant)
            chains.update(dict.fromkeys(inner))
            assigns = assigns or inner_assigns
    return tuple(chains), assigns

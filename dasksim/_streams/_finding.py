"""What a user's function reaches: the random number generators behind it.

A function may draw from a generator that it does not take as an argument: a global of its module, a closed-over one, a
default, an attribute of ``self``, one behind a helper function. :func:`find_generators` walks from a function along
everything that its code names and says which generators it found, and which objects lie between. It only reads.

What cannot be rebuilt around another generator - a class, a subclass of a container, an instance with ``__del__``, a
scope that functions assign to - bars the path through it, and a generator behind it has to be seeded in place.

It cannot see a generator that the function makes itself, one behind an import inside the function, behind ``getattr``,
``globals()`` or a module in a local variable, in an iterator, an ``lru_cache``, a set or a ``threading.local``, one
held by compiled code, one in a container of more than 1000 elements, or one in the objects of the packages in
``_OPAQUE``, but for those in ``_KEEPERS``. If such a generator moves at every call, the probe notices and warns.
"""

import collections
import functools
import random
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dasksim._streams._code import names_in, tells_processes_apart
from dasksim._streams._sources import OwnSeed, can_make_again, can_replace, is_engine, is_generator, own_seeds
from dasksim._streams.libraries import may_draw
from dasksim._streams.process_wide import NUMPY_GLOBAL

__all__ = ["Reach", "find_generators", "instance_attributes"]

_MAX_OBJECTS = 10_000
_MAX_ELEMENTS = 1_000

# Packages whose objects are not walked: they are large, and none keeps a user's generator in plain Python.
_OPAQUE = frozenset(sys.stdlib_module_names) | {
    *("numpy", "scipy", "pandas", "xarray", "zarr", "dask", "distributed", "cupy", "jax", "torch", "keras"),
    *("tensorflow", "numba", "sklearn", "matplotlib", "numcodecs", "cloudpickle", "dasksim"),
    "_pytest",  # to which each assert of a function in a test leads, and from there to all that pytest holds
}
_OPAQUE -= {"__main__"}

# Modules by which Python calls C, and the types of functions that compilers make of Python.
_TO_C = frozenset({"ctypes", "cffi"})
_COMPILED = frozenset({"cython_function_or_method", "CompiledFFI", "CFunctionType", "_FuncPtr", "CDLL"})

# Packages whose objects keep generators, or integers that stand for one. Their attributes are walked when all else has
# been, so that other generators have the numbers that they have without them.
_KEEPERS = frozenset({"scipy", "sklearn"})


@dataclass
class Reach:
    """The generators that a function reaches, or what else can be seeded, and the objects that lead to them.

    Parameters
    ----------
    generators
        Generators at the end of a path along which every object can be rebuilt, by the numbers of their streams.
    in_place
        Generators that can also be reached by a path that cannot be rebuilt, by the numbers of theirs.
    seeds
        The integers that stand for generators, by the object (its id) and the attribute that have them.
    path
        All objects on the paths to ``generators``, by id.
    names
        For each globals dict (by id), the names in it that lead to ``generators``.
    attributes
        For each module (by id), the attributes that lead to ``generators``.
    uses_globals
        Whether the code names the global generator of ``numpy.random``.
    is_of_process
        Whether it names, or holds, something that differs from process to process, such as a set.
    calls_c
        Whether it calls compiled code of which nobody knows that threads may run it at the same time: by ctypes, or in
        extension modules of other packages than those in ``_OPAQUE``.
    n_bytes
        Bytes of the arrays seen on the way.
    """

    generators: dict[int, object] = field(default_factory=dict)
    in_place: dict[int, object] = field(default_factory=dict)
    seeds: dict[tuple[int, str], OwnSeed] = field(default_factory=dict)
    path: dict[int, object] = field(default_factory=dict)
    names: dict[int, dict[str, object]] = field(default_factory=dict)
    attributes: dict[int, dict[str, object]] = field(default_factory=dict)
    uses_globals: bool = False
    is_of_process: bool = False
    calls_c: bool = False
    n_bytes: int = 0


def find_generators(function: object) -> Reach:
    """Walk from ``function`` and return what it reaches."""
    walk = _Walk()
    walk.run(function)
    return walk.reach


@dataclass(frozen=True, slots=True)
class _Edge:
    child: object
    can_rebuild: bool = True
    name_in: int | None = None  # id of the globals dict or module in which `name` is bound to `child`
    name: str = ""


class _Walk:
    def __init__(self) -> None:
        self.reach = Reach()
        # held, so that no other object gets the id of one that is gone
        self.objects: dict[int, object] = {}
        self.edges: dict[int, list[_Edge]] = {}
        self.module_edges: dict[int, dict[str, _Edge]] = {}
        self.assigned: set[int] = set()  # ids of globals dicts that functions assign to, and of their modules
        self.sources: dict[int, object] = {}
        self.keepers: list[object] = []
        self.is_late = False
        self.most = _MAX_OBJECTS
        self.n_numbered = 0

    def run(self, root: object) -> None:
        """Find all objects first, then which of them lead to a generator, and whether by a path we can rebuild."""
        self._explore([_Edge(root)])
        self._number(root)
        if self.keepers:
            self.is_late = True
            # an allowance of their own, since the first may be used up
            self.most = len(self.objects) + _MAX_OBJECTS
            for keeper in self.keepers:  # it grows
                kept = list(self._of_keeper(keeper))
                self.edges[id(keeper)].extend(kept)
                self._explore(kept)
            self._number(root)
        self._find_paths(root)

    def _explore(self, edges: list[_Edge]) -> None:
        # depth first, in the order in which code names things: generators are numbered as they are found, and must have
        # the same numbers in every process
        stack = [edge.child for edge in reversed(edges)]
        self.stack = stack
        while stack and len(self.objects) < self.most:
            obj = stack.pop()
            if id(obj) in self.objects:
                continue
            self.objects[id(obj)] = obj
            found = self.edges[id(obj)] = list(self._children(obj))
            stack.extend(edge.child for edge in reversed(found))
        # only now, since any function may name further attributes of a module
        for module, attributes in self.module_edges.items():
            self.edges.setdefault(module, []).extend(attributes.values())
        self.module_edges.clear()
        self._bar_assigned()

    def _bar_assigned(self) -> None:
        """Keep scopes that functions assign to as they are: other functions read them, or assign to them too."""
        for key, edges in self.edges.items():
            self.edges[key] = [replace(e, can_rebuild=False) if e.name_in in self.assigned else e for e in edges]

    def _number(self, root: object) -> None:
        """Give numbers to the sources that have been found and have none: to those to be replaced first."""
        down = self._below([root], only_rebuildable=True)
        barred = [e.child for edges in self.edges.values() for e in edges if not e.can_rebuild]
        behind_bar = self._below(barred, only_rebuildable=False)
        # one that is reached both ways is in both: whoever cannot be rebuilt draws from the user's own, seeded in place
        replaced = [obj for key, obj in self.sources.items() if key in down and can_replace(obj)]
        in_place = [obj for key, obj in self.sources.items() if key in behind_bar or not can_replace(obj)]
        for numbers, sources in ((self.reach.generators, replaced), (self.reach.in_place, in_place)):
            # the numbers that were given are those of streams, and stay
            known = set(map(id, numbers.values()))
            for obj in sources:
                if id(obj) not in known:
                    numbers[self.n_numbered] = obj
                    self.n_numbered += 1

    def _find_paths(self, root: object) -> None:
        # down from the root, to know what holds what, as far as it can be rebuilt
        parents: dict[int, list[int]] = {}
        for key in self._below([root], only_rebuildable=True):
            for edge in self.edges.get(key, ()):
                if edge.can_rebuild:
                    parents.setdefault(id(edge.child), []).append(key)
        found = self.reach.generators.values()
        self.reach.seeds = {(id(obj.owner), obj.name): obj for obj in found if isinstance(obj, OwnSeed)}
        # up from the generators: what leads to none of them stays shared, and is never copied
        todo = list(map(id, found))
        while todo:
            key = todo.pop()
            if key not in self.reach.path:
                self.reach.path[key] = self.objects.get(key)
                todo.extend(parents.get(key, ()))
        # names to be bound anew: an edge that a module itself has is its attribute, others are globals of functions
        for key in self.reach.path:
            for edge in self.edges.get(key, ()):
                if edge.name_in is not None and id(edge.child) in self.reach.path:
                    table = self.reach.attributes if edge.name_in == key else self.reach.names
                    table.setdefault(edge.name_in, {})[edge.name] = edge.child

    def _below(self, roots: list[object], *, only_rebuildable: bool) -> set[int]:
        found: set[int] = set()
        todo = [id(obj) for obj in roots]
        while todo:
            key = todo.pop()
            if key not in found:
                found.add(key)
                todo.extend(id(e.child) for e in self.edges.get(key, ()) if e.can_rebuild or not only_rebuildable)
        return found

    def _children(self, obj: object) -> Iterator[_Edge]:
        if is_generator(obj) or isinstance(obj, OwnSeed):
            self._add_source(obj)
        elif isinstance(obj, np.ndarray):
            self.reach.n_bytes += obj.nbytes
        elif isinstance(obj, types.FunctionType):
            yield from self._of_function(obj)
        elif isinstance(obj, types.MethodType):
            yield from (_Edge(obj.__self__), _Edge(obj.__func__))
        elif isinstance(obj, types.BuiltinMethodType):
            # such as a stored `rng.normal`
            if is_generator(obj.__self__):
                yield _Edge(obj.__self__)
            self.reach.calls_c |= _is_foreign(obj)
        elif isinstance(obj, functools.partial):
            yield from (_Edge(obj.func), _Edge(obj.args), _Edge(obj.keywords))
        elif isinstance(obj, list | tuple | dict | collections.deque):
            elements = list(obj.values() if isinstance(obj, dict) else obj)
            for element in elements if len(elements) <= _MAX_ELEMENTS else ():
                # a subclass may be made in a way of its own
                yield _Edge(element, type(obj) in (list, tuple, dict))
            yield from self._of_instance(obj)
        elif isinstance(obj, type):
            yield from self._of_class(obj)
        elif not isinstance(obj, types.ModuleType):
            self.reach.is_of_process |= isinstance(obj, set | frozenset) and any(isinstance(e, str) for e in obj)
            self.reach.calls_c |= type(obj).__name__ in _COMPILED and _is_foreign(obj)
            yield from self._of_instance(obj)

    def _add_source(self, obj: object) -> None:
        if obj is not NUMPY_GLOBAL:
            self.sources[id(obj)] = obj
        elif not self.is_late:  # most objects of scipy that keep it never draw from it; if they do, the probe finds out
            self.reach.uses_globals = True

    def _of_function(self, function: types.FunctionType) -> Iterator[_Edge]:
        if _is_opaque(function):
            return
        code, scope = function.__code__, function.__globals__
        # of the user's own code: a package may hold sets wherever it likes, and starting a process takes a second
        self.reach.is_of_process |= "site-packages" not in code.co_filename and tells_processes_apart(code)
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        for cell in cells.values():
            if _contents(cell) is not None:
                yield _Edge(_contents(cell))
        yield from map(_Edge, function.__defaults__ or ())
        yield from map(_Edge, (function.__kwdefaults__ or {}).values())
        yield from (_Edge(value) for name, value in vars(function).items() if name != "__wrapped__")
        chains, assigns = names_in(code)
        if assigns:
            # the module too, by which other functions may read the same names
            self.assigned |= {id(scope), id(sys.modules.get(scope.get("__name__", "")))}
        for head, *attributes in chains:
            if head in cells:
                value = _contents(cells[head])
            elif head in scope:
                value = scope[head]
                yield _Edge(value, name_in=id(scope), name=head)
            else:
                # a builtin, or not bound yet
                continue
            yield from self._along(value, attributes)

    def _along(self, value: object, attributes: list[str]) -> Iterator[_Edge]:
        """Follow ``module.attribute.attribute`` as far as it leads through modules."""
        opaque = False
        path = value.__name__ if isinstance(value, types.ModuleType) else ""
        self.reach.calls_c |= _top(path) in _TO_C
        if path and may_draw(".".join([path, *attributes])):
            # rarely perhaps, so that no probe would notice
            self.reach.uses_globals = True
        for name in attributes:
            # attributes of anything but modules are found when it is walked itself
            if not isinstance(value, types.ModuleType) or name not in vars(value):
                break
            # `random` is rebuilt like a user's module: other threads, such as a cluster worker's event loop, draw from
            # the real one at any time, so that it cannot be seeded in place
            opaque = opaque or (_top(value.__name__) in _OPAQUE and value is not random)
            child = vars(value)[name]
            if not opaque:
                edge = _Edge(child, name_in=id(value), name=name)
                self.module_edges.setdefault(id(value), {})[name] = edge
            value = child
        if opaque:
            # packages that are not walked are not rebuilt either: a generator of theirs is seeded where it is
            yield _Edge(value, can_rebuild=False)
        else:
            # the edge to it is the module's, not the function's
            self.stack.append(value)

    def _of_class(self, cls: type) -> Iterator[_Edge]:
        for base in cls.__mro__:
            if _top(base.__module__) in _OPAQUE:
                continue
            for _, value in sorted(vars(base).items()):  # cloudpickle does not keep their order
                if isinstance(value, property):
                    yield _Edge(value.fget, can_rebuild=False)
                elif isinstance(value, functools.cached_property | functools.partialmethod):
                    yield _Edge(value.func, can_rebuild=False)
                else:
                    yield _Edge(getattr(value, "__func__", value), can_rebuild=False)

    def _of_instance(self, obj: object) -> Iterator[_Edge]:
        cls = type(obj)
        if any(_top(base.__module__) in _KEEPERS for base in cls.__mro__):
            self.keepers.append(obj)
        # it is made again as a whole, after all else
        if is_engine(obj):
            return
        if _top(cls.__module__) == "numba" and isinstance(getattr(obj, "__wrapped__", None), types.FunctionType):
            # compiled code draws from generators of Numba's, by the names of those of NumPy and Python
            yield _Edge(obj.__wrapped__, can_rebuild=False)  # type: ignore[attr-defined]
        if _top(cls.__module__) in _OPAQUE and cls not in (np.vectorize, types.SimpleNamespace):
            # which may be a method, as that of distributed's client is
            n_bytes = getattr(obj, "nbytes", 0)
            self.reach.n_bytes += n_bytes if isinstance(n_bytes, int) else 0
            return
        for value in instance_attributes(obj).values():
            yield _Edge(value, _can_rebuild(cls))
        yield _Edge(cls, can_rebuild=False)

    def _of_keeper(self, obj: object) -> Iterator[_Edge]:
        cls = type(obj)
        attributes = sorted(instance_attributes(obj).items())
        if is_engine(obj):
            self.reach.n_bytes += sum(value.nbytes for _, value in attributes if isinstance(value, np.ndarray))
            if can_make_again(obj):
                self.sources[id(obj)] = obj
            return
        is_users = _top(cls.__module__) not in _OPAQUE  # and has been walked
        for seed in own_seeds(obj):
            if seed.name == "random_state" or not is_users:
                yield _Edge(seed, _can_rebuild(cls))
        for name, value in attributes:
            if not (is_users or _is_fitted(name, value)):
                yield _Edge(value, _can_rebuild(cls))


def _is_fitted(name: str, value: object) -> bool:
    """Whether an attribute is a collection of what scikit-learn has fitted, whose seeds have served their purpose."""
    ends = {name[-1]} if isinstance(value, dict) else {name[0], name[-1]}
    return isinstance(value, list | tuple | dict) and "_" in ends


def _is_foreign(function: Any) -> bool:
    """Whether a compiled function is of a package of which nobody knows that threads may call it at the same time."""
    module = getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__
    return not isinstance(module, str) or _top(module) not in _OPAQUE - _TO_C


def _can_rebuild(cls: Any) -> bool:
    """Whether another instance can be made from the attributes of one.

    Not where a class ends what its instances hold, such as a file or a connection, by ``__del__``: when the copy went,
    the user's own would find it closed.
    """
    if hasattr(cls, "__del__"):
        return False
    # another instance is made without arguments, which a __new__ of its own may want
    return cls.__new__ is object.__new__ or cls is types.SimpleNamespace


def instance_attributes(obj: object) -> dict[str, object]:
    """Return the attributes of an instance, those in slots included."""
    found = dict(getattr(obj, "__dict__", {}))
    for cls in type(obj).__mro__:
        # sorted, since cloudpickle does not keep the order of a class's members
        for name, member in sorted(vars(cls).items()):
            if isinstance(member, types.MemberDescriptorType) and name != "__dict__" and hasattr(obj, name):
                found[name] = getattr(obj, name)
    return found


def _contents(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _top(module: object) -> str:
    return str(module or "").partition(".")[0]  # no string, of types that Cython 3.1 makes


def _is_opaque(function: types.FunctionType) -> bool:
    # both, since functools.wraps gives a wrapper the module of what it wraps
    return _top(function.__module__) in _OPAQUE and _top(function.__globals__.get("__name__")) in _OPAQUE

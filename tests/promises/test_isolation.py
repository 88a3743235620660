"""A function that draws from a generator of its own gives independent, reproducible draws, and leaves it as it was."""

import contextlib
import functools
import gc
import pickle
import random
import types
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from random import gauss
from typing import Any, NamedTuple

import cloudpickle
import dask
import helper_modules.nested.sub
import numpy as np
import numpy.random as npr
import numpy.typing as npt
import pytest
from helper_modules import drawing
from helper_modules.drawing import draw as imported_draw
from numpy.random import normal
from variants import quick

import dasksim
from dasksim import make_simulator
from dasksim._streams._finding import _Walk, find_generators
from dasksim._streams.addresses import Address, stage_key
from dasksim._streams.isolation import Isolated, run_all

N_SAMPLES = 60  # a stream for every sample: many chunks for threads to run, each of two sub-batches
SUB_BATCH_SIZE = 6
CHUNK_SIZE = 12
N_PROBES = 2

Array = npt.NDArray[Any]
Function = Callable[..., Any]
Case = Callable[[], tuple[Function, list[Any]]]

RNG = np.random.default_rng(1)
SECOND_RNG = np.random.default_rng(2)
STATE = np.random.RandomState(3)
PYTHON = random.Random(4)
STORED_DRAW = RNG.normal
N_CALLS = 0
TABLE: list[float] | None = None
REBOUND = np.random.default_rng(5)

MODULE_GENERATORS = [RNG, SECOND_RNG, STATE, PYTHON, drawing.rng, helper_modules.nested.sub.rng]


def _state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return pickle.dumps(generator.get_state(legacy=False))
    return pickle.dumps(getattr(generator, "bit_generator", generator).state)


@contextlib.contextmanager
def untouched(*generators: Any) -> Iterator[None]:
    """Assert that these generators and all of this module's are left as they were, held-back normals included."""
    watched = [np.random.mtrand._rand, random._inst, *MODULE_GENERATORS, *generators]
    for generator in watched:
        if isinstance(generator, np.random.RandomState):
            generator.seed(8)
            generator.normal()  # an odd number: the second of the pair is held back
    before = [_state(generator) for generator in watched]
    yield
    assert [_state(generator) for generator in watched] == before


def sample(function: Function, scheduler: str = "synchronous", seed: int = 6, n: int = N_SAMPLES) -> Array:
    ds = dasksim.make_simulator(function).sample(n, seed=seed, sub_batch_size=SUB_BATCH_SIZE, chunk_size=CHUNK_SIZE)
    return np.asarray(ds.compute(scheduler=scheduler, num_workers=4).x.values)


CASES: dict[str, Case] = {}


def case(build: Case) -> Case:
    CASES[build.__name__] = build
    return build


# --- at module level --------------------------------------------------------------------------------------------------


def from_generator() -> Any:
    return {"x": RNG.normal()}


def from_random_state() -> Any:
    return {"x": STATE.normal()}


def from_python_random() -> Any:
    return {"x": PYTHON.gauss(0, 1)}


def from_numpy_global() -> Any:
    return {"x": np.random.normal()}


def from_numpy_global_function() -> Any:
    return {"x": normal()}


def from_numpy_random_module() -> Any:
    return {"x": npr.normal()}


def from_random_module() -> Any:
    return {"x": random.gauss(0, 1)}


def from_random_function() -> Any:
    return {"x": gauss(0, 1)}


def from_stored_method() -> Any:
    return {"x": STORED_DRAW()}


def from_helper_module_function() -> Any:
    return {"x": drawing.draw()}


def from_helper_module_function_of_function() -> Any:
    return {"x": drawing.draw_twice()}


def from_imported_function() -> Any:
    return {"x": imported_draw()}


def from_helper_module_generator() -> Any:
    return {"x": drawing.rng.normal()}


def from_nested_package_generator() -> Any:
    return {"x": helper_modules.nested.sub.rng.normal()}


def helper() -> float:
    return float(RNG.normal())


def from_helper() -> Any:
    return {"x": helper()}


def from_recursion(depth: int = 3) -> Any:
    return {"x": RNG.normal()} if depth == 0 else from_recursion(depth - 1)


def ping(n: int) -> float:
    return float(RNG.normal()) if n == 0 else pong(n - 1)


def pong(n: int) -> float:
    return float(RNG.normal()) if n == 0 else ping(n - 1)


def from_mutual_recursion() -> Any:
    return {"x": ping(3)}


def from_comprehension() -> Any:
    return {"x": sum([RNG.normal() for _ in range(3)])}


def from_generator_expression() -> Any:
    return {"x": sum(RNG.normal() for _ in range(3))}


def from_inner_function() -> Any:
    def inner() -> float:
        return float(RNG.normal())

    return {"x": inner()}


def from_inner_class() -> Any:
    class Inner:
        value = RNG.normal()

    return {"x": Inner.value}


from_lambda = lambda: {"x": RNG.normal()}  # noqa: E731


def by_two_paths() -> Any:
    direct, through = RNG.normal(), helper()
    return {"x": direct if direct != through else 0.0}


def from_two_generators() -> Any:
    a, b = RNG.normal(), SECOND_RNG.normal()
    return {"x": a if a != b else 0.0}


def from_unbound_method() -> Any:
    return {"x": np.random.Generator.normal(RNG)}


MODULE_FUNCTIONS = [
    from_generator,
    from_random_state,
    from_python_random,
    from_numpy_global,
    from_numpy_global_function,
    from_numpy_random_module,
    from_random_module,
    from_random_function,
    from_stored_method,
    from_helper_module_function,
    from_helper_module_function_of_function,
    from_imported_function,
    from_helper_module_generator,
    from_nested_package_generator,
    from_helper,
    from_recursion,
    from_mutual_recursion,
    from_comprehension,
    from_generator_expression,
    from_inner_function,
    from_inner_class,
    from_lambda,
    by_two_paths,
    from_two_generators,
    from_unbound_method,
]

# --- closures, defaults, wrappers -------------------------------------------------------------------------------------


@case
def closure() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)
    return lambda: {"x": rng.normal()}, [rng]


@case
def closure_over_random_state() -> tuple[Function, list[Any]]:
    rng = np.random.RandomState(11)
    return lambda: {"x": rng.normal()}, [rng]


@case
def closure_over_philox_random_state() -> tuple[Function, list[Any]]:
    rng = np.random.RandomState(np.random.Philox(11))
    return lambda: {"x": rng.normal()}, []


@case
def closure_over_python_random() -> tuple[Function, list[Any]]:
    rng = random.Random(11)
    return lambda: {"x": rng.gauss(0, 1)}, [rng]


@case
def closure_over_bit_generator() -> tuple[Function, list[Any]]:
    bits = np.random.Philox(11)
    return lambda: {"x": np.random.Generator(bits).normal()}, [bits]


@case
def nested_closure() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)

    def middle() -> float:
        def inner() -> float:
            return float(rng.normal())

        return inner()

    return lambda: {"x": middle()}, [rng]


@case
def closure_over_a_module() -> tuple[Function, list[Any]]:
    module = drawing
    return lambda: {"x": module.draw()}, []


@case
def recursive_closure() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)

    def down(n: int) -> float:
        return float(rng.normal()) if n == 0 else down(n - 1)

    return lambda: {"x": down(3)}, [rng]


@case
def default_argument() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)

    def function(generator: Any = rng) -> Any:
        return {"x": generator.normal()}

    return function, [rng]


@case
def keyword_only_default() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)

    def function(*, generator: Any = rng) -> Any:
        return {"x": generator.normal()}

    return function, [rng]


def draw_from(generator: Any) -> Any:
    return {"x": generator.normal()}


def draw_between(low: float, generator: Any, high: float) -> Any:
    return {"x": generator.uniform(low, high)}


@case
def partial_of_argument() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)
    return functools.partial(draw_from, rng), [rng]


@case
def partial_of_keyword() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)
    return functools.partial(draw_from, generator=rng), [rng]


@case
def partial_of_partial() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)
    return functools.partial(functools.partial(functools.partial(draw_between, 0.0), rng), 1.0), [rng]


@case
def partial_of_function_of_module_generator() -> tuple[Function, list[Any]]:
    return functools.partial(from_recursion, 0), []


@case
def decorated() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)

    def doubled(function: Function) -> Function:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return {"x": 2 * function(*args, **kwargs)["x"]}

        return wrapper

    @doubled
    def function() -> Any:
        return {"x": rng.normal()}

    return function, [rng]


@case
def decorated_in_another_module() -> tuple[Function, list[Any]]:
    return drawing.doubled(from_generator), []


@case
def vectorized() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)
    draw = np.vectorize(lambda loc: rng.normal(loc))
    return lambda: {"x": draw(np.zeros(3))[1]}, [rng]


@case
def vectorized_with_cached_ufunc() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)
    draw = np.vectorize(lambda loc: rng.normal(loc), otypes=[float])
    draw(np.zeros(3))
    return lambda: {"x": draw(np.zeros(3))[1]}, [rng]


@case
def stored_bound_method() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)
    draw = rng.normal
    return lambda: {"x": draw()}, [rng]


@case
def stored_bound_methods_of_other_kinds() -> tuple[Function, list[Any]]:
    state, python = np.random.RandomState(11), random.Random(11)
    draw, draw_python, uniform = state.normal, python.gauss, python.random
    return lambda: {"x": draw() + draw_python(0, 1) + uniform()}, [state, python]


@case
def attribute_of_a_function() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)

    def function() -> Any:
        return {"x": function.rng.normal()}  # type: ignore[attr-defined]

    function.rng = rng  # type: ignore[attr-defined]
    return function, [rng]


@case
def function_with_its_own_globals() -> tuple[Function, list[Any]]:
    scope: dict[str, Any] = {"rng": np.random.default_rng(11)}
    exec("def draw():\n    return rng.normal()\ndef function():\n    return {'x': draw()}\n", scope)
    return scope["function"], [scope["rng"]]


# --- containers -------------------------------------------------------------------------------------------------------


@case
def dict_of_generators() -> tuple[Function, list[Any]]:
    rngs = {"a": np.random.default_rng(11), "b": np.random.default_rng(12)}
    return lambda: {"x": rngs["a"].normal() + rngs["b"].normal()}, list(rngs.values())


@case
def list_of_generators() -> tuple[Function, list[Any]]:
    rngs = [np.random.default_rng(11), np.random.default_rng(12)]
    return lambda: {"x": rngs[0].normal() + rngs[1].normal()}, rngs


@case
def tuple_of_generators() -> tuple[Function, list[Any]]:
    rngs = (np.random.default_rng(11), (np.random.default_rng(12),))
    return lambda: {"x": rngs[0].normal() + rngs[1][0].normal()}, [rngs[0], rngs[1][0]]


@case
def dict_of_functions() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(11)
    draws: dict[str, Callable[[], float]] = {"normal": lambda: rng.normal(), "uniform": rng.uniform}
    return lambda: {"x": draws["normal"]() + draws["uniform"]()}, [rng]


class Pair(NamedTuple):
    rng: np.random.Generator
    scale: float


@case
def named_tuple() -> tuple[Function, list[Any]]:
    pair = Pair(np.random.default_rng(11), 2.0)
    return lambda: {"x": pair.scale * pair.rng.normal()}, [pair.rng]


class Registry(dict[str, Any]):
    pass


@case
def subclass_of_dict() -> tuple[Function, list[Any]]:
    registry = Registry(rng=np.random.default_rng(11))
    return lambda: {"x": registry["rng"].normal()}, [registry["rng"]]


@case
def double_ended_queue() -> tuple[Function, list[Any]]:
    rngs = deque([np.random.default_rng(11)])
    return lambda: {"x": rngs[0].normal()}, list(rngs)


@case
def namespace() -> tuple[Function, list[Any]]:
    space = types.SimpleNamespace(rng=np.random.default_rng(11))
    return lambda: {"x": space.rng.normal()}, [space.rng]


@case
def cycle() -> tuple[Function, list[Any]]:
    node: dict[str, Any] = {"rng": np.random.default_rng(11)}
    node["neighbours"] = [node, ({"back": node},)]
    return lambda: {"x": node["neighbours"][1][0]["back"]["rng"].normal()}, [node["rng"]]


# --- objects and classes ----------------------------------------------------------------------------------------------


class WithRng:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(11)

    def draw(self) -> float:
        return float(self.rng.normal())

    def simulate(self) -> Any:
        return {"x": self.rng.normal()}

    def simulate_by_other_method(self) -> Any:
        return {"x": self.draw()}

    def __call__(self) -> Any:
        return {"x": self.rng.normal()}


@case
def bound_method() -> tuple[Function, list[Any]]:
    model = WithRng()
    return model.simulate, [model.rng]


@case
def method_that_calls_a_method() -> tuple[Function, list[Any]]:
    model = WithRng()
    return model.simulate_by_other_method, [model.rng]


@case
def callable_object() -> tuple[Function, list[Any]]:
    model = WithRng()
    return model, [model.rng]


class Slotted:
    __slots__ = ("__rng", "public")

    def __init__(self) -> None:
        self.__rng = np.random.default_rng(11)

    @property
    def generator(self) -> np.random.Generator:
        return self.__rng

    def __call__(self) -> Any:
        return {"x": self.__rng.normal()}


@case
def callable_object_with_private_slots() -> tuple[Function, list[Any]]:
    model = Slotted()
    return model, [model.generator]


class OneSlot:
    __slots__ = "rng"

    def __init__(self) -> None:
        self.rng = np.random.default_rng(11)

    def __call__(self) -> Any:
        return {"x": self.rng.normal()}


@case
def callable_object_with_one_slot() -> tuple[Function, list[Any]]:
    model = OneSlot()
    return model, [model.rng]


@dataclass(frozen=True)
class Frozen:
    rng: np.random.Generator
    scale: float = 2.0

    def __call__(self) -> Any:
        return {"x": self.scale * self.rng.normal()}


@dataclass(frozen=True, slots=True)
class FrozenSlotted:
    rng: np.random.Generator
    scale: float = 2.0

    def __call__(self) -> Any:
        return {"x": self.scale * self.rng.normal()}


@case
def frozen_dataclass() -> tuple[Function, list[Any]]:
    model = Frozen(np.random.default_rng(11))
    return model, [model.rng]


@case
def frozen_dataclass_with_slots() -> tuple[Function, list[Any]]:
    model = FrozenSlotted(np.random.default_rng(11))
    return model, [model.rng]


class Holder:
    def __init__(self) -> None:
        self.model = WithRng()

    def __call__(self) -> Any:
        return {"x": self.model.draw() + self.model.rng.normal()}


@case
def object_that_holds_an_object() -> tuple[Function, list[Any]]:
    holder = Holder()
    return holder, [holder.model.rng]


class Child(WithRng):
    def simulate(self) -> Any:
        return super().simulate()


@case
def super_method() -> tuple[Function, list[Any]]:
    model = Child()
    return model.simulate, [model.rng]


class WithModuleRng:
    def draw(self) -> float:
        return float(RNG.normal())

    def simulate(self) -> Any:
        return {"x": self.draw()}

    def __call__(self) -> Any:
        return {"x": RNG.normal()}


class ChildWithModuleRng(WithModuleRng):
    def simulate(self) -> Any:
        return super().simulate()


@case
def method_that_draws_from_the_module() -> tuple[Function, list[Any]]:
    return WithModuleRng().simulate, []


@case
def callable_object_that_draws_from_the_module() -> tuple[Function, list[Any]]:
    return WithModuleRng(), []


@case
def super_method_that_draws_from_the_module() -> tuple[Function, list[Any]]:
    return ChildWithModuleRng().simulate, []


class WithClassRng:
    rng = np.random.default_rng(11)
    python = random.Random(12)
    another = np.random.RandomState(13)

    def simulate(self) -> Any:
        return {"x": self.rng.normal() + self.python.gauss(0, 1) + self.another.normal()}

    @staticmethod
    def static() -> Any:
        return {"x": WithClassRng.rng.normal()}

    @classmethod
    def of_class(cls) -> Any:
        return {"x": cls.rng.normal()}

    @staticmethod
    def from_module() -> Any:
        return {"x": RNG.normal()}

    @property
    def noise(self) -> float:
        return float(RNG.normal())

    @functools.cached_property
    def cached_noise(self) -> float:
        return float(RNG.normal())

    draw_partly = functools.partialmethod(lambda self, loc: RNG.normal(loc), 1.0)


CLASS_GENERATORS: list[Any] = [WithClassRng.rng, WithClassRng.python, WithClassRng.another]


@case
def attributes_of_the_class() -> tuple[Function, list[Any]]:
    return WithClassRng().simulate, CLASS_GENERATORS


class WithClassRngOnly:
    rng = np.random.default_rng(11)


@case
def one_that_is_replaced_and_one_that_is_not() -> tuple[Function, list[Any]]:
    rng = np.random.default_rng(12)

    def function() -> Any:
        ours, of_the_class = rng.random(), WithClassRngOnly.rng.random()
        return {"x": ours if ours != of_the_class else 0.0}

    return function, [rng, WithClassRngOnly.rng]


class ReadOnly:
    def __init__(self) -> None:
        vars(self)["rng"] = np.random.default_rng(11)

    @property
    def rng(self) -> np.random.Generator:
        generator: np.random.Generator = vars(self)["rng"]
        return generator

    def __call__(self) -> Any:
        return {"x": self.rng.normal()}


@case
def property_over_an_attribute_of_its_name() -> tuple[Function, list[Any]]:
    model = ReadOnly()
    return model, [model.rng]


@case
def static_method() -> tuple[Function, list[Any]]:
    return WithClassRng.static, CLASS_GENERATORS


@case
def class_method() -> tuple[Function, list[Any]]:
    return WithClassRng.of_class, CLASS_GENERATORS


@case
def static_method_that_draws_from_the_module() -> tuple[Function, list[Any]]:
    return WithClassRng.from_module, CLASS_GENERATORS


@case
def property_that_draws_from_the_module() -> tuple[Function, list[Any]]:
    model = WithClassRng()
    return lambda: {"x": model.noise}, CLASS_GENERATORS


@case
def cached_property_that_draws_from_the_module() -> tuple[Function, list[Any]]:
    return lambda: {"x": WithClassRng().cached_noise}, CLASS_GENERATORS


@case
def partial_method_that_draws_from_the_module() -> tuple[Function, list[Any]]:
    model = WithClassRng()
    return lambda: {"x": model.draw_partly()}, CLASS_GENERATORS


class HalfNormal(np.random.Generator):
    def __reduce__(self) -> Any:
        return HalfNormal, (self.bit_generator,)

    def half_normal(self) -> float:
        return float(abs(self.normal()))


@case
def subclass_of_generator() -> tuple[Function, list[Any]]:
    rng = HalfNormal(np.random.PCG64(11))
    return lambda: {"x": rng.half_normal()}, [rng]


class Loaded(random.Random):
    def loaded(self) -> float:
        return 2 * self.gauss(0, 1)


@case
def subclass_of_python_random() -> tuple[Function, list[Any]]:
    rng = Loaded(11)
    return lambda: {"x": rng.loaded()}, [rng]


# --- what only the probe can find -------------------------------------------------------------------------------------


@case
def import_in_the_function() -> tuple[Function, list[Any]]:
    def function() -> Any:
        import numpy

        return {"x": numpy.random.normal()}

    return function, []


@case
def import_of_random_in_the_function() -> tuple[Function, list[Any]]:
    def function() -> Any:
        import random as python_random

        return {"x": python_random.gauss(0, 1)}

    return function, []


@case
def scipy_distribution() -> tuple[Function, list[Any]]:
    stats = pytest.importorskip("scipy.stats")
    return lambda: {"x": stats.norm.rvs()}, []


# --- the tests --------------------------------------------------------------------------------------------------------

for module_function in MODULE_FUNCTIONS:
    CASES[module_function.__name__] = functools.partial(lambda function: (function, []), module_function)
CASES["from_lambda"] = CASES.pop("<lambda>")

IN_PROCESSES = [
    "from_generator",
    "from_helper_module_function",
    "from_numpy_global",
    "closure_over_random_state",
    "attributes_of_the_class",
    "callable_object_with_private_slots",
    "import_in_the_function",
]


@pytest.mark.parametrize("name", CASES)
def test_draws_are_independent_and_reproducible_and_leave_the_callers_generators(name: str) -> None:
    function, generators = CASES[name]()
    with untouched(*generators):
        x = sample(function)
        assert len(np.unique(x)) == N_SAMPLES
        np.testing.assert_array_equal(sample(function), x)
        np.testing.assert_array_equal(sample(function, "threads"), x)
    assert not np.isin(sample(function, seed=7), x).any()


@pytest.mark.parametrize("name", CASES)
def test_draws_do_not_depend_on_where_the_callers_generators_are(name: str) -> None:
    function, generators = CASES[name]()
    x = sample(function, n=24)
    with contextlib.ExitStack() as stack:
        for generator in (np.random.mtrand._rand, random._inst, *MODULE_GENERATORS, *generators):
            stack.callback(_advance, generator)
    np.testing.assert_array_equal(sample(function, n=24), x)


def _advance(generator: Any) -> None:
    if isinstance(generator, np.random.BitGenerator):
        generator.random_raw()
    else:
        generator.random()


@pytest.mark.parametrize("name", IN_PROCESSES)
def test_processes_give_the_same_draws(name: str, pool: ProcessPoolExecutor) -> None:
    function, _ = CASES[name]()
    ds = dasksim.make_simulator(function).sample(60, seed=6, sub_batch_size=SUB_BATCH_SIZE, chunk_size=30)
    x = ds.compute(scheduler="processes", pool=pool).x.values
    np.testing.assert_array_equal(x, sample(function, n=60))


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


@pytest.mark.parametrize(
    "name", sorted(CASES.keys() - {"vectorized_with_cached_ufunc"})
)  # NumPy's ufuncs do not pickle
def test_a_function_and_its_copy_from_a_pickle_draw_the_same(name: str) -> None:
    isolated = Isolated(CASES[name]()[0])
    copy = cloudpickle.loads(cloudpickle.dumps(isolated))
    address = Address(6, stage_key("stage"), 3)
    values = []
    for one in (isolated, copy):
        with one.at(address, watch=True) as function:
            values.append([function()["x"] for _ in range(5)])
    assert values[0] == values[1]
    assert len(set(values[0])) == 5


def test_two_functions_that_share_a_generator_draw_independently() -> None:
    def first() -> Any:
        return {"x": RNG.normal()}

    def second() -> Any:
        return {"y": RNG.normal()}

    with untouched():
        ds = dasksim.make_simulator([first, second]).sample(N_SAMPLES, seed=6, sub_batch_size=SUB_BATCH_SIZE).compute()
    assert len(np.unique(np.concatenate([ds.x.values, ds.y.values]))) == 2 * N_SAMPLES


def test_two_paths_lead_to_one_generator() -> None:
    rng = np.random.default_rng(11)

    class Twin:
        def __init__(self) -> None:
            self.rng = rng

    twin = Twin()
    assert not sample(lambda: {"x": twin.rng is not rng}).any()


def test_children_that_the_function_spawns_share_no_stream_with_its_other_generators() -> None:
    hidden = np.random.Generator(np.random.SFC64(11))

    def function(rng: np.random.Generator) -> Any:
        return {"x": hidden.random(), "children": [child.random() for child in rng.spawn(10)]}

    ds = dasksim.make_simulator(function).sample(1, seed=6).compute()
    assert not np.isin(ds.x.values, ds.children.values).any()


def test_a_global_rebound_before_sample_is_seeded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def function() -> Any:
        return {"x": REBOUND.normal()}

    simulator = dasksim.make_simulator(function)
    rng = np.random.default_rng(21)
    monkeypatch.setattr(f"{__name__}.REBOUND", rng)
    options: dict[str, Any] = {"seed": 6, "sub_batch_size": SUB_BATCH_SIZE}
    with untouched(rng):
        x = simulator.sample(N_SAMPLES, **options).compute().x.values
        assert len(np.unique(x)) == N_SAMPLES
        np.testing.assert_array_equal(simulator.sample(N_SAMPLES, **options).compute(scheduler="threads").x.values, x)


# --- globals that are first used late, or seeded by the function ------------------------------------------------------


def uses_numpy_from_the_30th_call_on() -> Function:
    calls: list[int] = []

    def function() -> Any:
        calls.append(0)
        if len(calls) < 30:
            return {"x": RNG.normal()}
        import numpy

        return {"x": numpy.random.normal()}

    return function


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_function_that_starts_to_use_numpy_random_late_leaves_it_as_it_was(scheduler: str) -> None:
    with untouched():
        x = sample(uses_numpy_from_the_30th_call_on(), scheduler)
    assert len(np.unique(x)) == N_SAMPLES


def test_a_function_that_starts_to_use_numpy_random_late_is_reproducible() -> None:
    x = sample(uses_numpy_from_the_30th_call_on())
    np.random.normal()
    np.testing.assert_array_equal(sample(uses_numpy_from_the_30th_call_on()), x)


def uses_numpy_for_rare_inputs(index: int) -> Any:
    if index % 400 != 399:
        return {"x": float(index)}
    import numpy

    return {"x": numpy.random.normal()}


@pytest.mark.parametrize("repetition", quick(["first", "second", "third"], "first"))
def test_a_function_that_rarely_uses_numpy_random_gives_the_same_on_threads(repetition: str) -> None:
    n = 2000
    options: dict[str, Any] = {"index": np.arange(n), "seed": 6, "sub_batch_size": 50, "chunk_size": 50}
    simulator = dasksim.make_simulator(uses_numpy_for_rare_inputs)
    with untouched():
        x = simulator.sample(n, **options).compute(scheduler="synchronous").x.values
        for _ in range(3):
            on_threads = simulator.sample(n, **options).compute(scheduler="threads", num_workers=8).x.values
            np.testing.assert_array_equal(on_threads, x)
    assert len(np.unique(x)) == n


def test_draws_of_the_caller_in_the_meantime_are_not_taken_back() -> None:
    np.random.seed(3)
    expected = np.random.normal(size=10)
    np.random.seed(3)
    drawn: list[float] = []
    isolated = Isolated(lambda: 1.0)

    def work(watch: bool) -> Any:
        if not watch:
            drawn.append(np.random.normal())  # as another thread of the caller might
        with isolated.at(Address(6, stage_key("stage"), 0), watch=watch) as function:
            return function()

    for _ in range(10):
        run_all([isolated], work)
    assert not isolated.uses_globals
    np.testing.assert_array_equal(drawn, expected)


def test_a_function_may_seed_numpy_random_and_save_and_set_its_state() -> None:
    def function(seed: int) -> Any:
        np.random.seed(seed % 2**32)
        state = np.random.get_state()
        first = np.random.normal()
        np.random.set_state(state)
        return {"x": first, "same": np.random.normal() == first}

    simulator = dasksim.make_simulator(function)
    with untouched():
        ds = simulator.sample(100, seed=6, sub_batch_size=SUB_BATCH_SIZE).compute()
    assert len(np.unique(ds.x.values)) == 100
    assert ds.same.values.all()


def test_many_threads_with_numpy_random_give_the_same_as_one() -> None:
    def first() -> Any:
        return {"x": np.random.normal(size=3)}

    def second() -> Any:
        return {"y": random.gauss(0, 1)}

    def third() -> Any:
        return {"z": WithClassRng.rng.normal()}

    ds = dasksim.make_simulator([first, second, third]).sample(500, seed=6, sub_batch_size=10, chunk_size=10)
    with untouched(*CLASS_GENERATORS):
        expected = ds.compute(scheduler="synchronous")
        for _ in range(2):
            assert ds.compute(scheduler="threads", num_workers=16).identical(expected)


def test_a_simulator_inside_a_simulator_keeps_both_reproducible() -> None:
    def inner() -> Any:
        return {"x": np.random.normal()}

    simulator = dasksim.make_simulator(inner)

    def outer() -> Any:
        first = np.random.normal()
        simulator.sample(2, seed=1).compute(scheduler="synchronous")
        return {"x": first + np.random.normal()}

    with untouched():
        x = sample(outer, n=20)
        np.testing.assert_array_equal(sample(outer, n=20), x)
    assert len(np.unique(x)) == 20


# --- what no seed reaches ---------------------------------------------------------------------------------------------


def fresh_generator() -> Any:
    return {"x": np.random.default_rng().normal()}


def generator_behind_an_import() -> Any:
    from helper_modules import drawing as inner

    return {"x": inner.rng.normal()}


@functools.lru_cache
def cached_generator() -> np.random.Generator:
    return np.random.default_rng(1)


def generator_in_a_cache() -> Any:
    return {"x": cached_generator().normal()}


def stream() -> Iterator[float]:
    while True:
        yield RNG.normal()


STREAM = stream()


def generator_in_an_iterator() -> Any:
    return {"x": next(STREAM)}


@pytest.mark.parametrize(
    "function", [fresh_generator, generator_behind_an_import, generator_in_a_cache, generator_in_an_iterator]
)
def test_a_generator_that_cannot_be_seen_is_noticed_at_the_probe(function: Function) -> None:
    with pytest.warns(UserWarning, match="returned different values for one and the same seed"):
        dasksim.make_simulator(function).sample(2, seed=6)


# --- what stays shared ------------------------------------------------------------------------------------------------


def count_in_list() -> tuple[Function, Callable[[], int]]:
    calls: list[int] = []

    def function() -> Any:
        calls.append(0)
        return {"x": RNG.normal()}

    return function, lambda: len(calls)


def count_in_dict() -> tuple[Function, Callable[[], int]]:
    calls = {"n": 0}

    def function() -> Any:
        calls["n"] += 1
        return {"x": RNG.normal()}

    return function, lambda: calls["n"]


def count_in_nonlocal() -> tuple[Function, Callable[[], int]]:
    n, rng = 0, np.random.default_rng(11)

    def function() -> Any:
        nonlocal n
        n += 1
        return {"x": rng.normal()}

    return function, lambda: n


def count_in_global() -> tuple[Function, Callable[[], int]]:
    global N_CALLS
    N_CALLS = 0

    def function() -> Any:
        global N_CALLS
        N_CALLS += 1
        return {"x": RNG.normal()}

    return function, lambda: N_CALLS


def count_in_helper_module() -> tuple[Function, Callable[[], int]]:
    drawing.n_calls = 0

    def function() -> Any:
        return {"x": drawing.draw_and_count()}

    return function, lambda: drawing.n_calls


def count_in_function_attribute() -> tuple[Function, Callable[[], int]]:
    def function() -> Any:
        function.n += 1  # type: ignore[attr-defined]
        return {"x": RNG.normal()}

    function.n = 0  # type: ignore[attr-defined]
    return function, lambda: function.n  # type: ignore[attr-defined]


def count_in_attribute_of_an_object_beside() -> tuple[Function, Callable[[], int]]:
    counter = types.SimpleNamespace(n=0)

    def function() -> Any:
        counter.n += 1
        return {"x": RNG.normal()}

    return function, lambda: counter.n


COUNTERS = [
    count_in_list,
    count_in_dict,
    count_in_nonlocal,
    count_in_global,
    count_in_helper_module,
    count_in_function_attribute,
    count_in_attribute_of_an_object_beside,
]


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_counter_counts_every_call(counter: Any, scheduler: str) -> None:
    function, n_calls = counter()
    with untouched():
        x = sample(function, scheduler)
    assert n_calls() == N_SAMPLES + N_PROBES
    assert len(np.unique(x)) == N_SAMPLES


def test_a_global_that_a_helper_fills_is_seen_in_the_same_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.TABLE", None)

    def load() -> None:
        global TABLE
        TABLE = [1.0] if TABLE is None else TABLE

    def function() -> Any:
        load()
        return {"x": RNG.normal(), "is_loaded": TABLE is not None}

    ds = dasksim.make_simulator(function).sample(10, seed=6, sub_batch_size=5).compute()
    assert ds.is_loaded.values.all()


def test_a_global_that_a_helper_of_another_module_fills_is_seen_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "table", None)

    def function() -> Any:
        drawing.load_table()
        return {"x": drawing.rng.normal(), "is_loaded": drawing.table is not None}

    ds = dasksim.make_simulator(function).sample(10, seed=6, sub_batch_size=5).compute()
    assert ds.is_loaded.values.all()


def test_an_attribute_set_on_an_object_that_holds_the_generator_is_forgotten() -> None:
    class Walker:
        def __init__(self) -> None:
            self.rng = np.random.default_rng(11)
            self.position = 0.0

        def __call__(self) -> Any:
            self.position += self.rng.normal()
            return {"x": self.position}

    walker = Walker()
    x = sample(walker)
    assert walker.position == 0.0
    np.testing.assert_array_equal(sample(walker, "threads"), x)


def test_large_captured_arrays_are_not_copied() -> None:
    table, other, rng = np.zeros(1_000_000), [np.zeros(10)], np.random.default_rng(11)
    holder = types.SimpleNamespace(rng=rng, table=table)
    seen: set[int] = set()

    def function() -> Any:
        seen.update({id(table), id(other), id(other[0]), id(holder.table)})
        return {"x": rng.normal() + holder.rng.normal()}

    sample(function)
    assert seen == {id(table), id(other), id(other[0])}
    assert Isolated(function).n_bytes == table.nbytes + other[0].nbytes


def test_a_function_without_generators_is_called_itself() -> None:
    def function() -> Any:
        return {"x": 1.0}

    with Isolated(function).at(Address(6, stage_key("stage"), 0)) as called:
        assert called is function


# --- errors -----------------------------------------------------------------------------------------------------------


def raise_after(*draws: Function) -> Function:
    n = 0

    def function() -> Any:
        nonlocal n
        n += 1
        x = sum(draw() for draw in draws)
        if n > N_SAMPLES // 2:
            raise RuntimeError("the model diverged")
        return {"x": x}

    return function


def draw_late_and_raise() -> Function:
    n = 0

    def function() -> Any:
        nonlocal n
        n += 1
        if n > 30:
            import numpy

            numpy.random.normal()
            raise RuntimeError("the model diverged")
        return {"x": 0.0}

    return function


@pytest.mark.parametrize(
    "make",  # functions count their calls, so that each test needs one of its own
    [
        lambda: raise_after(RNG.normal, STATE.normal, PYTHON.random),
        lambda: raise_after(lambda: RNG.normal()),
        lambda: raise_after(np.random.normal, lambda: random.gauss(0, 1)),
        lambda: raise_after(lambda: WithClassRng.rng.normal() + WithClassRng.another.normal()),
        draw_late_and_raise,
    ],
    ids=["stored_methods", "global", "global_generators", "class", "late"],
)
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_an_error_leaves_all_generators_as_they_were(make: Callable[[], Function], scheduler: str) -> None:
    with (
        untouched(*CLASS_GENERATORS),
        ThreadPoolExecutor(4) as threads,  # they have ended before generators are compared
        dask.config.set(pool=threads),
        pytest.raises(RuntimeError, match="the model diverged"),
    ):
        sample(make(), scheduler)


def test_a_run_that_is_interrupted_leaves_the_function_usable() -> None:
    isolated = Isolated(lambda: np.zeros(3))

    def interrupt(watch: bool) -> None:
        raise KeyboardInterrupt("by the user")

    with pytest.raises(KeyboardInterrupt, match="by the user"):
        run_all([isolated], interrupt)
    assert run_all([isolated], lambda watch: watch) is False


# --- what a copy would end --------------------------------------------------------------------------------------------


class Connection:
    """What ends what it holds when it goes, as files, connections and handles of libraries do."""

    def __init__(self, generator: Any) -> None:
        self.generator, self.is_open = generator, [True]

    def __del__(self) -> None:
        self.is_open[0] = False

    def normal(self) -> float:
        if not self.is_open[0]:
            raise ValueError("I/O operation on closed file")
        return float(self.generator.normal())


class UsesConnection:
    def __init__(self, generator: Any) -> None:
        self.connection = Connection(generator)

    def __call__(self) -> dict[str, Any]:
        return {"x": self.connection.normal()}


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_an_object_that_ends_what_it_holds_is_not_copied(make: Callable[[int], Any]) -> None:
    holder = UsesConnection(make(1))
    dataset = make_simulator(holder).sample(60, seed=1, sub_batch_size=7, chunk_size=14)
    one = dataset.compute(scheduler="threads").x.values
    gc.collect()
    assert holder.connection.is_open == [True]
    assert len(np.unique(one)) == 60
    assert np.array_equal(dataset.compute(scheduler="synchronous").x.values, one)
    again = make_simulator(UsesConnection(make(2))).sample(60, seed=1, sub_batch_size=7, chunk_size=14)
    assert np.array_equal(again.x.values, one)
    assert holder.connection.generator.normal() == make(1).normal()  # the user's own has not moved


def test_asserts_that_pytest_has_rewritten_lead_nowhere() -> None:
    def checked(theta: Any) -> dict[str, Any]:
        assert isinstance(theta, float)
        return {"x": theta}

    assert any(name.startswith("@pytest") for name in checked.__code__.co_names)
    assert not any(type(obj).__module__.startswith("_pytest") for obj in reached(checked))


def reached(function: Any) -> list[object]:
    walk = _Walk()
    walk.run(function)
    return list(walk.objects.values())


# --- what is found ----------------------------------------------------------------------------------------------------


def test_generators_are_found_in_the_same_order_in_another_process(pool: ProcessPoolExecutor) -> None:
    class Model:
        zeta = np.random.default_rng(1)
        alpha = random.Random(2)
        middle = np.random.RandomState(3)

        def __call__(self) -> Any:
            return {"x": self.zeta.normal() + self.alpha.random() + self.middle.normal()}

    def found(model: object) -> list[type]:
        return [type(generator) for generator in find_generators(model).in_place.values()]

    assert found(Model()) == [random.Random, np.random.RandomState, np.random.Generator]
    there = pool.submit(_call_pickled, cloudpickle.dumps((found, Model()))).result()
    assert there == found(Model())


def _call_pickled(payload: bytes) -> Any:
    function, *args = cloudpickle.loads(payload)
    return function(*args)


def test_containers_of_more_than_a_thousand_elements_are_not_walked() -> None:
    few = [np.random.default_rng(1), *range(999)]
    many = [*few, 0]
    assert find_generators(lambda: few).generators == {0: few[0]}
    assert find_generators(lambda: many).generators == {}


def test_object_whose_nbytes_is_a_method_is_passed_over(two_workers: Any) -> None:
    def simulate() -> dict[str, float]:
        return {"x": float(len(two_workers.nthreads()))}

    assert Isolated(simulate).n_bytes == 0


def test_classes_whose_module_is_no_string_are_walked() -> None:
    """As are those of the functions in NumPy 2.2, which Cython 3.1 made."""
    kind: Any = type("Kind", (type,), {"__module__": property(lambda cls: 1)})  # as a descriptor is
    held = kind("Held", (), {"rng": RNG})()

    assert list(find_generators(lambda: held.rng.normal()).in_place.values()) == [RNG]

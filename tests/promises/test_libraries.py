"""Generators of libraries: PyTorch's, Numba's, Keras's, and those that users register."""

import importlib.util
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bits import bits
from distributed import Client

import dasksim
from dasksim import ArgumentError, ArgumentTypeError, make_simulator
from dasksim._streams._library_private import KerasGenerators, NumbaStates

#: A library with a generator that no walk finds: it is behind a function.
LIBRARY = """
import random as _random
_kept = [_random.Random(1)]
def draw(): return getattr(sys.modules[__name__], "_ke" + "pt")[0].random()
def seed(n): _kept[0].seed(n)
def get_state(): return _kept[0].getstate()
def set_state(state): _kept[0].setstate(state)
import sys
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    from dasksim._streams import libraries

    (tmp_path / "library_of_tests.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = importlib.util.spec_from_file_location("library_of_tests", tmp_path / "library_of_tests.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "library_of_tests", module)
    spec.loader.exec_module(module)
    yield module
    libraries._registered.pop("library_of_tests", None)


def draws() -> dict[str, Any]:
    import library_of_tests  # type: ignore[import-not-found]

    return {"x": library_of_tests.draw()}


def register(library: ModuleType) -> None:
    dasksim.random.register("library_of_tests", seed=library.seed, save=library.get_state, restore=library.set_state)


def test_generator_of_a_registered_library_is_each_samples_own(library: ModuleType) -> None:
    with pytest.warns(UserWarning, match="draws from a source that dasksim cannot seed"):
        make_simulator(draws).sample(3, seed=1)

    register(library)
    before = library.get_state()
    wanted = bits(make_simulator(draws).sample(50, seed=1), scheduler="synchronous")
    assert bits(make_simulator(draws).sample(50, seed=1, sub_batch_size=3, chunk_size=9), scheduler="threads") == wanted
    assert library.get_state() == before
    x = make_simulator(draws).sample(50, seed=1).x.values
    assert len(np.unique(x)) == 50
    assert not np.isin(make_simulator(draws).sample(50, seed=2).x.values, x).any()


def test_registered_libraries_come_to_worker_processes(
    library: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    register(library)
    simulator = make_simulator(draws)
    wanted = bits(simulator.sample(40, seed=1), scheduler="synchronous")

    found = dasksim.generate(simulator, tmp_path / "s.zarr", 40, seed=1, chunk_size=10, scheduler="processes")
    assert bits(found) == wanted


def test_what_cannot_be_registered_is_refused() -> None:
    with pytest.raises(ArgumentError, match="is known to dasksim"):
        dasksim.random.register("numpy.random", seed=print, save=print, restore=print)
    wrong: Any = 3
    with pytest.raises(ArgumentTypeError, match="must be functions"):
        dasksim.random.register("library_of_tests", seed=wrong, save=print, restore=print)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def test_pytorchs_generator_is_each_samples_own_on_every_scheduler(two_workers: Client, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def always() -> dict[str, Any]:
        return {"x": torch.randn(2).numpy()}

    def rarely(x: Any) -> dict[str, Any]:
        return {"y": torch.rand(1).item() if x[0] > 1.5 else 0.0}

    simulator = make_simulator([always, rarely])
    before = torch.get_rng_state()
    wanted = bits(simulator.sample(80, seed=1), scheduler="synchronous")
    assert bits(simulator.sample(80, seed=1, sub_batch_size=5, chunk_size=10), scheduler="threads") == wanted
    assert bits(simulator.sample(80, seed=1, chunk_size=20), scheduler=two_workers) == wanted
    assert torch.equal(torch.get_rng_state(), before)
    stored = dasksim.generate(simulator, tmp_path / "s.zarr", 80, seed=1, chunk_size=20, scheduler="processes")
    assert bits(stored) == wanted
    x = simulator.sample(80, seed=1).compute(scheduler="synchronous").x.values
    assert len(np.unique(x)) == 160


def test_distributions_and_layers_of_pytorch_draw_from_it() -> None:
    torch = pytest.importorskip("torch")
    prior, layer = torch.distributions.Gamma(2.0, 1.0), torch.nn.Dropout(0.5)

    def draw() -> dict[str, Any]:
        return {"theta": prior.sample().item(), "x": layer(torch.ones(30)).numpy()}

    simulator = make_simulator(draw)
    wanted = bits(simulator.sample(40, seed=1), scheduler="synchronous")
    assert bits(simulator.sample(40, seed=1, sub_batch_size=3), scheduler="threads") == wanted
    assert len(np.unique(simulator.sample(40, seed=1).theta.values)) == 40


def test_generator_objects_of_pytorch_are_each_samples_own(two_workers: Client) -> None:
    torch = pytest.importorskip("torch")
    own = torch.Generator().manual_seed(3)

    def draw() -> dict[str, Any]:
        return {"x": torch.rand(3, generator=own).numpy()}

    simulator, before = make_simulator(draw), own.get_state()
    wanted = bits(simulator.sample(40, seed=1), scheduler="synchronous")
    assert bits(simulator.sample(40, seed=1, sub_batch_size=3, chunk_size=9), scheduler="threads") == wanted
    assert bits(simulator.sample(40, seed=1, chunk_size=20), scheduler=two_workers) == wanted
    assert torch.equal(own.get_state(), before)
    assert len(np.unique(simulator.sample(40, seed=1).x.values)) == 120


# --- Numba ------------------------------------------------------------------------------------------------------------


def compiled() -> dict[str, Any]:
    """Return functions that draw from Numba's generators, each in another way."""
    numba = pytest.importorskip("numba")

    def inner(t: float) -> Any:
        return t + np.random.normal()

    inner = numba.njit(inner)

    def nested(t: float) -> Any:
        return inner(t) + random.random()

    def rarely(t: float) -> Any:
        return t + (np.random.normal() if t > 1.5 else 0.0)

    def elementwise(x: Any) -> Any:
        return x + np.random.normal()

    def along(x: Any, y: Any) -> None:
        for i in range(len(x)):
            y[i] = x[i] + np.random.normal()

    return {
        "nested": numba.njit(nested),
        "rarely": numba.njit(rarely),
        "vectorize": numba.vectorize(elementwise),
        "guvectorize": numba.guvectorize(["(float64[:],float64[:])"], "(n)->(n)")(along),
    }


@pytest.mark.parametrize("kind", ["nested", "rarely", "vectorize", "guvectorize"])
def test_numbas_generators_are_each_samples_own(kind: str, two_workers: Client) -> None:
    function = compiled()[kind]

    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal()}

    def draw(theta: float) -> dict[str, Any]:
        return {"x": function(np.array([theta, theta])) if "vectorize" in kind else function(float(theta))}

    simulator, states = make_simulator([prior, draw]), NumbaStates()
    before = states.save()
    wanted = bits(simulator.sample(40, seed=1), scheduler="synchronous")
    assert bits(simulator.sample(40, seed=1, sub_batch_size=3, chunk_size=9), scheduler="threads") == wanted
    assert bits(simulator.sample(40, seed=1, chunk_size=20), scheduler=two_workers) == wanted
    assert states.save() == before
    assert dasksim.check(simulator, 20, seed=1).is_good


def test_numbas_states_are_put_back_with_the_normal_that_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    numba, states = pytest.importorskip("numba"), NumbaStates()
    draw = numba.njit(lambda: np.random.normal())
    for is_known in (True, False):
        if not is_known:
            monkeypatch.setattr(NumbaStates, "_knows_memory", lambda self: False)
        states.seed(5)
        draw()
        draw()
        state = states.save()
        wanted = [draw() for _ in range(3)]
        states.restore(state)
        assert [draw() for _ in range(3)] == wanted
    states.seed(5)
    first = draw()
    states.seed(5 + (1 << 40))
    assert draw() != first


# --- Keras ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # keras's own
def test_keras_draws_are_each_samples_own() -> None:
    keras = pytest.importorskip("keras")
    own, layer = keras.random.SeedGenerator(3), keras.layers.Dropout(0.5)

    def draw() -> dict[str, Any]:
        kept = keras.random.normal((2,), seed=own)
        of_process = keras.random.normal((2,))
        dropped = layer(keras.ops.ones(8), training=True)
        convert = keras.ops.convert_to_numpy
        return {"x": convert(kept), "y": convert(of_process), "z": convert(dropped)}

    simulator, before = make_simulator(draw), KerasGenerators.state(own)
    wanted = bits(simulator.sample(40, seed=1), scheduler="synchronous")
    assert bits(simulator.sample(40, seed=1, sub_batch_size=3, chunk_size=9), scheduler="threads") == wanted
    found = simulator.sample(40, seed=1).compute()
    assert KerasGenerators.state(own) == before
    assert len(np.unique(found.x.values)) == len(np.unique(found.y.values)) == 80
    assert (found.z.values == 0).any()

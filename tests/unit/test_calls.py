"""How calls that take a simulator and a store are written: what may stand for either, and in which order."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import xarray as xr
import zarr.storage
from bits import bits
from scipy import stats

import dasksim
from dasksim import ArgumentTypeError
from dasksim._core.telling import counted

ALONE: dict[str, Any] = {"scheduler": "synchronous", "progress": False}


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal()}


def likelihood(theta: float, rng: np.random.Generator) -> dict[str, Any]:
    return {"path": theta + rng.normal(size=3)}


FORMS = {
    "list": [prior, likelihood],
    "mapping": {"prior": prior, "likelihood": likelihood},
    "function": prior,
    "simulators": [dasksim.make_simulator(prior), likelihood],
}


@pytest.mark.parametrize("form", FORMS)
def test_functions_stand_for_the_simulator_that_is_made_of_them(form: str, tmp_path: Path) -> None:
    functions: Any = FORMS[form]
    simulator, path = dasksim.make_simulator(functions), tmp_path / "s.zarr"

    made = dasksim.generate(functions, path, 10, seed=1, **ALONE)

    assert bits(made) == bits(simulator.sample(10, seed=1))
    dasksim.generate(simulator, path, 10, seed=1, **ALONE)  # it is the same simulator
    assert bits(dasksim.extend(path, functions, 20, **ALONE)) == bits(simulator.sample(20, seed=1))
    assert dasksim.verify(path, functions, resimulate=1, progress=False).is_good
    assert dasksim.replay(path, functions, 3).is_stored
    assert dasksim.check(functions, 4).is_good


def test_functions_propose_for_a_rejection() -> None:
    positive = dasksim.RejectionSimulator([prior, likelihood], lambda theta: theta > 0)

    assert (positive.sample(20, seed=1).theta > 0).all()


SWAPPED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "generate": (lambda sim, store: dasksim.generate(store, sim, 10), r"call generate\(simulator, .*, n_samples"),
    "extend": (lambda sim, store: dasksim.extend(sim, store, 10), r"call extend\(.*, simulator, n_samples"),
    "verify": (lambda sim, store: dasksim.verify(sim, store), r"call verify\(.*, simulator"),
    "replay": (lambda sim, store: dasksim.replay(sim, store, 3), r"call replay\(.*, simulator, sample"),
    "derive": (lambda sim, store: dasksim.derive(sim, store), r"call derive\(.*, fn"),
}


@pytest.mark.parametrize("call", SWAPPED)
@pytest.mark.parametrize("simulator", [dasksim.make_simulator(prior), [prior, likelihood], prior])
def test_arguments_the_other_way_round_are_told_with_the_right_call(call: str, simulator: Any, tmp_path: Path) -> None:
    swapped, message = SWAPPED[call]
    stores = ["s.zarr", tmp_path / "s.zarr", zarr.storage.MemoryStore()]
    for store in stores:
        with pytest.raises(ArgumentTypeError, match="the first two arguments are the other way round: " + message):
            swapped(simulator, store)
    assert list(tmp_path.iterdir()) == []


def test_functions_side_by_side_are_told_to_go_into_a_list(tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match=r"go into a list, such as \[prior, likelihood\]"):
        dasksim.generate(prior, likelihood, tmp_path / "s.zarr")  # type: ignore[arg-type]


@pytest.mark.parametrize("store", [{}, [], 3, None])
def test_what_is_no_store_is_told_so(store: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="store must be a path"):
        dasksim.generate(prior, store, 10)


@pytest.mark.parametrize("obj", [xr.Dataset({"x": ("batch", [1])}), pd.DataFrame({"x": [1]}), stats.norm(), [], {}])
def test_what_no_simulator_is_made_of_is_told_so(obj: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="simulator must be a Simulator"):
        dasksim.generate(obj, tmp_path / "s.zarr", 10)


@pytest.mark.parametrize(
    ("n", "noun", "text"),
    [(0, "chunk", "0 chunks"), (1, "chunk", "1 chunk"), (1234, "sample", "1,234 samples"), (2, "batch", "2 batches")],
)
def test_counts_have_their_singular(n: int, noun: str, text: str) -> None:
    assert counted(n, noun) == text


def test_models_that_were_not_made_are_told(tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match=r"got 'two_moons'; models are made by calls such as dasksim\.models"):
        dasksim.generate("two_moons", tmp_path / "s.zarr", 10)
    with pytest.raises(dasksim.OutputError, match=r"returned a simulator; call it, and give what it returns"):
        dasksim.generate(dasksim.models.two_moons, tmp_path / "s.zarr", 10)
    assert list(tmp_path.iterdir()) == []


def test_a_single_dim_needs_no_list() -> None:
    simulator = dasksim.make_simulator([prior, likelihood], dims={"path": "time"}, coords={"time": [1, 2, 3]})

    ds = simulator.sample(5, seed=1)

    assert ds.path.dims == ("batch", "time")
    assert ds.time.values.tolist() == [1, 2, 3]


def test_what_calls_return_is_shown_as_it_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    dasksim.generate(prior, path, 10, seed=1, sub_batch_size=1, chunk_size=1, part=(0, 2), **ALONE)
    status = dasksim.status(path)

    assert repr(status) == str(status)
    assert f"{path}: incomplete" in repr(status)
    assert "chunks   5 of 10 (of 1 sample)" in repr(status)
    html = status._repr_html_()
    assert '<progress value="5" max="10">' in html
    assert "5-9" in html
    for shown in (dasksim.verify(path, progress=False), dasksim.replay(path, prior, 3), dasksim.check(prior, 4)):
        assert repr(shown) == str(shown)
        assert not re.search(r"(?<![\d,.])1 samples", repr(shown)), "a rate may be 3,021 samples/s"

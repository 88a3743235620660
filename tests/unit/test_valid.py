"""`valid` is the mask's name: no variable, condition or dim of a simulator has it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dasksim
from dasksim import (
    ArgumentError,
    GraphicalSimulator,
    HierarchicalSimulator,
    LambdaSimulator,
    OutputError,
    SimulatorError,
    derive,
    generate,
    loaders,
    make_simulator,
    open_dataset,
)

Rng = np.random.Generator
OPTIONS: dict[str, Any] = {"seed": 1, "scheduler": "synchronous", "progress": False}


def trial(rng: Rng) -> dict[str, Any]:
    return {"rt": rng.gamma(2.0), "valid": bool(rng.random() < 0.9)}


@pytest.mark.parametrize("function", [trial, lambda rng: {"valid": rng.normal()}])
@pytest.mark.parametrize("policy", [{}, {"on_error": "mask"}])
def test_variable_of_the_name_is_refused(function: Any, policy: dict[str, Any], tmp_path: Path) -> None:
    message = "returned the variable 'valid', the name of the mask .*; rename the variable"
    with pytest.raises(OutputError, match=message):
        make_simulator(function).sample(10)
    with pytest.raises(OutputError, match=message):
        generate(make_simulator(function), tmp_path / "s.zarr", 10, **OPTIONS, **policy)
    assert not (tmp_path / "s.zarr").exists()


def test_declared_variable_of_the_name_is_refused() -> None:
    with pytest.raises(ArgumentError, match="schema declares the variable 'valid', the name of the mask"):
        LambdaSimulator(trial, schema={"rt": ((), float), "valid": ((), bool)})


@pytest.mark.parametrize("value", [1.0, np.ones(10)])
def test_condition_of_the_name_is_refused(value: Any) -> None:
    simulator = make_simulator(lambda valid, rng: {"x": valid + rng.normal()})
    with pytest.raises(ArgumentError, match="the call gives the variable 'valid', the name of the mask"):
        simulator.sample(10, valid=value)


def test_dim_of_the_name_is_refused() -> None:
    def simulate(rng: Rng) -> dict[str, Any]:
        return {"x": rng.normal(size=3)}

    message = "dim 'valid' has the name of the mask"
    with pytest.raises(SimulatorError, match=message):
        make_simulator(simulate, dims={"x": ["valid"]}).sample(10)
    graph = GraphicalSimulator()
    graph.add_node("valid", simulate, reps=2)
    with pytest.raises(SimulatorError, match=message):
        graph.sample(10)
    with pytest.raises(SimulatorError, match=message):
        HierarchicalSimulator([simulate, lambda rng: {"y": 1.0}], levels=["valid"]).sample((10, 2))


def test_derivation_may_take_the_mask(tmp_path: Path) -> None:
    def simulate(rng: Rng) -> dict[str, Any]:
        x = rng.normal()
        if x > 1:
            raise ValueError("too large")
        return {"x": x}

    generate(make_simulator(simulate), tmp_path / "s.zarr", 50, on_error="mask", **OPTIONS)
    found = derive(tmp_path / "s.zarr", lambda x, valid: {"y": x if valid else -1.0}, scheduler="synchronous")
    assert 0 < (found.y == -1).sum() < 50
    assert np.array_equal(found.y == -1, ~found.valid)


def test_older_store_with_a_variable_of_the_name_is_read_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.zarr"
    with monkeypatch.context() as older:
        older.setattr("dasksim._core.variables.VALID", "")
        made = generate(make_simulator(trial), path, 50, **OPTIONS).compute()
    assert open_dataset(path).identical(made)
    assert dasksim.status(path).is_complete
    batch = next(iter(loaders.batches(path, 50, seed=None)))
    assert sorted(batch) == ["rt", "valid"]
    assert np.asarray(batch["valid"]).sum() == made.valid.sum()
    with pytest.raises(OutputError, match="the name of the mask"):
        dasksim.verify(path, make_simulator(trial), resimulate=1, progress=False)

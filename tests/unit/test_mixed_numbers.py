"""Numbers that are integers for some samples and floats for others: the probe sees one of them."""

import functools
import importlib
import linecache
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import bits

import dasksim

Rng = np.random.Generator


def conditional(rng: Rng) -> dict[str, Any]:
    return {"x": 1 if rng.uniform() < 0.9 else 0.5}


def boolean(rng: Rng) -> dict[str, Any]:
    if rng.uniform() < 0.9:
        return {"x": True}
    return {"x": 0.25}


def assigned(rng: Rng) -> dict[str, Any]:
    x: float = 0
    if rng.uniform() < 0.1:
        x = -0.5
    return dict(x=x)  # noqa: C408  (is read too)


def missing(rng: Rng) -> dict[str, Any]:
    return {"x": 3 if rng.uniform() < 0.9 else math.nan}


def endless(rng: Rng, ok: bool = True) -> dict[str, Any]:
    return {"x": 3 if rng.uniform() < 0.9 else -float("inf") if ok else 1}


class Weights:
    def method(self, rng: Rng) -> dict[str, Any]:
        return {"x": 0 if rng.uniform() < 0.9 else 2.5}

    def __call__(self, rng: Rng) -> dict[str, Any]:
        return {"x": 0 if rng.uniform() < 0.9 else +0.5}


FLOATS = {
    "conditional": conditional,
    "boolean": boolean,
    "assigned": assigned,
    "missing": missing,
    "endless": endless,
    "partial": functools.partial(endless, ok=True),
    "method": Weights().method,
    "object": Weights(),
    "lambda": lambda rng: {"x": True if rng.uniform() < 0.9 else 0.5},
}


@pytest.mark.parametrize("kind", FLOATS)
def test_a_number_that_is_sometimes_a_float_has_a_column_of_floats(kind: str) -> None:
    function = FLOATS[kind]
    simulator = dasksim.make_simulator(function)

    ds = simulator.sample(300, seed=1).compute()

    assert ds.x.dtype == "float64"
    assert len(np.unique(ds.x)) > 1
    assert bits(ds) == bits(simulator.sample(300, seed=1, sub_batch_size=7, chunk_size=14).compute())


def whole(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(rng: Rng) -> dict[str, Any]:
        return {name: round(value) for name, value in function(rng).items()}

    return wrapper


@whole
def rounded(rng: Rng) -> dict[str, Any]:
    return {"x": 1 if rng.uniform() < 0.9 else 0.5, "y": 0.5}


def drawn(rng: Rng) -> dict[str, Any]:
    return {"x": int(rng.poisson(3.5)), "y": round(2.5 * rng.uniform())}


def made_whole(rng: Rng) -> dict[str, Any]:
    x: Any = 0.5
    with np.errstate(all="ignore"):
        x = int(x + 2.5 * rng.uniform())
    y: Any = 0.5
    y += 0.5
    y = int(y)

    def inner() -> dict[str, Any]:
        x = y = 0.5
        return {"x": x, "y": y}

    return {"x": x, "y": len(inner()) + y}


def given(rng: Rng, y: Any = 2) -> dict[str, Any]:
    if rng.uniform() < 0:
        y = 0.5
    for x in (1, 2):
        if x > rng.uniform():
            break
    return {"x": x, "y": y}


@pytest.mark.parametrize("function", [rounded, drawn, made_whole, given])
def test_integers_stay_so(function: Any) -> None:
    ds = dasksim.make_simulator(function).sample(50, seed=1)

    assert {name: str(v.dtype) for name, v in ds.items()} == {"x": "int64", "y": "int64"}


def test_later_functions_are_given_floats() -> None:
    seen = []

    def later(x: float) -> dict[str, Any]:
        seen.append(type(x))
        return {"y": 2 * x}

    ds = dasksim.make_simulator([conditional, later]).sample(50, seed=1).compute()

    assert (ds.y == 2 * ds.x).all()
    assert ds.y.dtype == "float64"
    assert set(seen) == {float}


def test_a_declared_integer_stays_one() -> None:
    simulator = dasksim.LambdaSimulator(conditional, schema={"x": ((), "int64")})
    with pytest.raises(dasksim.OutputError, match=r"expected int64; return 1\.0 for 1"):
        simulator.sample(300, seed=1).compute()


def test_nothing_has_no_dtype_of_its_own() -> None:
    def events(rng: Rng) -> dict[str, Any]:
        return {"steps": [step for step in range(3) if rng.uniform() < 0.5]}

    simulator = dasksim.make_simulator(
        [events, lambda steps: {"n": len(steps)}], dims={"steps": "step"}, max_sizes={"step": 3}, fill_value=-1
    )
    ds = simulator.sample(100, seed=3).compute()

    assert ds.steps.dtype == "int64"
    assert sorted(set(ds.steps_size.values.tolist())) == [0, 1, 2, 3]
    assert ((ds.steps != -1).sum("step") == ds.steps_size).all()


def test_a_file_that_was_edited_since_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "edited_since.py"
    file.write_text("def f(rng):\n    return {'x': 2}\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = importlib.import_module("edited_since").f
    for text in ("# nothing\n", "def g(rng):\n    return {'x': 1 if rng else 0.5}\n", "def f(:\n"):
        file.write_text(text)
        linecache.clearcache()
        assert dasksim.make_simulator(function).sample(5, seed=1).x.dtype == "int64"


def test_what_the_source_does_not_tell_is_an_error_that_says_what_to_do() -> None:
    def hidden(rng: Rng) -> dict[str, Any]:
        return {"x": {True: 1, False: 0.5}[bool(rng.uniform() < 0.9)]}

    with pytest.raises(dasksim.OutputError, match=r"'x' with dtype float64, expected int64.*1\.0 for 1"):
        dasksim.make_simulator(hidden).sample(300, seed=1).compute()


def test_code_without_source_is_taken_as_the_probe_saw_it() -> None:
    namespace: dict[str, Any] = {}
    exec("def f(rng): return {'x': 1 if rng.uniform() < 2 else 0.5}", namespace)

    assert dasksim.make_simulator(namespace["f"]).sample(5, seed=1).x.dtype == "int64"


class Limits:
    inf = 10**18 + 1


def of_an_attribute(limits: Any) -> dict[str, Any]:
    return {"x": limits.inf}


def of_a_capture(rng: Rng) -> dict[str, Any]:
    value = 0.5
    match int(rng.integers(9)):
        case int(value):
            pass
    return {"x": value}


@pytest.mark.parametrize("function", [functools.partial(of_an_attribute, Limits()), of_a_capture])
def test_names_that_only_look_like_literal_floats_are_none(function: Any) -> None:
    found = dasksim.make_simulator({"f": function}).sample(5, seed=1).x
    assert found.dtype == "int64"
    assert (found == 10**18 + 1).all() or (found < 9).all()

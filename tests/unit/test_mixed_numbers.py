"""Numbers that are integers for some samples and floats for others: the probe sees one of them."""

import contextlib
import functools
import math
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
    x: Any = 0
    if rng.uniform() < 0.1:
        x = -rng.normal()
    return dict(x=x)  # noqa: C408  (is read too)


def summed(rng: Rng) -> dict[str, Any]:
    x: Any = 0
    for _ in range(3):
        if rng.uniform() < 0.1:
            x += 0.1
    return {"x": x}


def caught(rng: Rng) -> dict[str, Any]:
    x: Any = 0
    with contextlib.suppress(ValueError):
        x = math.sqrt(rng.uniform() - 0.9)
    return {"x": x}


def floored(rng: Rng) -> dict[str, Any]:
    return {"x": max(0, rng.normal() - 1)}


def with_weight(rng: Rng, weight: float = 1.0) -> dict[str, Any]:
    return {"x": 0 if rng.uniform() < 0.9 else 0.5 * weight}


class Weights:
    def method(self, rng: Rng) -> dict[str, Any]:
        return {"x": 0 if rng.uniform() < 0.9 else float(self is not None)}

    def __call__(self, rng: Rng) -> dict[str, Any]:
        return {"x": 0 if rng.uniform() < 0.9 else 1 / 2}


FLOATS = {
    "conditional": conditional,
    "boolean": boolean,
    "assigned": assigned,
    "summed": summed,
    "caught": caught,
    "floored": floored,
    "partial": functools.partial(with_weight, weight=3.0),
    "method": Weights().method,
    "object": Weights(),
    "lambda": lambda rng: {"x": min(1, 1 if rng.uniform() < 0.9 else 0.5)},
}


@pytest.mark.parametrize("kind", FLOATS)
def test_a_number_that_is_sometimes_a_float_has_a_column_of_floats(kind: str) -> None:
    function = FLOATS[kind]
    simulator = dasksim.make_simulator(function)

    ds = simulator.sample(300, seed=1).compute()

    assert ds.x.dtype == "float64"
    assert len(np.unique(ds.x)) > 1
    assert bits(ds) == bits(simulator.sample(300, seed=1, sub_batch_size=7, chunk_size=14).compute())


def drawn(rng: Rng) -> dict[str, Any]:
    return {"x": int(rng.poisson(3.5)), "y": round(2.5 * rng.uniform()), "z": 7 // 2, "ok": rng.uniform() < 0.5}


def made_whole(rng: Rng) -> dict[str, Any]:
    x = 2.5 * rng.uniform()
    x = int(x)
    n = 0
    while rng.uniform() < 0.5:
        n += 1

    def inner() -> float:
        n = 0.5
        return n  # noqa: RET504  (a name of its own)

    return {"x": x, "y": n, "z": len([inner()]), "ok": not n}


@pytest.mark.parametrize("function", [drawn, made_whole])
def test_integers_and_booleans_stay_so(function: Any) -> None:
    ds = dasksim.make_simulator(function).sample(50, seed=1)

    assert {name: str(v.dtype) for name, v in ds.items()} == {"x": "int64", "y": "int64", "z": "int64", "ok": "bool"}


def test_what_the_source_does_not_tell_is_an_error_that_says_what_to_do() -> None:
    def hidden(rng: Rng) -> dict[str, Any]:
        return {"x": {True: 1, False: 0.5}[bool(rng.uniform() < 0.9)]}

    with pytest.raises(dasksim.OutputError, match=r"'x' with dtype float64, expected int64.*1\.0 for 1"):
        dasksim.make_simulator(hidden).sample(300, seed=1).compute()


def test_code_without_source_is_taken_as_the_probe_saw_it() -> None:
    namespace: dict[str, Any] = {}
    exec("def f(rng): return {'x': 1 if rng.uniform() < 2 else 0.5}", namespace)

    assert dasksim.make_simulator(namespace["f"]).sample(5, seed=1).x.dtype == "int64"

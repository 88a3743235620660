"""Plain functions that Numba compiles: the bits of the plain ones, or an error that says why not."""

import functools
import importlib.util
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dasksim
from dasksim import ArgumentError, SimulatorError, generate, make_simulator

STEP = 0.01


def helper(z: float) -> float:
    return math.log1p(math.exp(z))


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"v": rng.normal(0.0, 1.0), "a": rng.uniform(0.8, 2.0), "k": rng.integers(1, 5)}


def diffusion(v: float, a: float, rng: np.random.Generator, dt: float = STEP) -> dict[str, Any]:
    x, t = a / 2, 0.0
    while 0 < x < a and t < 10.0:
        x += v * dt + math.sqrt(dt) * rng.normal()
        t += dt
    return {"choice": 1 if x >= a else 0, "rt": t}


def walk(v: float, k: int, rng: np.random.Generator) -> dict[str, Any]:
    x = np.zeros((3, 20))
    for i in range(1, 20):
        for j in range(3):
            x[j, i] = x[j, i - 1] + STEP * helper(v) * k + rng.standard_normal()
    if v > 0:
        return {"x": x[:, ::2].copy(), "is_up": True}
    return {"is_up": False, "x": x[:, ::2] * 2}


FUNCTIONS: list[Any] = [prior, diffusion, walk]
COMPILED: dict[str, Any] = {"obj_kwargs": {name: {"compile": "numba"} for name in ("diffusion", "walk")}}


def same(one: Any, other: Any) -> bool:
    return set(one) == set(other) and all(
        one[n].dtype == other[n].dtype and one[n].values.tobytes() == other[n].values.tobytes() for n in one
    )


def test_what_cannot_be_compiled_is_refused_when_it_is_declared() -> None:
    with pytest.raises(ArgumentError, match="compile must be 'numba' or None"):
        make_simulator(prior, compile="cython")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="called once for each sample"):
        make_simulator(prior, is_batched=True, compile="numba")


@pytest.mark.skipif(importlib.util.find_spec("numba") is not None, reason="there is Numba")
def test_numba_is_asked_for() -> None:
    with pytest.raises(ArgumentError, match=r"pip install 'dasksim\[numba\]'"):
        make_simulator(prior, compile="numba").sample(2, seed=1)


class TestCompiled:
    """With Numba."""

    @pytest.fixture(autouse=True)
    def _needs_numba(self) -> None:
        pytest.importorskip("numba")

    def test_bits_are_those_of_the_plain_functions(self) -> None:
        plain, compiled = make_simulator(FUNCTIONS), make_simulator(FUNCTIONS, **COMPILED)
        expected = plain.sample(300, seed=1).compute()
        assert same(compiled.sample(300, seed=1).compute(), expected)
        assert same(compiled.sample(300, seed=1, sub_batch_size=7, chunk_size=70).compute(), expected)

    def test_stores_of_all_schedulers_and_of_the_plain_functions_agree(self, tmp_path: Path) -> None:
        compiled = make_simulator(FUNCTIONS, **COMPILED)
        expected = make_simulator(FUNCTIONS).sample(60, seed=1).compute()
        for scheduler in ("synchronous", "threads", "processes"):
            path = tmp_path / scheduler
            ds = generate(compiled, path, 60, seed=1, chunk_size=20, sub_batch_size=20, scheduler=scheduler)
            assert same(ds.drop_vars(set(ds) - set(expected)), expected)
            assert dasksim.status(path).audit
        # one that was begun by the compiled functions is gone on with by the plain ones
        longer = dasksim.extend(tmp_path / "threads", make_simulator(FUNCTIONS), 80)
        assert same(longer.isel(batch=slice(60)), expected)

    def test_conditions_further_axes_and_rejection(self) -> None:
        plain, compiled = make_simulator(FUNCTIONS), make_simulator(FUNCTIONS, **COMPILED)
        calls: list[Callable[[Any], Any]] = [
            lambda simulator: simulator.sample(20, seed=1, v=0.25),
            lambda simulator: simulator.sample((4, 3), seed=1),
            lambda simulator: simulator.rejection_sample(20, lambda rt: rt < 1, seed=1),
        ]
        for call in calls:
            assert same(call(compiled).compute(), call(plain).compute())

    def test_a_script_is_compiled_in_worker_processes(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            "import dasksim, numpy as np\n"
            "def walk(rng):\n    x = 0.0\n    for i in range(100):\n        x += rng.normal()\n    return {'x': x}\n"
            "how = dict(seed=1, chunk_size=10, sub_batch_size=10, scheduler='processes', progress=False)\n"
            "one = dasksim.generate(dasksim.make_simulator(walk, compile='numba'), 'a.zarr', 40, **how)\n"
            "assert (one.x.values == dasksim.make_simulator(walk).sample(40, seed=1).x.values).all()\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, check=True, timeout=120)

    def test_values_that_differ_are_told_before_anything_is_simulated(self) -> None:
        def summed(rng: np.random.Generator) -> dict[str, Any]:
            return {"x": np.sum(rng.normal(size=1000))}

        with pytest.raises(SimulatorError, match=r"stage 'summed' gives other values .* differ in 'x', which is"):
            make_simulator(summed, compile="numba").sample(2, seed=1)

    def test_why_a_function_cannot_be_compiled(self) -> None:
        def not_literal(rng: np.random.Generator) -> dict[str, Any]:
            made = {"x": rng.normal()}
            return made  # noqa: RET504

        def other_names(rng: np.random.Generator) -> dict[str, Any]:
            if rng.random() < 2:
                return {"x": 1.0}
            return {"y": 1.0}

        def seeded(seed32: int) -> dict[str, Any]:
            return {"x": seed32}

        def opens(rng: np.random.Generator) -> dict[str, Any]:
            return {"x": float(len(os.listdir()))}  # noqa: PTH208

        def of_two_types(rng: np.random.Generator) -> dict[str, Any]:
            return {"x": 1} if rng.random() < 2 else {"x": 1.5}

        def of_two_types_apart(rng: np.random.Generator) -> dict[str, Any]:
            # neither is a constant here, and the probe sees the first
            if rng.random() < 2:
                return {"x": int(whole)}
            return {"x": whole + half}

        whole, half = 1, 0.5
        lock = threading.Lock()

        def locked(rng: np.random.Generator) -> dict[str, Any]:
            with lock:
                return {"x": rng.random()}

        cases: list[tuple[Any, str]] = [
            (locked, "'locked' cannot be compiled: it reads what is no constant"),
            (of_two_types, "returns something else than a literal dict"),
            (of_two_types_apart, "returns 'x' as int64, and Numba finds that it may be float64"),
            (not_literal, r"'not_literal' cannot be compiled: it returns something else than a literal dict in line"),
            (other_names, r"returns \['y'\] in line \d+, and \['x'\] before"),
            (seeded, "cannot be compiled with seed32; take rng"),
            (opens, "'opens' cannot be compiled by Numba"),
            (functools.partial(diffusion, dt=0.1), "is a partial, and only a plain function"),
            (lambda rng: {"x": rng.normal()}, "is not defined by a def statement"),
        ]
        for function, message in cases:
            with pytest.raises(SimulatorError, match=message):
                make_simulator(function, compile="numba").sample(2, seed=1, v=1.0, a=1.0)

    def test_what_it_raises_is_said_of_the_sample(self) -> None:
        def fails(rng: np.random.Generator) -> dict[str, Any]:
            if rng.random() > 0.995:
                raise ValueError("now and then")
            return {"x": rng.random()}

        simulator = make_simulator(fails, compile="numba")
        with pytest.raises(ValueError, match="now and then") as caught:
            simulator.sample(5000, seed=3).compute()
        assert "raised by stage 'fails' at sample" in str(caught.value.__notes__)

    def test_a_short_output_is_not_spread_over_a_row(self) -> None:
        def short(rng: np.random.Generator) -> dict[str, Any]:
            return {"x": np.ones(1 if rng.random() > 0.999 else 3)}

        for how in (None, "numba"):
            with pytest.raises(dasksim.OutputError, match="shape"):
                make_simulator(short, compile=how).sample(20_000, seed=1).compute()

    def test_failed_samples_are_masked_alike(self, tmp_path: Path) -> None:
        def fails(rng: np.random.Generator) -> dict[str, Any]:
            if rng.random() > 0.9:
                raise ValueError("now and then")
            return {"x": rng.random()}

        made = [
            generate(make_simulator(fails, compile=how), tmp_path / str(how), 500, seed=3, on_error="mask").load()
            for how in (None, "numba")
        ]
        assert same(*made)
        assert not made[0].valid.all()

    def test_what_it_reads_is_as_it_is_when_it_is_called(self) -> None:
        scale = 1.0

        def scaled(rng: np.random.Generator) -> dict[str, Any]:
            return {"x": scale * rng.normal()}

        one = make_simulator(scaled, compile="numba").sample(50, seed=1).x.values
        scale = 2.0
        assert (make_simulator(scaled, compile="numba").sample(50, seed=1).x.values == 2 * one).all()

    def test_the_audit_calls_the_plain_function(self, tmp_path: Path) -> None:
        def sometimes(flag: float, rng: np.random.Generator) -> dict[str, Any]:
            # NumPy's sum adds up in another order than Numba's; the probe has the first flag alone
            return {"x": np.sum(rng.normal(size=1000)) if flag > 0 else 0.0}

        simulator = make_simulator(sometimes, compile="numba")
        flags = {"flag": np.arange(100.0)}
        with pytest.raises(dasksim.IrreproducibleError, match="when Numba compiles it"):
            generate(simulator, tmp_path / "s.zarr", 100, conditions=flags, seed=1, scheduler="synchronous")

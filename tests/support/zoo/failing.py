"""Simulators of which samples fail, one of each class; and what runs them."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dasksim import (
    HierarchicalSimulator,
    ModelComparisonSimulator,
    RejectionSimulator,
    Simulator,
    generate,
    make_simulator,
)
from dasksim._core.failures import Policy, summed
from dasksim._engine.chunks import simulate_chunk
from zoo.classes import Kind

Rng = np.random.Generator


CUT: dict[str, Any] = {"sub_batch_size": 8, "chunk_size": 16}


MASK = {"on_error": "mask", "on_nonfinite": "mask"}


REDRAW = {"on_error": "redraw", "on_nonfinite": "redraw"}


POLICIES = pytest.mark.parametrize("policy", [MASK, REDRAW], ids=["mask", "redraw"])


def made(simulator: Simulator, store: Path | str, n: Any, **options: Any) -> xr.Dataset:
    return generate(simulator, store, n, **{"seed": 1, "scheduler": "synchronous", **CUT, **options})


def simulated(simulator: Simulator, n: Any, **options: Any) -> xr.Dataset:
    """Simulate what :func:`made` does, without a store."""
    options = {"seed": 1, **CUT, **options}
    policy = Policy(options.pop("on_error", "raise"), options.pop("on_nonfinite", "keep"))
    shape = (n,) if isinstance(n, int) else n
    pipeline, plan = simulator.plan(shape, conditions={}, most_probes=policy.most_probes, **options)
    found = [simulate_chunk(pipeline, plan, chunk, {}, policy) for chunk in range(plan.n_chunks)]
    arrays = {name: np.concatenate([chunk.variables[name] for chunk in found]) for name in found[0].variables}
    dims = {v.name: pipeline.array_dims(v) for v in pipeline.variables}
    failures = summed(failure for chunk in found for failure in chunk.failures)
    return xr.Dataset({name: (dims.get(name, "batch"), a) for name, a in arrays.items()}, attrs={"failures": failures})


def fail_above(value: Any, threshold: float) -> None:
    if np.any(value > threshold):
        raise ValueError(f"more than {threshold}")


def refuse(seen: Any) -> None:
    """Stop where a function is given what failed; an assert statement would reach for pytest's modules."""
    if np.any(seen):
        raise BaseException("a function is given what failed")  # which no policy lets pass


def prior(rng: Rng) -> dict[str, Any]:
    theta = rng.normal()
    fail_above(theta, 1.0)
    return {"theta": theta}


def likelihood(theta: float, rng: Rng) -> dict[str, Any]:
    x = theta + rng.normal(size=2)
    fail_above(x, 2.0)
    return {"x": x if x[0] > -1.5 else np.full(2, np.nan), "n": int(rng.integers(9)), "c": complex(theta, 1)}


def chain() -> Simulator:
    return make_simulator([prior, likelihood])


def mixed_chain() -> Simulator:
    def lengths(batch_shape: tuple[int, ...], theta: Any, rng: Rng) -> dict[str, Any]:
        refuse(theta > 1.0)
        return {"length": np.sqrt(1.0 - theta) + rng.uniform(size=batch_shape)}

    def last(length: float) -> dict[str, Any]:
        fail_above(length + np.random.uniform(), 2.2)
        return {"last": length > 1}

    return make_simulator([prior, lengths, last], obj_kwargs=[None, {"is_batched": True}, None])


def with_contexts() -> Simulator:
    def repeats(rng: Rng) -> dict[str, Any]:
        return {"n": int(rng.integers(2, 5))}

    def observe(theta: float, n: int, rng: Rng) -> dict[str, Any]:
        return {"y": theta + 0.1 * rng.normal(size=n)}

    options: dict[str, Any] = {"dims": {"y": ["obs"]}, "max_sizes": {"obs": 5}, "fill_value": -9.0}
    return make_simulator([prior, observe], meta_fn=repeats, **options)


def rejection() -> Simulator:
    def accept(theta: Any) -> Any:
        refuse(theta > 1.0)
        return theta > -1.0

    return RejectionSimulator(chain(), accept)


def comparison(use_mixed_batches: bool = True) -> Simulator:
    models = {"plain": with_contexts(), "shifted": with_contexts()}
    return ModelComparisonSimulator(models, use_mixed_batches=use_mixed_batches, fill_value=-9.0)


def rejection_of_comparison() -> Simulator:
    return RejectionSimulator(comparison(), lambda theta: theta > -0.5)


def comparison_of_rejections() -> Simulator:
    return ModelComparisonSimulator({"one": rejection(), "two": chain()})


def hierarchy() -> Simulator:
    return HierarchicalSimulator([prior, likelihood, lambda x, rng: {"z": rng.normal(x)}], levels=["group", "member"])


FAILING = {
    "chain": Kind(chain),
    "mixed_chain": Kind(mixed_chain),
    "with_contexts": Kind(with_contexts),
    "further_axis": Kind(chain, (2,)),
    "rejection": Kind(rejection),
    "comparison": Kind(comparison),
    "unmixed": Kind(lambda: comparison(use_mixed_batches=False)),
    "rejection_of_comparison": Kind(rejection_of_comparison),
    "comparison_of_rejections": Kind(comparison_of_rejections),
    "hierarchy": Kind(hierarchy, (2, 1)),
}


# One of each way in which rows fail: by themselves, as a sub-batch, as proposals, as rows of a model, along plates.
_CHOSEN = ("mixed_chain", "with_contexts", "rejection", "comparison", "rejection_of_comparison", "hierarchy")

failing = pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, id=name, marks=() if name in _CHOSEN else pytest.mark.slow) for name, kind in FAILING.items()],
)


class HasALockError(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.held = threading.Lock()

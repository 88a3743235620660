"""A seed gives the samples of earlier versions: bits that are written down here.

They are of uniform numbers, which NumPy does not change. Where they differ, stores of earlier versions would go on with
other samples than they began with.
"""

import hashlib
from typing import Any

import numpy as np
import pytest

from dasksim import ModelComparisonSimulator, RejectionSimulator, make_simulator

generator = np.random.default_rng(1)
Drawn = dict[str, Any]


def plain(rng: np.random.Generator) -> Drawn:
    return {"a": rng.random()}


def after(a: float, rng: np.random.Generator) -> Drawn:
    return {"b": a + rng.random(2)}


def of_the_module() -> Drawn:
    return {"c": generator.random()}


def seeded(seed: int) -> Drawn:
    return {"d": seed}


def batched(batch_shape: tuple[int, ...], rng: np.random.Generator) -> Drawn:
    return {"e": rng.random(batch_shape)}


def context(rng: np.random.Generator) -> Drawn:
    return {"n": int(rng.integers(1, 9))}


def with_context(n: int, rng: np.random.Generator) -> Drawn:
    return {"f": n + rng.random()}


SIMULATORS = {
    "plain": make_simulator([plain, after]),
    "module": make_simulator(of_the_module),
    "seeded": make_simulator(seeded),
    "batched": make_simulator(batched, is_batched=True),
    "context": make_simulator(with_context, meta_fn=context),
    "comparison": ModelComparisonSimulator([plain, of_the_module], key_conflicts="fill"),
    "rejection": RejectionSimulator(make_simulator([plain, after]), predicate=lambda a: a > 0.5),
}

#: The first digits of the digest of ten samples.
KNOWN = {
    "plain": "ec941f73dbc04123",
    "module": "eabb399e9ae8ea7d",
    "seeded": "400a5906b9c4bbe6",
    "batched": "827584dd7481c6df",
    "context": "d6be897f948277cd",
    "comparison": "e3178902321142ce",
    "rejection": "800818b4bb5578ea",
}


@pytest.mark.parametrize("name", SIMULATORS)
def test_seed_gives_the_samples_that_it_gave(name: str) -> None:
    dataset = SIMULATORS[name].sample(10, seed=2025, sub_batch_size=4).compute(scheduler="synchronous")
    digest = hashlib.sha256()
    for variable in sorted(map(str, dataset.data_vars)):
        digest.update(dataset[variable].values.tobytes())

    assert digest.hexdigest()[:16] == KNOWN[name]

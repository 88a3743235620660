"""A store to load from, and which of its samples batches hold."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import dasksim
from dasksim.store import _layout

Array = npt.NDArray[Any]


N = 1000


SUB_BATCH = 8


CHUNK = 64


INNER = 16


def prior(rng: np.random.Generator, n_obs: int) -> dict[str, Any]:
    return {"theta": rng.random(), "kind": int(rng.integers(3))}


def simulate(theta: float, rng: np.random.Generator) -> dict[str, Any]:
    return {"x": (theta + rng.normal(size=3)).astype("float32"), "flag": bool(theta > 0.5)}


def meta(rng: np.random.Generator) -> dict[str, Any]:
    return {"n_obs": int(rng.integers(1, 5))}


SIMULATOR = dasksim.make_simulator([prior, simulate], meta_fn=meta)


HOW: dict[str, Any] = {"seed": 1, "sub_batch_size": SUB_BATCH, "chunk_size": CHUNK, "scheduler": "synchronous"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of 16 chunks of 4 inner chunks, the last of which is short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_layout, "_INNER_MAX_ROWS", INNER)
        path = tmp_path_factory.mktemp("original") / "train.zarr"
        dasksim.generate(SIMULATOR, path, N, **HOW)
        yield path


@pytest.fixture(scope="module")
def theta(original: Path) -> Array:
    return numbers_from(original)


def numbers_from(store: Any) -> Array:
    return np.asarray(dasksim.open_dataset(store).theta.values[:, 0])


def samples(batches: Iterable[dict[str, Array]], theta: Array) -> list[int]:
    """Return the numbers of the samples in batches, by their parameter, which is different for each."""
    order = np.argsort(theta)
    values = np.concatenate([np.asarray(batch["theta"])[:, 0] for batch in batches] or [np.zeros(0)])
    found: list[int] = order[np.searchsorted(theta[order], values)].tolist()
    np.testing.assert_array_equal(theta[found], values)
    return found

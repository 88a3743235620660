"""The number of BLAS's threads, which changes the last bits of a matrix product, is one wherever samples are made."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import threadpoolctl
from distributed import LocalCluster

import dasksim
from dasksim._core.blas import one_blas_thread

Array = npt.NDArray[Any]
WEIGHTS = np.random.default_rng(0).normal(size=(600, 600))
seen: list[int] = []


def threads() -> int:
    """Return the number of threads that NumPy's BLAS has."""
    return max((lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"), default=1)


def draw(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Array]:
    return {"z": rng.normal(size=(*batch_shape, 600))}


def turn(z: Array) -> dict[str, Array]:
    seen.append(threads())
    return {"x": z @ WEIGHTS}


def plain(rng: np.random.Generator) -> dict[str, Array]:
    return {"x": (rng.normal(size=(600, 600)) @ WEIGHTS)[0]}


@pytest.fixture(autouse=True)
def two_threads() -> Any:
    """Let BLAS have two threads, where it has them, as a caller on a larger machine would."""
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        yield


@pytest.mark.parametrize("batched", [True, False])
def test_a_product_has_the_same_bits_on_every_scheduler(batched: bool, tmp_path: Path) -> None:
    sim = dasksim.make_simulator([draw, turn] if batched else plain, is_batched=batched)
    options: dict[str, Any] = {"seed": 1, "chunk_size": 600 if batched else 2, "progress": False, "audit": False}
    options |= {"sub_batch_size": 600} if batched else {}
    n = 1200 if batched else 4
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        wanted = sim.sample(n, seed=1, sub_batch_size=options.get("sub_batch_size")).x.values
    lazy = sim.sample(n, seed=1, sub_batch_size=options.get("sub_batch_size"), chunk_size=options["chunk_size"]).x
    assert np.array_equal(lazy.compute(scheduler="synchronous").values, wanted)
    assert np.array_equal(lazy.compute(scheduler="threads", num_workers=2).values, wanted)
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        for scheduler in ("synchronous", "threads", "processes", cluster.scheduler_address):
            ds = dasksim.generate(sim, tmp_path / "s.zarr", n, scheduler=scheduler, overwrite=True, **options)
            assert np.array_equal(ds.x.values, wanted), scheduler


def test_the_caller_has_its_threads_again_whatever_happens(tmp_path: Path) -> None:
    before = threads()

    def fails(z: Array) -> dict[str, Array]:
        raise ValueError(f"{threads()} threads")

    with pytest.raises(ValueError, match="1 threads"):
        dasksim.make_simulator([draw, fails], is_batched=True).sample(10, seed=1).compute()
    seen.clear()
    sim = dasksim.make_simulator([draw, turn], is_batched=True)
    for scheduler in ("synchronous", "threads"):
        dasksim.generate(sim, tmp_path / "s.zarr", 8, seed=1, sub_batch_size=2, scheduler=scheduler, overwrite=True)
    assert set(seen) == {1}
    assert threads() == before


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_blocks_overlap(first_to_end: int) -> None:
    """In two threads, of which the first to begin may be the first or the last to end."""
    before = threads()
    end = [threading.Event(), threading.Event()]
    began = [threading.Event(), threading.Event()]

    def block(k: int) -> None:
        with one_blas_thread():
            began[k].set()
            end[k].wait(60)

    both = [threading.Thread(target=block, args=(k,)) for k in range(2)]
    for thread, is_begun in zip(both, began, strict=True):
        thread.start()
        is_begun.wait(60)
    assert threads() == 1
    for k in (first_to_end, 1 - first_to_end):
        end[k].set()
        both[k].join(60)
        assert threads() == (1 if k == first_to_end else before)

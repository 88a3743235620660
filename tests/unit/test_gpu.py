"""What a real GPU makes, with CuPy; run with ``pytest -m gpu``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from model_statistics import LARGEST_Z, REFERENCE, z_scores

import dasksim
from dasksim import StoreMismatchError
from dasksim._core.arrays import _why_no_gpu
from dasksim.models import MODELS, two_moons

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(_why_no_gpu() is not None, reason=f"no GPU: {_why_no_gpu()}")]

BENCHMARKS = [name for name in MODELS if name in REFERENCE]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_model_has_the_statistics_of_the_reference(name: str, tmp_path: Path) -> None:
    dataset = dasksim.generate(MODELS[name](), tmp_path / "s.zarr", 200_000, seed=1, device="gpu", progress=False)
    assert json.loads(dataset.attrs["dasksim"])["device"] == "gpu"
    assert max(np.abs(z).max() for z in z_scores(name, dataset.compute()).values()) < LARGEST_Z


def test_a_dataset_is_backed_by_cupy() -> None:
    import cupy

    dataset = two_moons().sample(10_000, seed=1, device="gpu")
    assert isinstance(dataset.observables.data._meta, cupy.ndarray)
    computed = dataset.compute(scheduler="threads")
    assert isinstance(computed.observables.data, cupy.ndarray)
    assert abs(computed.parameters.data.get()).max() <= 1


def test_the_same_bits_every_time_and_with_any_chunks(tmp_path: Path) -> None:
    def made(path: str, **options: Any) -> xr.Dataset:
        options = {"seed": 1, "device": "gpu", "sub_batch_size": 4096, "progress": False, **options}
        return dasksim.generate(two_moons(), tmp_path / path, 50_000, **options).compute()

    first = made("a", chunk_size=8192, scheduler="threads")
    again = made("b", chunk_size=16384, scheduler="synchronous")
    np.testing.assert_array_equal(first.observables, again.observables)
    assert dasksim.verify(tmp_path / "a", two_moons(), resimulate=3).is_good
    assert len(np.unique(first.parameters[:, 0])) > 49_000  # in single precision some meet
    other = made("c", seed=2)
    assert not np.isin(other.parameters[:1000, 0], first.parameters[:1000, 0]).all()


def test_the_host_takes_its_part(tmp_path: Path) -> None:
    def prior(batch_shape: tuple[int, ...], rng: Any, xp: Any) -> dict[str, Any]:
        return {"theta": rng.standard_normal(batch_shape)}

    def on_host(theta: Any) -> dict[str, Any]:
        return {"a": np.exp(theta)}

    def on_gpu(theta: Any, a: Any, xp: Any) -> dict[str, Any]:
        return {"difference": xp.exp(theta) - a}

    simulator = dasksim.make_simulator([prior, on_host, on_gpu], is_batched=True)
    found = dasksim.generate(simulator, tmp_path / "s.zarr", 10_000, seed=1, progress=False).compute()
    np.testing.assert_allclose(found.difference, 0, atol=1e-9)
    with pytest.raises(StoreMismatchError, match="device: 'gpu' in the store, 'cpu' asked for"):
        dasksim.generate(simulator, tmp_path / "s.zarr", 10_000, seed=1, device="cpu")


def test_rejection_runs_on_the_gpu(tmp_path: Path) -> None:
    dataset = two_moons().rejection_sample(10_000, lambda parameters, xp: parameters[:, 0] > 0, seed=1, device="gpu")
    assert (dataset.compute().parameters[:, 0] > 0).all()


def test_time_that_a_sub_batch_may_take(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seed": 1, "device": "gpu", "sub_batch_size": 4096, "progress": False}
    found = dasksim.generate(two_moons(), tmp_path / "a", 20_000, timeout=60, **options).compute()
    wanted = dasksim.generate(two_moons(), tmp_path / "b", 20_000, **options).compute()
    np.testing.assert_array_equal(found.observables, wanted.observables)

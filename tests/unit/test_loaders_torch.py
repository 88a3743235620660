"""Stores as datasets of PyTorch: each sample once, with any number of workers and ranks."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loading import N, original, samples, theta

import dasksim

torch = pytest.importorskip("torch", exc_type=ImportError)

from torch.utils.data import DataLoader  # noqa: E402

from dasksim.loaders.torch import StoreBatches, StoreSamples  # noqa: E402

__all__ = ["original", "theta"]  # fixtures

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create . worker processes:UserWarning"),
]


def contents(batches: Iterable[Any]) -> list[bytes]:
    return [batch["theta"].numpy().tobytes() for batch in batches]


def test_batches_are_tensors_of_the_store(original: Path) -> None:
    batch = next(iter(StoreBatches(original, 32, dtype=torch.float16)))

    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()} == {
        "n_obs": (torch.int64, (32,)),
        "theta": (torch.float16, (32, 1)),
        "kind": (torch.int64, (32, 1)),
        "x": (torch.float16, (32, 3)),
        "flag": (torch.bool, (32, 1)),
    }


@pytest.mark.parametrize("n_workers", [0, 1, 3])
@pytest.mark.parametrize("how", ["fork", "spawn", "persistent"])
def test_workers_read_each_sample_once_and_each_epoch_anew(
    original: Path, theta: Any, n_workers: int, how: str
) -> None:
    if not n_workers and how != "fork":
        pytest.skip("there are no workers to start")
    dataset = StoreBatches(original, 64, variables=["theta"])
    options = {"multiprocessing_context": "spawn" if how == "spawn" else "fork"} if n_workers else {}
    loader: Any = DataLoader(
        dataset, batch_size=None, num_workers=n_workers, persistent_workers=how == "persistent", **options
    )
    expected = dasksim.loaders.batches(original, 64, variables=["theta"])

    for epoch in range(2):
        found = list(loader)
        assert len(found) == len(loader) == 16
        assert sorted(samples(found, theta)) == list(range(N))
        assert sorted(contents(found)) == sorted(batch["theta"].tobytes() for batch in expected.of_epoch(epoch))


def test_other_numbers_of_workers_go_on_with_the_next_epoch(original: Path, theta: Any) -> None:
    dataset = StoreBatches(original, 64, variables=["theta"])
    epochs = []
    for n_workers in (2, 0, 1, 3):
        found = list(DataLoader(dataset, batch_size=None, num_workers=n_workers))
        assert sorted(samples(found, theta)) == list(range(N))
        epochs.append(sorted(contents(found)))
    dataset.set_epoch(1)
    assert sorted(contents(dataset)) == epochs[1]
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_ranks_and_workers_share_out_an_epoch(original: Path, theta: Any) -> None:
    found: list[Any] = []
    for rank in range(3):
        dataset = StoreBatches(original, 50, shard=(rank, 3), variables=["theta"])
        loader: Any = DataLoader(dataset, batch_size=None, num_workers=2)
        own = list(loader)
        assert len(own) == len(loader) == 7
        found += own

    assert sorted(samples(found, theta)) == list(range(N))


def test_a_rank_of_a_process_group_has_its_share(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)

    expected = contents(StoreBatches(original, 50, shard=(1, 4)))
    assert contents(StoreBatches(original, 50)) == expected


def test_an_error_of_a_worker_arrives(original: Path) -> None:
    dataset = StoreBatches(original, 50, augmentations={"y": abs})

    with pytest.raises(ValueError, match="augmentations names 'y'"):
        list(DataLoader(dataset, batch_size=None, num_workers=2))


def test_devices_do_not_go_with_workers(original: Path) -> None:
    on_cpu = next(iter(StoreBatches(original, 50, device="cpu")))
    assert on_cpu["x"].device.type == "cpu"
    dataset = StoreBatches(original, 50, device="meta")
    assert next(iter(dataset))["x"].device.type == "meta"
    with pytest.raises(ValueError, match="device and pin_memory do not go with workers"):
        list(DataLoader(dataset, batch_size=None, num_workers=1))


def test_epochs_are_no_option(original: Path) -> None:
    with pytest.raises(dasksim.ArgumentError, match="epochs is no option of a dataset"):
        StoreBatches(original, 50, epochs=3)  # type: ignore[call-arg]
    with pytest.raises(dasksim.ArgumentError, match="'shuffle' is no option of samples, which have variables, split"):
        StoreSamples(original, shuffle=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_map_style_dataset_has_each_sample_by_number(original: Path, theta: Any, n_workers: int) -> None:
    fractions = {"train": 0.8, "validation": 0.2}
    seen: list[int] = []
    for name in fractions:
        dataset = StoreSamples(original, split=(name, fractions), variables=["theta", "x"], buffer_bytes=1 << 13)
        loader: Any = DataLoader(dataset, batch_size=30, shuffle=True, num_workers=n_workers)
        seen += samples(list(loader), theta)
        np.testing.assert_array_equal(dataset[-1]["x"], dataset[len(dataset) - 1]["x"])
        with pytest.raises(IndexError, match="samples are numbered from 0 to"):
            dataset[len(dataset)]

    assert sorted(seen) == list(range(N))


def test_a_copy_of_a_dataset_counts_for_itself(original: Path) -> None:
    dataset = StoreBatches(original, 50)
    first = contents(dataset)
    copy = pickle.loads(pickle.dumps(dataset))

    assert contents(copy) == first
    assert contents(dataset) != first

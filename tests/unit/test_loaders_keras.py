"""Stores as datasets of Keras and BayesFlow: each sample once, in whatever order batches are asked for."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loading import N, original, samples, theta

import dasksim

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", exc_type=ImportError)

from dasksim.loaders.keras import StoreDataset  # noqa: E402

__all__ = ["original", "theta"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")


def adapter_of(dataset: Any, shuffle: bool) -> Any:
    """Return what ``fit`` makes of a dataset."""
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    return PyDatasetAdapter(dataset, shuffle=shuffle)


def epoch_of(adapter: Any) -> list[Any]:
    """Go through an epoch as ``fit`` does."""
    adapter.on_epoch_begin()
    batches = list(adapter._get_iterator())
    adapter.on_epoch_end()
    return batches


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("workers", "use_multiprocessing"), [(0, False), (1, False), (3, False), (1, True), (3, True)])
def test_each_sample_comes_once_with_any_workers(
    original: Path, theta: Any, workers: int, use_multiprocessing: bool, shuffle: bool
) -> None:
    how: dict[str, Any] = {"variables": ["theta"], "buffer_bytes": 1 << 12}  # several windows
    dataset = StoreDataset(original, 64, workers=workers, use_multiprocessing=use_multiprocessing, **how)
    adapter = adapter_of(dataset, shuffle)
    dataset[0]  # as BayesFlow does to build a network

    epochs = [epoch_of(adapter) for _ in range(2)]

    for batches in epochs:
        assert len(batches) == len(dataset) == 16
        assert sorted(samples(batches, theta)) == list(range(N))
    assert samples(epochs[0], theta) != samples(epochs[1], theta)


def test_without_workers_batches_come_in_their_order_even_if_indices_are_shuffled(original: Path) -> None:
    expected = dasksim.loaders.batches(original, 64, variables=["theta"])
    adapter = adapter_of(StoreDataset(original, 64, variables=["theta"]), shuffle=True)

    for epoch in range(2):
        found = [batch["theta"].tobytes() for batch in epoch_of(adapter)]
        assert found == [batch["theta"].tobytes() for batch in expected.of_epoch(epoch)]


def test_a_batch_is_the_same_until_the_epoch_ends(original: Path) -> None:
    dataset = StoreDataset(original, 64)
    first, again = dataset[5]["theta"], dataset[5]["theta"]
    other = dataset[0]["theta"]
    dataset.on_epoch_end()

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, dataset[5]["theta"])
    with pytest.raises(IndexError, match="batches are numbered from 0 to 15; got 16"):
        dataset[16]


def test_augmentations_come_before_the_adapter(original: Path) -> None:
    dataset = StoreDataset(
        original, 64, adapter=lambda batch: {"y": batch["x"]}, augmentations={"x": lambda x: 0 * x + 1}
    )

    np.testing.assert_array_equal(dataset[0]["y"], np.ones((64, 3)))


def test_samples_can_be_asked_for_by_number(original: Path, theta: Any) -> None:
    dataset = StoreDataset(original, 64, split=("train", {"train": 0.5, "rest": 0.5}))

    found = samples([dataset.get_batch_by_sample_indices(np.arange(dataset.num_samples))], theta)

    assert found == sorted(samples(dataset, theta))
    np.testing.assert_array_equal(dataset.get_batch_by_sample_indices([7, 3])["theta"], theta[found][[7, 3], None])
    with pytest.raises(dasksim.ArgumentError, match="samples are numbered from 0 to"):
        dataset.get_batch_by_sample_indices([dataset.num_samples])


def test_batches_within_a_context_are_as_many_in_each_epoch(original: Path, theta: Any) -> None:
    dataset = StoreDataset(original, 20, within="n_obs")
    adapter = adapter_of(dataset, shuffle=True)

    epochs = [epoch_of(adapter) for _ in range(3)]

    for batches in epochs:
        assert len(batches) == len(dataset)
        assert all(len(set(batch["n_obs"])) == 1 for batch in batches)
        assert sorted(samples(batches, theta)) == list(range(N))


def test_a_copy_reads_the_same(original: Path) -> None:
    dataset = StoreDataset(original, 64)
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))

    np.testing.assert_array_equal(copy[3]["x"], StoreDataset(original, 64)[0]["x"])


@pytest.mark.parametrize("how", [{}, {"workers": 2}, {"workers": 2, "use_multiprocessing": True}])
def test_bayesflow_trains_on_a_store(original: Path, how: dict[str, Any]) -> None:
    bayesflow: Any = pytest.importorskip("bayesflow")
    workflow = bayesflow.BasicWorkflow(
        inference_network=bayesflow.networks.CouplingFlow(depth=1),
        inference_variables=["x"],
        inference_conditions=["theta"],
    )
    fractions = {"train": 0.8, "validation": 0.2}
    seen: list[int] = []

    def look(batch: dict[str, Any]) -> dict[str, Any]:
        seen.append(len(batch["theta"]))
        return batch

    options = {"variables": ["theta", "x"], "adapter": workflow.adapter}
    train = StoreDataset(original, 64, split=("train", fractions), augmentations=look, **options, **how)
    validation = StoreDataset(original, 64, split=("validation", fractions), **options)
    workflow.build_optimizer(2, train.num_batches, strategy="offline")
    workflow.approximator.compile(optimizer=workflow.optimizer)

    history = workflow.approximator.fit(dataset=train, epochs=2, validation_data=validation, verbose=0)

    assert np.isfinite(history.history["loss"] + history.history["val_loss"]).all()
    assert len(history.history["loss"]) == 2
    assert how.get("use_multiprocessing") or sum(seen) >= 2 * train.num_samples


def test_an_ensemble_of_bayesflow_shares_a_store_out(original: Path) -> None:
    bayesflow: Any = pytest.importorskip("bayesflow")
    dataset = bayesflow.EnsembleDataset(StoreDataset(original, 50, variables=["theta"]), ["a", "b"], data_reuse=0.0)

    seen = np.concatenate(
        [batch["theta"][name] for batch in (dataset[i] for i in range(len(dataset))) for name in "ab"]
    )

    assert len(np.unique(seen)) == N

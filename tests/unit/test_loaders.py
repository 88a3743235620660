"""Batches of real stores: each sample once, whatever the store and however it changes."""

import gc
import os
import pickle
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from bits import chunk_files, receipt_files
from hypothesis import given
from hypothesis import strategies as st
from loading import (
    CHUNK,
    HOW,
    INNER,
    SIMULATOR,
    Array,
    N,
    meta,
    numbers_from,
    original,
    prior,
    samples,
    theta,
)
from processes import run_python
from sources import MODULES, imports, own_imports
from variants import examples
from zarr.storage import MemoryStore

import dasksim
from dasksim import loaders

__all__ = ["original", "theta"]  # fixtures


@pytest.fixture
def store(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "train.zarr"))


def test_batches_hold_the_rows_of_the_store(original: Path, theta: Array) -> None:
    dataset = dasksim.open_dataset(original).compute()

    for batch in loaders.batches(original, 100):
        rows = samples([batch], theta)
        assert batch.keys() == dict(dataset.data_vars).keys()
        for name, values in batch.items():
            expected = dataset[name].values[rows]
            assert values.dtype == expected.dtype
            np.testing.assert_array_equal(values, expected)


def test_epochs_have_each_sample_once_in_orders_of_their_own(original: Path, theta: Array) -> None:
    loader = loaders.batches(original, 96)

    first, second = (samples(loader, theta) for _ in range(2))

    assert len(loader) == 11
    assert sorted(first) == sorted(second) == list(range(N))
    assert first != second
    assert samples(loaders.batches(original, 96, epochs=2), theta) == first + second
    assert samples(loaders.batches(original, 96, seed=1), theta) != first
    loader.epoch = 1
    assert samples(loader, theta) == second


def test_without_shuffling_samples_come_in_their_order(original: Path, theta: Array) -> None:
    loader = loaders.batches(original, 70, shuffle=False, drop_last=True)

    assert samples(loader, theta) == list(range(N // 70 * 70))


@examples(25)
@given(
    batch_size=st.integers(2, 300),
    world=st.integers(1, 4),
    split=st.none() | st.sampled_from(["train", "validation"]),
    within=st.none() | st.just("n_obs"),
    parts=st.integers(1, 3),
    epoch=st.integers(0, 2),
)
def test_every_sample_comes_once_over_ranks_workers_and_splits(
    original: Path,
    theta: Array,
    batch_size: int,
    world: int,
    split: str | None,
    within: str | None,
    parts: int,
    epoch: int,
) -> None:
    fractions = {"train": 0.8, "validation": 0.2}
    names = list(fractions) if split else [None]
    seen: list[int] = []
    for name in names:
        lengths = set()
        for rank in range(world):
            loader = loaders.batches(
                original,
                batch_size,
                split=None if name is None else (name, fractions),
                shard=(rank, world),
                within=within,
                variables=["theta", "n_obs"],
            )
            own = [batch for part in range(parts) for batch in loader.of_epoch(epoch, (part, parts))]
            lengths.add(len(own))
            assert within is None or all(len(set(batch["n_obs"])) == 1 for batch in own)
            seen += samples(own, theta)
        assert len(lengths) == 1

    assert sorted(seen) == list(range(N))


def test_workers_have_the_batches_of_one(original: Path) -> None:
    loader = loaders.batches(original, 64)
    whole = [batch["theta"].tobytes() for batch in loader.of_epoch(3)]

    parts = [batch["theta"].tobytes() for part in range(3) for batch in loader.of_epoch(3, (part, 3))]

    assert parts == whole


def test_the_order_does_not_depend_on_the_threads_that_read(
    original: Path, theta: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = samples(loaders.batches(original, 64), theta)
    monkeypatch.setattr("dasksim.loaders._windows._N_AHEAD", 5)
    monkeypatch.setattr("dasksim.loaders._windows._WINDOW_BLOCKS", 64)

    assert samples(loaders.batches(original, 64), theta) == one


def test_batches_may_be_changed_and_kept(original: Path) -> None:
    loader = loaders.batches(original, 64, variables=["x"])
    expected = [batch["x"].copy() for batch in loader.of_epoch(0)]
    kept = []
    for batch in loader.of_epoch(0):
        kept.append(batch["x"])
        batch["x"] += 1

    for before, after in zip(expected, kept, strict=True):
        assert after.base is None
        np.testing.assert_array_equal(before + 1, after)


def test_augmentations_are_those_of_bayesflow(original: Path) -> None:
    def double(batch: dict[str, Array]) -> dict[str, Array]:
        return {**batch, "x": 2 * batch["x"]}

    def first(**how: Any) -> Array:
        return next(iter(loaders.batches(original, 64, **how)))["x"]

    plain = first()
    np.testing.assert_array_equal(first(augmentations=double), 2 * plain)
    np.testing.assert_array_equal(first(augmentations=[double, double]), 4 * plain)
    np.testing.assert_array_equal(first(augmentations={"x": lambda x: -x}), -plain)
    with pytest.raises(dasksim.ArgumentError, match="augmentations names 'y', which is not in the batch"):
        first(augmentations={"y": abs})
    with pytest.raises(dasksim.ArgumentTypeError, match="augmentations must be a function of a batch"):
        first(augmentations=3)


# Bad input


@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ({"variables": ["tehta"]}, dasksim.ArgumentError, "variables names 'tehta'.*did you mean 'theta'"),
        ({"variables": "theta"}, dasksim.ArgumentTypeError, "a sequence of names, or None"),
        ({"variables": ["x", "x"]}, dasksim.ArgumentError, "each once"),
        ({"batch_size": 0}, dasksim.ArgumentError, "batch_size must be >= 1; got 0"),
        ({"batch_size": 6.4}, dasksim.ArgumentTypeError, "batch_size must be an integer >= 1; got 6.4"),
        ({"batch_size": 5000, "drop_last": True}, dasksim.ArgumentError, "more than the 1,000 samples.*a smaller one"),
        ({"batch_size": 10**9}, dasksim.ArgumentError, "do not fit into buffer_bytes=134,217,728; give at least"),
        ({"buffer_bytes": 1000}, dasksim.ArgumentError, "do not fit into buffer_bytes=1,000; give at least"),
        ({"shard": (2, 2)}, dasksim.ArgumentError, r"0 <= rank < world, with ranks counted from 0; got \(2, 2\)"),
        ({"shard": 2}, dasksim.ArgumentTypeError, "a pair of integers"),
        ({"shard": (0, 2), "seed": None}, dasksim.ArgumentError, "another seed on each rank"),
        ({"shard": (0, 1001)}, dasksim.ArgumentError, "1,000 samples, too few for 1001 ranks"),
        ({"shard": (0, 3), "batch_size": 1}, dasksim.ArgumentError, "cannot be as many on each of 3 ranks"),
        ({"split": ("train", {"train": 0.9})}, dasksim.ArgumentError, "must sum to 1"),
        ({"within": "n_osb"}, dasksim.ArgumentError, "within='n_osb' is no variable.*did you mean 'n_obs'"),
        ({"within": "theta"}, dasksim.ArgumentError, "must be a context: one number for each sub-batch"),
        ({"within": "x"}, dasksim.ArgumentError, "must be a context: one number for each sub-batch"),
        (
            {"shard": (0, 2), "partial": True},
            dasksim.ArgumentError,
            r"does not go with shard=\(0, 2\): ranks might see",
        ),
        ({"within": 3}, dasksim.ArgumentTypeError, "within must be the name of a context"),
        ({"masked": "skip"}, dasksim.ArgumentError, "masked must be one of 'refuse', 'drop', 'keep'; got 'skip'"),
        ({"epochs": 0}, dasksim.ArgumentError, "epochs must be >= 1"),
        ({"seed": -1}, dasksim.ArgumentError, "seed must be >= 0"),
        ({"shuffle": 1}, dasksim.ArgumentTypeError, "shuffle must be True or False"),
    ],
)
def test_bad_arguments_are_refused_at_once(
    original: Path, how: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        loaders.batches(original, how.pop("batch_size", 64), **how)


def test_there_must_be_a_store(tmp_path: Path) -> None:
    with pytest.raises(dasksim.StoreError, match="there is no store at"):
        loaders.batches(tmp_path / "none.zarr", 64)


# Stores that are incomplete, or change


def test_an_incomplete_store_is_refused_unless_asked_for(store: Path, theta: Array) -> None:
    for chunk in (3, 15):
        receipt_files(store)[chunk].unlink()
    shutil.rmtree(store / "theta" / "c" / "3")

    with pytest.raises(
        dasksim.IncompleteStoreError, match=r"14 of 16 chunks; run generate again.*or give partial=True"
    ):
        loaders.batches(store, 64)
    there = [i for i in range(N) if i // CHUNK not in (3, 15)]
    assert sorted(samples(loaders.batches(store, 64, partial=True), theta)) == there


def test_a_partial_loader_takes_what_is_there_at_each_epoch(store: Path) -> None:
    loader = loaders.batches(store, 64, partial=True)
    assert len(samples(loader, numbers_from(store))) == N

    dasksim.extend(store, SIMULATOR, 2 * N, scheduler="synchronous")

    assert sorted(samples(loader, numbers_from(store))) == list(range(2 * N))


def test_an_extended_store_is_noticed_and_its_splits_stay(store: Path, theta: Array) -> None:
    fractions = {"train": 0.7, "validation": 0.3}
    loader = loaders.batches(store, 64, split=("train", fractions))
    before = set(samples(loader, theta))

    dasksim.extend(store, SIMULATOR, 3000, scheduler="synchronous")

    with pytest.raises(dasksim.StoreMismatchError, match=r"extended from 1,000 to 3,000 samples.*or give partial=True"):
        next(iter(loader))
    longer = numbers_from(store)
    parts = [set(samples(loaders.batches(store, 64, split=(name, fractions)), longer)) for name in fractions]
    assert before == {row for row in parts[0] if row < N}
    assert parts[0] | parts[1] == set(range(3000))
    assert not parts[0] & parts[1]
    assert abs(len(parts[0]) - 2100) < 3 * INNER


def test_an_extension_in_the_middle_of_an_epoch_does_no_harm(store: Path, theta: Array) -> None:
    batches = iter(loaders.batches(store, 64, buffer_bytes=1 << 14))
    seen = samples([next(batches)], theta)

    dasksim.extend(store, SIMULATOR, 3000, scheduler="synchronous")

    assert sorted(seen + samples(batches, theta)) == list(range(N))


def test_a_store_made_anew_is_noticed_while_it_is_read(store: Path) -> None:
    loader = loaders.batches(store, 8, buffer_bytes=1 << 13)
    batches = iter(loader)
    next(batches)

    dasksim.generate(SIMULATOR, store, N, **(HOW | {"seed": 2}), overwrite=True)

    with pytest.raises(dasksim.StoreMismatchError, match=r"removed or made anew while it is being read"):
        list(batches)
    with pytest.raises(dasksim.StoreMismatchError, match="make a new loader"):
        next(iter(loader))


def test_a_store_removed_while_it_is_read_is_noticed(store: Path) -> None:
    batches = iter(loaders.batches(store, 8, buffer_bytes=1 << 13))
    next(batches)
    shutil.rmtree(store)

    with pytest.raises(dasksim.StoreError, match=r"removed or made anew|cannot read|has no shard"):
        list(batches)


@pytest.mark.parametrize("part", ["zarr.json", "_dasksim"])
def test_a_store_that_is_being_removed_is_said_to_be(store: Path, part: str) -> None:
    batches = loaders.batches(store, 8)
    list(batches)
    remove = shutil.rmtree if (store / part).is_dir() else os.unlink
    remove(store / part)

    with pytest.raises(dasksim.StoreMismatchError, match="removed or made anew while it is being read"):
        list(batches)


def test_damaged_bytes_are_noticed(store: Path) -> None:
    file = chunk_files(store, "x")[5]
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)

    with pytest.raises(dasksim.StoreError, match=r"'x' of chunk 5 .*differs from its checksum; generate"):
        list(loaders.batches(store, 64))


def test_a_shard_that_is_missing_is_noticed(store: Path) -> None:
    chunk_files(store, "x")[5].unlink()

    with pytest.raises(dasksim.StoreError, match=r"chunk 5: 'x' has no shard; .*repair=True"):
        list(loaders.batches(store, 64))


def test_follow_yields_each_sample_once_while_a_store_grows(tmp_path: Path) -> None:
    store = tmp_path / "train.zarr"

    def write() -> None:
        for part in range(4):
            time.sleep(0.2)
            dasksim.generate(SIMULATOR, store, N, part=(part, 4), **HOW)

    writer = threading.Thread(target=write)
    writer.start()
    batches = list(loaders.follow(store, 50, patience=30, poll_seconds=0.05))
    writer.join()

    assert sorted(samples(batches, numbers_from(store))) == list(range(N))


def test_follow_gives_up_on_a_store_that_does_not_grow(store: Path) -> None:
    receipt_files(store)[3].unlink()

    with pytest.raises(
        dasksim.StoreError, match=r"no chunk of the store.*became complete for 0.1 s; if its generation"
    ):
        list(loaders.follow(store, 64, patience=0.1, poll_seconds=0.01))
    with pytest.raises(dasksim.ArgumentError, match="patience must be greater than 0"):
        loaders.follow(store, 64, patience=0)
    with pytest.raises(dasksim.ArgumentTypeError, match="poll_seconds must be a number of seconds"):
        loaders.follow(store, 64, poll_seconds="1")  # type: ignore[arg-type]


def test_an_empty_store_is_followed_or_refused(store: Path) -> None:
    for file in receipt_files(store).values():
        file.unlink()
    loader = loaders.batches(store, 64, partial=True)

    with pytest.raises(dasksim.StoreError, match=r"no chunk of the store.*is complete; wait for the first"):
        next(iter(loader))


# Masked samples


def often_fails(theta: float, rng: np.random.Generator) -> dict[str, Any]:
    if theta > 0.8:
        raise ValueError("too large")
    return {"x": rng.normal(size=3)}


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masked") / "masked.zarr"
    simulator = dasksim.make_simulator([prior, often_fails], meta_fn=meta)
    dasksim.generate(simulator, path, N, on_error="mask", **HOW)
    return path


def test_masked_samples_are_refused_dropped_or_kept(masked: Path) -> None:
    valid = dasksim.open_dataset(masked).valid.values
    assert 100 < (~valid).sum() < 300

    with pytest.raises(dasksim.ArgumentError, match=rf"{(~valid).sum()} samples.*masked='drop'.*masked='keep'"):
        loaders.batches(masked, 64)
    dropped = list(loaders.batches(masked, 64, masked="drop"))
    kept = list(loaders.batches(masked, 64, masked="keep"))
    assert "valid" not in dropped[0]
    assert sum(len(batch["x"]) for batch in dropped) == valid.sum()
    assert all(len(batch["x"]) == 64 for batch in dropped[:-1])
    assert all(np.isfinite(batch["x"]).all() for batch in dropped)
    assert sum((~batch["valid"]).sum() for batch in kept) == (~valid).sum()


@pytest.mark.parametrize("what", ["drop", "keep"])
def test_contexts_are_found_among_masked_samples(masked: Path, what: Any) -> None:
    n = 0
    for batch in loaders.batches(masked, 64, masked=what, within="n_obs"):
        n += len(batch["x"])
        kept = batch["n_obs"] if what == "drop" else batch["n_obs"][batch["valid"]]
        assert len(set(kept)) <= 1

    assert n == (N if what == "keep" else dasksim.open_dataset(masked).valid.values.sum())


# Where stores are, and in which process they are read


def test_other_storage_and_other_codecs_give_the_same_batches(original: Path, tmp_path: Path, theta: Array) -> None:
    zipped = shutil.make_archive(str(tmp_path / "train.zarr"), "zip", original)
    memory = MemoryStore()
    dasksim.generate(SIMULATOR, memory, N, **(HOW | {"scheduler": "threads"}))
    packed = Path(shutil.copytree(original, tmp_path / "packed.zarr"))
    shutil.rmtree(packed / "x")
    zarr.open_group(packed, mode="r+").create_array(
        "x",
        data=dasksim.open_dataset(original).x.values,
        chunks=(INNER, 3),
        shards=(CHUNK, 3),
        dimension_names=["batch", "x_dim_0"],
        fill_value=np.nan,
    )

    expected = [batch["x"].tobytes() for batch in loaders.batches(original, 64)]
    for store in (Path(zipped), memory, packed):
        assert [batch["x"].tobytes() for batch in loaders.batches(store, 64)] == expected


def test_a_pickled_loader_reads_the_same(original: Path, theta: Array) -> None:
    loader = loaders.batches(original, 64)
    copy = pickle.loads(pickle.dumps(loader))

    assert samples(copy, theta) == samples(loader, theta)


def test_an_abandoned_loader_leaves_no_thread(original: Path) -> None:
    batches = iter(loaders.batches(original, 8, buffer_bytes=1 << 13))
    next(batches)
    del batches
    gc.collect()
    deadline = time.monotonic() + 5
    while any("dasksim-" in t.name for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert not [t.name for t in threading.enumerate() if "dasksim-" in t.name]


def test_the_interpreter_ends_in_the_middle_of_an_epoch(original: Path) -> None:
    how = f"{str(original)!r}, 8, buffer_bytes=8192"
    code = f"from dasksim import loaders; batches = iter(loaders.batches({how})); print(len(next(batches)))"
    run = run_python("-c", code, cwd=original.parent, timeout=60)

    assert (run.returncode, run.stderr) == (0, "")


def test_loaders_need_neither_simulators_nor_dask() -> None:
    found, left = set[str](), [name for name in MODULES if name.startswith("dasksim.loaders")]
    own = {package for name in left for _, package in imports(MODULES[name])}
    while left:
        name = left.pop()
        found.add(name)
        left += own_imports(MODULES[name]) - found - {"dasksim"}

    assert not {package.partition(".")[0] for package in own} & {"dask", "distributed", "xarray"}
    assert not {name.split(".")[1] for name in found} & {"simulators", "models", "_compile", "_generate", "_executors"}


def test_batches_are_shown_with_their_numbers(original: Path) -> None:
    found = loaders.batches(original, 300)

    assert f"{found!r}".startswith("<dasksim.loaders.Batches of the store at ")
    assert "1,000 samples in 4 batches, epoch 0 is next>" in repr(found)
    list(found)
    assert "epoch 1 is next" in repr(found)

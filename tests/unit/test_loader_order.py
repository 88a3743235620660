"""The order of epochs, as numbers: each sample once, ranks alike, well shuffled, splits that stay."""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dasksim.errors import ArgumentError, ArgumentTypeError
from dasksim.loaders._order import Epoch, plan_epoch
from dasksim.loaders._splits import check_split
from dasksim.loaders._stretch import Stretch, Terms

Array = npt.NDArray[Any]


def epochs_of(terms: Terms, counts: Array, groups: Array | None = None) -> list[Epoch]:
    """Return what each rank reads of blocks of so many samples."""
    starts = np.cumsum(counts) - counts
    n_groups = 1 if groups is None else int(groups.max(initial=0)) + 1
    epochs = []
    for rank in range(terms.world):
        stretch = Stretch(terms, rank, np.arange(len(counts)), counts)
        table = np.zeros((stretch.n_windows, n_groups), np.int64)
        for window in range(stretch.n_windows):
            rows = window_rows(stretch, window, starts)
            own = np.zeros(len(rows), np.int64) if groups is None else groups[rows]
            table[window] = np.bincount(own, minlength=n_groups)
        epochs.append(Epoch(terms, rank, stretch, table))
    return [plan_epoch(epochs, rank) for rank in range(terms.world)]


def window_rows(stretch: Stretch, window: int, starts: Array) -> Array:
    parts = [np.arange(s.start, s.stop) + starts[s.block] for s in stretch.segments(window)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def batches_of(epoch: Epoch, counts: Array, groups: Array | None = None) -> list[Array]:
    """Return the samples of each batch, as a reader would find them."""
    starts = np.cumsum(counts) - counts
    placed = []
    for window in range(epoch.stretch.n_windows):
        rows = window_rows(epoch.stretch, window, starts)
        places = epoch.places(window, None if groups is None else groups[rows])
        ordered = rows.copy()
        if places is not None:
            ordered[places] = rows
        placed.append(ordered)
    found = []
    for number in range(epoch.n_batches):
        window = epoch.window_of(number)
        first, batches = epoch.batches(window)
        pieces = batches[number - first]
        assert {piece.window for piece in pieces} <= {window - 1, window}
        found.append(np.concatenate([placed[p.window][p.start : p.stop] for p in pieces]))
    return found


numbers_of_samples = st.lists(st.integers(0, 12), min_size=1, max_size=12).map(np.array).filter(lambda c: c.sum() > 0)


@st.composite
def all_terms(draw: st.DrawFn) -> Terms:
    return Terms(
        batch_size=draw(st.integers(1, 40)),
        window_rows=draw(st.integers(1, 60)),
        shuffle=draw(st.booleans()),
        drop_last=draw(st.booleans()),
        seed=draw(st.integers(0, 3)),
        epoch=draw(st.integers(0, 2)),
        world=draw(st.integers(1, 5)),
    )


@given(terms=all_terms(), counts=numbers_of_samples, n_groups=st.integers(0, 3))
def test_each_sample_comes_once_over_all_ranks_which_have_as_many_batches(
    terms: Terms, counts: Array, n_groups: int
) -> None:
    assume(counts.sum() >= terms.world)
    groups = np.random.default_rng(0).integers(n_groups, size=counts.sum()) if n_groups else None
    try:
        epochs = epochs_of(terms, counts, groups)
    except ArgumentError as error:
        assert "as many on each" in str(error)  # noqa: PT017
        assert not terms.drop_last
        assert terms.world > 1
        return
    batches = [batches_of(epoch, counts, groups) for epoch in epochs]

    assert len({len(own) for own in batches}) == 1
    seen = Counter(int(row) for own in batches for batch in own for row in batch)
    assert not seen or max(seen.values()) == 1
    assert all(len(batch) <= terms.batch_size for own in batches for batch in own)
    if groups is not None:
        assert all(len(set(groups[batch])) == 1 for own in batches for batch in own)
    if terms.drop_last:
        assert all(len(batch) == terms.batch_size for own in batches for batch in own)
        if groups is None:
            assert len(batches[0]) == counts.sum() // terms.world // terms.batch_size
    else:
        assert len(seen) == counts.sum()


@given(terms=all_terms(), counts=numbers_of_samples)
def test_without_groups_all_batches_but_the_last_are_full(terms: Terms, counts: Array) -> None:
    assume(counts.sum() >= terms.world)
    assume(terms.batch_size > 1)

    for epoch in epochs_of(terms, counts):
        lengths = [len(batch) for batch in batches_of(epoch, counts)]
        assert all(length == terms.batch_size for length in lengths[:-2])


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    counts = np.full(50, 20)

    def order(seed: int, epoch: int) -> list[int]:
        terms = Terms(64, 200, True, False, seed, epoch, 1)
        (plan,) = epochs_of(terms, counts)
        return [int(row) for batch in batches_of(plan, counts) for row in batch]

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_the_shuffle_leaves_no_trace_of_the_order() -> None:
    """Three z-scores at fixed seeds; each beyond 4 has a false-alarm rate below 1e-4."""
    counts = np.full(512, 256)
    n = int(counts.sum())
    (plan,) = epochs_of(Terms(512, 64 * 256, True, False, 7, 0, 1), counts)
    order = np.concatenate(batches_of(plan, counts))

    neighbours = int((np.abs(np.diff(order)) == 1).sum())  # of a permutation: 2 on average, about Poisson
    first = order[: 64 * 256]
    serial = np.corrcoef(first[:-1], first[1:])[0, 1]  # within a window
    blocks_in_batch = [len(set(batch // 256)) for batch in np.split(first, 32)]
    across = np.corrcoef(order[::256] // 256, np.arange(0, n, 256))[0, 1]

    assert neighbours < 256 / 64 * 512 * 2  # a window of 64 blocks has 64 times as many as a whole permutation
    assert abs(serial) < 4 / np.sqrt(len(first))
    assert min(blocks_in_batch) > 55  # of 64 in the window
    assert abs(across) < 4 / np.sqrt(512)


# Splits


@given(
    n_before=st.integers(0, 150),
    n_after=st.integers(0, 150),
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_splits_are_disjoint_and_cover_all(n_before: int, n_after: int, weights: list[int]) -> None:
    fractions = {f"part{i}": weight / sum(weights) for i, weight in enumerate(weights)}
    splits = [check_split((name, fractions)) for name in fractions]
    for block in (n_before, n_before + n_after):
        rows = np.array(
            [np.broadcast_to(split.rows(block, 32 * block, 32 * block + 32), 32) for split in splits if split]
        )
        assert np.all(rows.sum(0) == 1)


@pytest.mark.parametrize("n_blocks", [1, 3, 64, 200, 2000])
def test_fractions_hold_to_within_a_block(n_blocks: int) -> None:
    fractions = {"train": 0.85, "validation": 0.1, "test": 0.05}
    for name, fraction in fractions.items():
        split = check_split((name, fractions))
        assert split
        n_rows = sum(
            int(np.broadcast_to(split.rows(block, 1024 * block, 1024 * (block + 1)), 1024).sum())
            for block in range(n_blocks)
        )
        assert abs(n_rows - fraction * n_blocks * 1024) < (4 if n_blocks <= 64 else 3 * 1024)


def test_late_blocks_belong_to_one_split_so_that_each_is_read_once() -> None:
    fractions = {"train": 0.5, "test": 0.5}
    for name in fractions:
        split = check_split((name, fractions))
        assert split
        n_kinds = [len(np.unique(split.rows(block, 32 * block, 32 * block + 32))) for block in (0, 63, 64, 65)]
        assert n_kinds == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("split", "error", "match"),
    [
        ("train", ArgumentTypeError, "a name and the fractions of all splits, such as"),
        (("train", {}), ArgumentTypeError, "a name and the fractions"),
        (("trian", {"train": 0.5, "test": 0.5}), ArgumentError, "'trian'.*did you mean 'train'"),
        (("train", {"train": "half", "test": 0.5}), ArgumentTypeError, "'train' must be a number; got 'half'"),
        (("train", {"train": 1.5, "test": -0.5}), ArgumentError, "greater than 0 and at most 1; got 1.5"),
        (("train", {"train": 0.8}), ArgumentError, "sum to 0.8; give what is left over a name too.*'unused': 0.2"),
        (("train", {"train": 0.8, "test": 0.3}), ArgumentError, "must sum to 1.*sum to 1.1$"),
    ],
)
def test_bad_splits_are_refused(split: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        check_split(split)

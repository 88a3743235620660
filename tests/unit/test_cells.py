"""Streams of cells: NumPy's own numbers, one stream for each cell, whatever the others."""

import copy
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from dasksim._streams import cells as module
from dasksim._streams.addresses import PROBE_SUB_BATCH, Address, stage_key
from dasksim._streams.cells import Cells, CellStreams

Array = npt.NDArray[Any]

N = 500


def address(seed: int = 1, stage: str = "prior", **where: int) -> Address:
    return Address(seed, stage_key(stage), **{"sub_batch": 0, **where})


def words(samples: range | Array, *child: int, **where: Any) -> Array:
    return CellStreams(address(**where), Cells(samples)).words(*child)


def draws(streams: CellStreams, draw: Any) -> list[Any]:
    rng, move = streams.generator()
    return [draw(rng) for _ in move(range(len(streams)))]


class Words(np.random.bit_generator.ISeedSequence):
    def __init__(self, words: Array) -> None:
        self.words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Array:
        return self.words[:n_words]


def test_words_are_those_of_numpys_philox() -> None:
    key = address().cell_key()
    first = np.asarray(np.random.Philox(counter=0, key=key).random_raw(4 * N)).reshape(N, 4)

    np.testing.assert_array_equal(words(range(N)), first)
    np.testing.assert_array_equal(words(np.arange(N)[::-1]), first[::-1])
    np.testing.assert_array_equal(words(range(100, 150)), first[100:150])


def test_large_and_scattered_samples_have_the_words_of_philox() -> None:
    samples = np.array([0, 2**32 - 1, 2**32, 2**62, 3])
    for sample, found in zip(samples.tolist(), words(samples), strict=True):
        wanted = np.random.Philox(counter=sample, key=address().cell_key()).random_raw(4)
        np.testing.assert_array_equal(found, wanted)


def test_each_cell_draws_what_sfc64_draws_that_is_seeded_with_its_words() -> None:
    streams = CellStreams(address(), Cells(range(N)))
    found = draws(streams, lambda rng: (rng.normal(), rng.integers(9, dtype=np.int32), rng.random()))

    for made, seed in zip(found, streams.words(), strict=True):
        rng = np.random.Generator(np.random.SFC64(Words(seed)))  # type: ignore[arg-type]
        assert made == (rng.normal(), rng.integers(9, dtype=np.int32), rng.random())


def test_states_may_be_put_by_numpys_documented_way_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._knows_memory()
    streams = CellStreams(address(), Cells(range(N)))
    fast = draws(streams, lambda rng: (rng.integers(9, dtype=np.int32), rng.normal()))

    monkeypatch.setattr(module, "_KNOWS_MEMORY", False)

    assert draws(streams, lambda rng: (rng.integers(9, dtype=np.int32), rng.normal())) == fast


def test_a_layout_of_memory_that_is_not_known_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_memory", lambda bits: memoryview(bytearray(40)))

    assert not module._knows_memory()


def test_children_of_a_generator_are_those_of_the_cell() -> None:
    streams = CellStreams(address(), Cells(range(9)))
    whole = draws(streams, lambda rng: [child.normal() for child in (*rng.spawn(2), *rng.spawn(1))])
    alone = draws(CellStreams(address(), Cells(range(4, 5))), lambda rng: [c.normal() for c in rng.spawn(3)])

    assert whole[4] == alone[0]
    assert len({value for values in whole for value in values}) == 27


def test_places_in_plates_are_cells_of_their_own_whatever_the_sizes() -> None:
    rows = Cells(range(10, 13))
    small, large = rows.along((2, 3)), rows.along((4, 5))
    index = [row * 20 + i * 5 + j for row in range(3) for i in range(2) for j in range(3)]

    assert len(small) == 18
    np.testing.assert_array_equal(small.counters(), large.counters()[index])
    assert len(np.unique(large.counters(), axis=0)) == 60
    np.testing.assert_array_equal(rows.along((2,)).along((3,)).counters(), small.counters())


@pytest.mark.parametrize("depth", range(7))
def test_no_two_places_have_one_counter(depth: int) -> None:
    cells = Cells(range(3)).along((3,) * depth)

    assert len(np.unique(cells.counters(), axis=0)) == 3 * 3**depth


def test_proposals_are_numbered_by_their_row() -> None:
    rows = Cells(range(4)).along((2,))
    few, more = (
        rows.proposed(np.array([5]), np.array([2])),
        rows.proposed(np.repeat(np.arange(8), 3), np.tile([0, 1, 2], 8)),
    )

    np.testing.assert_array_equal(few.counters()[0], more.counters()[17])
    assert len(np.unique(more.proposed(np.arange(24), np.ones(24, int)).counters(), axis=0)) == 24


def test_streams_depend_on_all_of_an_address_but_the_sub_batch() -> None:
    wheres: list[dict[str, Any]] = [
        {},
        {"seed": 2},
        {"seed": 1 + 2**64},
        {"stage": "other"},
        {"attempt": 1},
        {"attempt": 1 << 32},
        {"redraw": 1},
        {"sub_batch": PROBE_SUB_BATCH},
    ]
    found = [words(range(N), *child, **where) for where in wheres for child in ((), (1 << 63,), ((1 << 63) + 3,))]

    assert len(np.unique(np.concatenate(found)[:, 0])) == len(found) * N
    np.testing.assert_array_equal(words(range(N), sub_batch=7), words(range(N)))


def test_first_draws_over_cells_stages_seeds_and_attempts_are_independent() -> None:
    """What one stream draws first is as random, along each of these, as what follows within a stream."""

    def firsts(**where: Any) -> list[float]:
        return draws(CellStreams(address(**where), Cells(range(2000))), lambda rng: rng.random())

    wheres = [(seed, stage, attempt) for seed in (1, 2) for stage in ("prior", "likelihood") for attempt in (0, 1)]
    uniform = np.array([firsts(seed=seed, stage=stage, attempt=attempt) for seed, stage, attempt in wheres])
    bins = np.histogram(uniform, 100, (0, 1))[0]
    assert stats.chisquare(bins).pvalue > 1e-3
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(uniform)[np.triu_indices(8, 1)]).max() < 4.5 / np.sqrt(2000)
    for lag in (1, 2, 16):
        assert abs(np.corrcoef(uniform[:, :-lag].ravel(), uniform[:, lag:].ravel())[0, 1]) < 4.5 / np.sqrt(uniform.size)
    first, second = np.histogram2d(uniform[:, :-1].ravel(), uniform[:, 1:].ravel(), 16, [[0, 1], [0, 1]])[0].reshape(
        2, -1
    )
    assert stats.chisquare(np.concatenate([first, second])).pvalue > 1e-3


def test_initial_states_do_not_meet() -> None:
    found = np.concatenate([words(range(100_000), seed=seed)[:, :3] for seed in range(5)])

    assert len(np.unique(found[:, 0])) == 500_000  # 64 of the 192 bits: two would meet once in 10^8 seeds


def test_a_cell_begins_anew_each_time() -> None:
    streams = CellStreams(address(), Cells(range(3)))
    first = [np.random.default_rng(streams.child(5).spawn(1)[0]).random() for _ in range(2)]
    streams.move(0)

    assert np.random.default_rng(streams.child(5).spawn(1)[0]).random() == first[0] != first[1]


def test_a_generator_of_a_cell_is_copied_pickled_and_asked_like_any_other() -> None:
    def used(rng: np.random.Generator) -> tuple[Any, ...]:
        again = copy.deepcopy(rng), pickle.loads(pickle.dumps(rng))
        sequence = rng.bit_generator.seed_seq
        state = sequence.generate_state(2).tolist()
        drawn = {each.normal() for each in (rng, *again)}
        children = {each.spawn(1)[0].normal() for each in (rng, *again)}
        assert len(drawn) == len(children) == 1
        return sequence.entropy, state, *drawn, *children  # type: ignore[attr-defined]

    whole = draws(CellStreams(address(), Cells(range(9))), used)

    assert draws(CellStreams(address(), Cells(range(7, 9))), used) == whole[7:]
    assert len({found[2] for found in whole}) == 9


# --- seeds of 32 bits -------------------------------------------------------------------------------------------------

N_SEEDS32 = 2**31 - 2


def seeds32(samples: range | Array, **where: Any) -> list[int]:
    return CellStreams(address(**where), Cells(samples)).seeds32()


def test_seeds_of_32_bits_are_in_range_and_differ_for_all_samples() -> None:
    found = np.array(seeds32(range(500_000)))  # of so many random ones, 58 would meet another

    assert found.min() >= 1
    assert found.max() <= N_SEEDS32
    assert len(np.unique(found)) == len(found)
    assert stats.kstest(found[::50] / N_SEEDS32, "uniform").pvalue > 1e-4
    np.testing.assert_array_equal(found[1000:1010], seeds32(np.arange(1000, 1010)))


def test_seeds_of_32_bits_are_a_permutation() -> None:
    """Of a domain of this size all cannot be looked at: the network itself takes each number to another one."""
    keys = np.broadcast_to(np.arange(8, dtype=np.uint32) * 77, (1 << 16, 8))
    for first in (0, N_SEEDS32 - (1 << 16), 2**32 - (1 << 16)):
        numbers = np.arange(first, first + (1 << 16), dtype=np.int64).astype(np.uint32)
        left, right = module._feistel(numbers, keys) >> 16, module._feistel(numbers, keys) & 0xFFFF
        for k in reversed(range(8)):  # back
            mixed = (left + keys[:, k]) * np.uint32(0x9E3779B1)
            mixed = (mixed ^ mixed >> np.uint32(15)) * np.uint32(0x85EBCA77)
            left, right = right ^ (mixed >> np.uint32(13)) & np.uint32(0xFFFF), left
        np.testing.assert_array_equal(left << 16 | right, numbers)


def test_seeds_of_32_bits_go_on_beyond_as_many_samples_as_there_are() -> None:
    before, after = seeds32(np.array([0, 1, N_SEEDS32 - 1])), seeds32(np.array([N_SEEDS32, N_SEEDS32 + 1]))

    assert len({*before, *after}) == 5


def test_seeds_of_32_bits_are_others_for_another_stage_seed_attempt_place_or_proposal() -> None:
    rows = np.arange(100)
    along = Cells(range(100)).along((2,))
    proposed = Cells(range(100), proposals=np.zeros(100, np.int64)).proposed(rows, np.ones(100, np.int64))
    found = [
        seeds32(range(100)),
        seeds32(range(100), stage="likelihood"),
        seeds32(range(100), seed=2),
        seeds32(range(100), attempt=1),
        CellStreams(address(), along).seeds32()[1::2],
        CellStreams(address(), proposed).seeds32(),
    ]
    assert all(len(set(one) & set(other)) == 0 for i, one in enumerate(found) for other in found[:i])

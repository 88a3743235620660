"""Whatever is done to a store in whatever order, it holds what a dict of arrays says, and verify knows the rest."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr.storage._local
from bits import array_bytes, chunk_files, finished_bytes, receipt_files
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dasksim import IncompleteStoreError, StoreError, extend, generate, make_simulator, open_dataset, status, verify
from dasksim.store import ChunkWriter
from dasksim.store._locate import locate
from dasksim.store._receipts import open_receipts
from dasksim.store._told import read_record

SIZE, MOST = 4, 30  # stores of fewer than three samples have smaller chunks
OPTIONS: dict[str, Any] = {"sub_batch_size": 2, "chunk_size": SIZE, "scheduler": "synchronous"}
ALONE: dict[str, Any] = {"scheduler": "synchronous"}
STOPS = ("no", "exception", "interrupt", "crash")
PARTS = st.none() | st.sampled_from([(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (8, 9)])
LIMIT = -1.2


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 8
    file.write_bytes(content)


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


#: What is damaged, and how.
DAMAGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "flipped": ("x", flip),
    "truncated": ("k", halve),
    "emptied": ("x", empty),
    "lost": ("theta", Path.unlink),
    "receipt flipped": ("receipt", flip),
    "receipt truncated": ("receipt", halve),
    "receipt emptied": ("receipt", empty),
}
#: What shows when a complete store is opened: shards that are missing, or of another size than their receipt says.
SHOWN = {"truncated", "emptied", "lost"}


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal(size=2), "k": int(rng.integers(1, 9))}


def likelihood(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
    x = rng.normal(theta[0])  # first, since the samples of a sub-batch share a stream
    if theta[0] < LIMIT:
        raise ArithmeticError("out of range")
    return {"x": x}


def safe(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"x": rng.normal(theta[0])}


FRAGILE = make_simulator({"prior": prior, "likelihood": likelihood})
SAFE = make_simulator({"prior": prior, "likelihood": safe})


@cache
def oracle(seed: int, policy: str) -> dict[str, Any]:
    """Return the longest dataset: the simulator's own where nothing fails, masked by hand, or drawn again at once."""
    sampled = SAFE.sample(MOST, seed=seed, sub_batch_size=2).compute(scheduler="synchronous")
    values = {str(name): array.values.copy() for name, array in sampled.data_vars.items()}
    if policy == "redraw":
        with tempfile.TemporaryDirectory() as folder:
            dataset = generate(FRAGILE, f"{folder}/s.zarr", MOST, seed=seed, on_error="redraw", **OPTIONS).compute()
        values = {str(name): array.values for name, array in dataset.data_vars.items()}
    elif policy == "mask":
        values["valid"] = values["theta"][:, 0] >= LIMIT
        values["x"][~values["valid"]] = np.nan
    return values


@cache
def at_once(seed: int, policy: Any, n: int) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        generate(FRAGILE, f"{folder}/s.zarr", n, seed=seed, on_error=policy, **OPTIONS)
        return array_bytes(Path(folder) / "s.zarr")


class StopError(Exception):
    """What an exception of a user's function stands for."""


@contextlib.contextmanager
def stopping(how: str, after: int) -> Iterator[None]:
    """Stop a run after some chunks, or let the disk fail from some write on, as if the process were killed."""
    with pytest.MonkeyPatch.context() as patch:
        if how in ("exception", "interrupt"):
            write, count = ChunkWriter.write, [0]

            def limited(self: ChunkWriter, chunk: int, simulate: Callable[[], Any]) -> Any:
                count[0] += 1
                if count[0] > after:
                    raise StopError("stop") if how == "exception" else KeyboardInterrupt("stop")
                return write(self, chunk, simulate)

            patch.setattr(ChunkWriter, "write", limited)
        elif how == "crash":
            put, puts = zarr.storage._local._put, [0]

            def failing(path: Path, value: Any, exclusive: bool = False) -> int:
                puts[0] += 1
                if puts[0] > 3 * after:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.with_suffix(f".{puts[0]}.partial").write_bytes(b"cut off")
                    raise OSError("the disk is gone")
                return put(path, value, exclusive)

            patch.setattr(zarr.storage._local, "_put", failing)
        yield


class StoreMachine(RuleBasedStateMachine):
    """A store, and what is known of it: its length, its complete chunks, and which of them are damaged, and how."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "s.zarr"
        self.path.mkdir()
        (self.path / "zarr.abc.partial").write_bytes(b"of a run that was killed at once")
        (self.folder / "precious.txt").write_text("!")

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(seed=st.integers(1, 3), n=st.integers(3, 20), is_fragile=st.booleans())
    def begin(self, seed: int, n: int, is_fragile: bool) -> None:
        self.simulator = FRAGILE if is_fragile else SAFE
        self._new(seed, n)
        self._call(lambda: generate(self.simulator, self.path, n, seed=seed, **OPTIONS))

    def _new(self, seed: int, n: int) -> None:
        self.seed, self.n, self.policy, self.has_switched = seed, n, "raise", False
        self.is_cut_off = False
        self.complete: set[int] = set()
        self.bad: dict[int, str] = {}

    def _values(self) -> dict[str, Any]:
        if self.simulator is FRAGILE or self.policy != "mask":
            return oracle(self.seed, self.policy if self.simulator is FRAGILE else "raise")
        return {**oracle(self.seed, "raise"), "valid": np.ones(MOST, bool)}

    def _hurt(self, what: str) -> set[int]:
        """Return the chunks of which that is damaged."""
        return {chunk for chunk, damage in self.bad.items() if DAMAGES[damage][0] == what}

    def _shown(self) -> set[int]:
        return {chunk for chunk, damage in self.bad.items() if damage in SHOWN}

    def _rows(self, chunk: int) -> slice:
        return slice(chunk * SIZE, min((chunk + 1) * SIZE, self.n))

    def _stops_run(self, chunk: int) -> bool:
        is_strict = self.policy == "raise" and self.simulator is FRAGILE
        return is_strict and bool((oracle(self.seed, "raise")["theta"][self._rows(chunk), 0] < LIMIT).any())

    def _call(self, run: Callable[[], Any], part: Any = None, stop: str = "no", after: int = 0) -> None:
        """Make a call that simulates what is missing, predict what it does, and see how far it came if it stopped."""
        n_chunks = -(-self.n // SIZE)
        first, last = (0, n_chunks) if part is None else (i * n_chunks // part[1] for i in (part[0], part[0] + 1))
        missing = [chunk for chunk in range(first, last) if chunk not in self.complete]
        stopper = next((chunk for chunk in missing if self._stops_run(chunk)), last)
        least, most = set(self.complete), self.complete | {chunk for chunk in missing if chunk < stopper}
        self.is_cut_off = False
        with stopping(stop, after):
            try:
                dataset = run()
            except (StopError, KeyboardInterrupt):
                assert stop != "no"
            except ArithmeticError:
                assert stopper < last
                least = most if stop == "no" else least
            except StoreError:
                self.is_cut_off = stop == "crash"
                if not self.is_cut_off:  # opened at the end, to say how many proposals there were
                    assert part is None
                    assert self._hurt("receipt") or self._shown()
                    least = most
            else:
                least = most
                assert stopper == last
                self.complete = most
                self._check_values(dataset, slice(first * SIZE, min(last * SIZE, self.n)))
        location = locate(self.path)
        receipts = open_receipts(location) if read_record(location) else None
        self.complete = receipts.complete_chunks() if receipts else set()
        assert least <= self.complete <= most, (least, self.complete, most)

    def _check_values(self, dataset: Any, samples: slice) -> None:
        """Compare what can be read with the model."""
        values = self._values()
        assert set(dataset.data_vars) == set(values)
        assert dataset.sizes["batch"] == max(samples.stop - samples.start, 0)
        for chunk in self.complete - self.bad.keys():
            rows = self._rows(chunk)
            if samples.start <= rows.start and rows.stop <= samples.stop:
                found = dataset.isel(batch=slice(rows.start - samples.start, rows.stop - samples.start)).compute()
                for name, array in found.data_vars.items():
                    np.testing.assert_array_equal(array.values, values[str(name)][rows], err_msg=f"{name!r} in {chunk}")

    @rule(stop=st.sampled_from(STOPS), after=st.integers(0, 4), part=PARTS)
    def go_on(self, stop: str, after: int, part: Any) -> None:
        how = {**ALONE, "on_error": self.policy, "part": part}
        self._call(lambda: generate(self.simulator, self.path, self.n, **how), part, stop, after)

    @rule(more=st.integers(0, 9), stop=st.sampled_from(STOPS), after=st.integers(0, 4), part=PARTS)
    def make_longer(self, more: int, stop: str, after: int, part: Any) -> None:
        n, last = min(self.n + more, MOST), self.n // SIZE
        if stop == "crash" and after == 0 and n > self.n:
            with stopping(stop, after), pytest.raises(StoreError, match="cannot write to the store"):
                extend(self.path, self.simulator, n, **ALONE)
            return
        if n > self.n and self.n % SIZE and last not in self._hurt("receipt"):
            self.complete.discard(last)
            self.bad.pop(last, None)
        self.n = n
        self._call(lambda: extend(self.path, self.simulator, n, part=part, **ALONE), part, stop, after)

    @precondition(lambda self: self.policy == "raise" and not self.bad)
    @rule(policy=st.sampled_from(["mask", "redraw"]))
    def let_samples_fail(self, policy: str) -> None:
        self.policy, self.has_switched = policy, bool(self.complete)
        self.go_on("no", 0, None)

    @rule(pick=st.integers(0, 99), damage=st.sampled_from(list(DAMAGES)))
    def damage(self, pick: int, damage: str) -> None:
        sound = sorted(self.complete - self.bad.keys())
        if sound:
            chunk = sound[pick % len(sound)]
            what, how = DAMAGES[damage]
            how((receipt_files(self.path) if what == "receipt" else chunk_files(self.path, what))[chunk])
            self.bad[chunk] = damage

    @rule(pick=st.integers(0, 99))
    def lose_receipt(self, pick: int) -> None:
        if self.complete:
            chunk = sorted(self.complete)[pick % len(self.complete)]
            receipt_files(self.path)[chunk].unlink()
            self.complete.discard(chunk)
            self.bad.pop(chunk, None)

    @rule(part=PARTS)
    def repair(self, part: Any) -> None:
        n_chunks = -(-self.n // SIZE)
        first, last = (0, n_chunks) if part is None else (i * n_chunks // part[1] for i in (part[0], part[0] + 1))
        for chunk in [chunk for chunk in self.bad if first <= chunk < last]:
            del self.bad[chunk]
            self.complete.discard(chunk)
        how = {**ALONE, "on_error": self.policy, "part": part, "repair": True}
        self._call(lambda: generate(self.simulator, self.path, self.n, **how), part)

    @rule(seed=st.integers(1, 3), n=st.integers(3, 20))
    def overwrite(self, seed: int, n: int) -> None:
        (self.path / "notes.txt").write_text("of the user")
        self._new(seed, n)
        self._call(lambda: generate(self.simulator, self.path, n, seed=seed, overwrite=True, **OPTIONS))
        assert (self.path / "notes.txt").read_text() == "of the user"
        (self.path / "notes.txt").unlink()

    @invariant()
    def verify_finds_what_is_damaged_and_nothing_else(self) -> None:
        found = verify(self.path)
        assert found.problems.keys() == self.bad.keys()
        assert found.n_checked == len(self.complete)
        for chunk, damage in self.bad.items():
            assert DAMAGES[damage][0] in found.problems[chunk][0]

    @invariant()
    def status_counts_and_what_is_opened_has_the_values(self) -> None:
        if self._hurt("receipt"):
            for call in (status, open_dataset):
                with pytest.raises((StoreError, IncompleteStoreError), match=r"are damaged; .*repair|of \d+ chunks?"):
                    call(self.path)
            return
        found = status(self.path)
        assert {c for first, last in found.missing for c in range(first, last + 1)} == set(
            range(found.n_chunks)
        ) - self.complete
        assert (found.n_samples, found.n_complete) == (self.n, len(self.complete))
        sizes = [self._rows(chunk).stop - self._rows(chunk).start for chunk in self.complete]
        assert found.n_complete_samples == found.n_proposals == sum(sizes)
        if self.policy == "mask":
            assert found.n_failed == sum(int((~self._values()["valid"][self._rows(c)]).sum()) for c in self.complete)
        assert found.damaged.keys() == self._shown()
        assert found.is_complete == (len(self.complete) == found.n_chunks and not found.damaged)
        if found.is_complete:
            self._check_values(open_dataset(self.path), slice(0, self.n))
            if not self.bad and not self.has_switched and self.simulator is FRAGILE:
                # a run that was cut off after its last chunk has not told the root yet
                untold = {"zarr.json"} if self.is_cut_off else set()
                whole, own = at_once(self.seed, self.policy, self.n), finished_bytes(self.path)
                assert {name: own[name] for name in own.keys() - untold} == {n: whole[n] for n in whole.keys() - untold}
        elif len(self.complete) == found.n_chunks:
            with pytest.raises(StoreError, match=r"is damaged: chunk .*repair=True"):
                open_dataset(self.path)
        else:
            with pytest.raises(IncompleteStoreError, match=f"has {len(self.complete)} of {found.n_chunks} chunks?"):
                open_dataset(self.path)

    @invariant()
    def nothing_else_is_touched(self) -> None:
        assert sorted(file.name for file in self.folder.iterdir()) == ["precious.txt", "s.zarr"]
        assert (self.folder / "precious.txt").read_text() == "!"


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=4, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@pytest.mark.slow
def test_many_more_orders_of_what_can_be_done() -> None:
    many = settings(TestStoreMachine.settings, max_examples=200, stateful_step_count=25, derandomize=False)
    run_state_machine_as_test(StoreMachine, settings=many)

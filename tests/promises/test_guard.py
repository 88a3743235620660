"""What runs without the lock is run once, or once more where the generators of the process were moved meanwhile."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from bits import bits

import dasksim
from dasksim._streams.addresses import Address, stage_key
from dasksim._streams.isolation import Isolated, run_all

N_FUNCTIONS = 8


@contextmanager
def another_thread_draws() -> Iterator[None]:
    """Draw from ``numpy.random`` in another thread all the time."""
    has_begun, has_ended = threading.Event(), threading.Event()

    def draw() -> None:
        while not has_ended.wait(0.0002):  # to go on at once would hold up the others
            np.random.random()
            has_begun.set()

    thread = threading.Thread(target=draw)
    thread.start()
    has_begun.wait()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


def counting(name: str, calls: list[str]) -> Callable[..., Any]:
    def function(rng: np.random.Generator) -> Any:
        calls.append(name)
        return {name: rng.normal()}

    function.__name__ = f"make_{name}"
    return function


@pytest.mark.parametrize("on_error", ["raise", "mask"])
def test_a_chunk_runs_at_most_twice_while_another_thread_draws(tmp_path: Any, on_error: Any) -> None:
    calls: list[str] = []
    simulator = dasksim.make_simulator([counting(f"v{i}", calls) for i in range(N_FUNCTIONS)])
    how: dict[str, Any] = {"seed": 1, "sub_batch_size": 5, "chunk_size": 10, "scheduler": "synchronous"}
    expected = bits(simulator.sample(20, seed=1, sub_batch_size=5, chunk_size=10), scheduler="synchronous")
    calls.clear()

    with another_thread_draws():
        made = dasksim.generate(simulator, tmp_path / "s.zarr", 20, on_error=on_error, audit=False, **how)

    n_probes = 1 if on_error == "raise" else 2
    assert N_FUNCTIONS * 20 <= len(calls) <= N_FUNCTIONS * (2 * 20 + 2 * n_probes)
    assert {name: bits(made)[name] for name in expected} == expected


def test_work_with_many_functions_is_done_at_most_twice() -> None:
    functions = [Isolated(lambda i=i: i) for i in range(N_FUNCTIONS)]
    runs: list[bool] = []

    def work(watch: bool) -> list[int]:
        runs.append(watch)
        np.random.random()  # as another thread of the caller might
        return call_all(functions, watch)

    assert run_all(functions, work) == list(range(N_FUNCTIONS))
    assert runs == [False, True]


def call_all(functions: list[Isolated], watch: bool) -> list[int]:
    made = []
    for i, function in enumerate(functions):
        with function.at(Address(6, stage_key(f"f{i}"), 0), watch=watch) as called:
            made.append(called())
    return made


def test_work_that_draws_from_nothing_of_the_process_is_done_once() -> None:
    functions = [Isolated(lambda i=i: i) for i in range(N_FUNCTIONS)]
    runs: list[bool] = []

    run_all(functions, lambda watch: runs.append(watch))

    assert runs == [False]


def test_of_many_functions_the_one_that_draws_is_found() -> None:
    def draws() -> float:
        import numpy

        return numpy.random.random()

    functions = [Isolated(lambda: 1), Isolated(draws), Isolated(lambda: 2)]
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)

    first = run_all(functions, lambda watch: call_all(functions, watch))
    second = run_all(functions, lambda watch: call_all(functions, watch))

    assert [function.uses_globals for function in functions] == [False, True, False]
    assert first == second
    assert np.random.random() == expected  # what the unwatched run drew is put back


def test_an_error_of_work_that_moved_the_generators_is_that_of_the_watched_run() -> None:
    def work(watch: bool) -> None:
        np.random.random()
        raise ValueError(f"watched: {watch}")

    with pytest.raises(ValueError, match="watched: True"):
        run_all([Isolated(lambda: 1), Isolated(lambda: 2)], work)


def test_functions_in_other_sets_do_not_wait_for_each_other() -> None:
    outer, inner = Isolated(lambda: 1), Isolated(lambda: 2)

    def nested(watch: bool) -> int:
        np.random.random()
        return 1

    assert run_all([outer], lambda watch: run_all([inner], nested)) == 1

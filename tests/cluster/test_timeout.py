"""A sample that takes too long is ended, whatever it does."""

import ctypes
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import array_bytes

from dasksim import Simulator, generate, make_simulator, replay, status

HOW: dict[str, Any] = {"seed": 1, "sub_batch_size": 10, "chunk_size": 20, "progress": False}

#: Above this is one sample of this seed; each costs a test the time until it is ended.
LIMIT = 1.8


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal()}


def hanging(how: str, limit: float) -> Simulator:
    def simulate(theta: float, rng: np.random.Generator) -> dict[str, Any]:
        if theta > limit:
            if how == "sleep":
                time.sleep(1e6)
            ctypes.PyDLL(None).pause()  # with the interpreter's lock held
        return {"x": theta + rng.normal()}

    return make_simulator([prior, simulate])


def expected_mask(limit: float, path: Path) -> np.ndarray[Any, Any]:
    theta = generate(make_simulator([prior]), path, 60, scheduler="synchronous", **HOW).theta.values[:, 0]
    return np.asarray(theta > limit)


@pytest.mark.parametrize(
    ("how", "scheduler"),
    [
        pytest.param("sleep", "synchronous", marks=pytest.mark.slow),
        ("pause", "threads"),
        pytest.param("sleep", "processes", marks=pytest.mark.slow),
    ],
)
def test_samples_that_hang_are_masked(how: str, scheduler: str, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    ds = generate(hanging(how, LIMIT), path, 60, scheduler=scheduler, timeout=3, on_error="mask", **HOW)

    mask = expected_mask(LIMIT, tmp_path / "prior.zarr")
    assert 0 < mask.sum() < 60
    np.testing.assert_array_equal(ds.valid.values, ~mask)
    np.testing.assert_array_equal(np.isnan(ds.x.values[:, 0]), mask)
    (failure,) = status(path).failures
    assert (failure.kind, failure.message, failure.count) == ("TimeoutError", "no result within 3 s", mask.sum())


@pytest.mark.slow  # as test_hangs has it on one scheduler
def test_hanging_is_an_error_that_says_where(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="no result within 3 s") as caught:
        generate(hanging("sleep", LIMIT), tmp_path / "s.zarr", 60, scheduler="synchronous", timeout=3, **HOW)

    assert any("dasksim.replay(" in note for note in caught.value.__notes__)


@pytest.mark.slow
def test_bits_do_not_depend_on_a_timeout_that_is_not_reached(tmp_path: Path) -> None:
    simulator = hanging("sleep", 100.0)
    generate(simulator, tmp_path / "timed.zarr", 50, scheduler="threads", timeout=60, **HOW)
    generate(simulator, tmp_path / "plain.zarr", 50, scheduler="synchronous", **HOW)

    assert array_bytes(tmp_path / "timed.zarr") == array_bytes(tmp_path / "plain.zarr")


@pytest.mark.slow
def test_exceptions_come_out_of_the_process_as_themselves(tmp_path: Path) -> None:
    def fails(theta: float) -> dict[str, Any]:
        if theta > LIMIT:
            raise ZeroDivisionError("of the function's own")
        return {"pid": os.getpid()}

    simulator = make_simulator([prior, fails])
    path = tmp_path / "s.zarr"
    with pytest.raises(ZeroDivisionError, match="of the function's own") as caught:
        generate(simulator, path, 60, scheduler="synchronous", timeout=60, **HOW)

    note = "\n".join(caught.value.__notes__)
    assert "raised by stage 'fails' at sample " in note
    sample = int(note.partition("sample=")[2].partition(")")[0])
    with pytest.raises(ZeroDivisionError, match="of the function's own"):
        replay(path, simulator, sample)

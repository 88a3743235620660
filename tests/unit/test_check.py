"""A simulator is tried before a long run."""

import contextlib
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dasksim
from dasksim import ArgumentError, ArgumentTypeError, check, make_simulator
from dasksim.cli import main
from dasksim.models import two_moons

Rng = np.random.Generator


def prior(rng: Rng) -> dict[str, Any]:
    return {"theta": rng.normal(size=2)}


def likelihood(theta: Any, rng: Rng) -> dict[str, Any]:
    return {"x": rng.normal(theta), "n": 3}


def by_the_process(theta: Any) -> dict[str, Any]:
    return {"x": theta + os.getpid()}


def by_the_clock(theta: Any) -> dict[str, Any]:
    return {"x": theta + time.perf_counter_ns()}


class Shared:
    """What threads share."""

    latest: Any = None


def shared(theta: Any) -> dict[str, Any]:
    Shared.latest = theta
    time.sleep(0.005)
    return {"x": Shared.latest + 1}


def test_what_is_reproducible_is_said_to_be() -> None:
    found = check(make_simulator([prior, likelihood]), 20, seed=1)

    assert found.is_good
    assert found.n_samples == 20
    assert found.sample_bytes == 40
    assert [stage.name for stage in found.stages] == ["prior", "likelihood"]
    assert found.stages[1].makes == ("x float64 2", "n int64 1")
    assert found.stages[0].draws_from == ("rng",)
    assert len(re.findall(r"^the same bits  ", str(found), re.MULTILINE)) == 4
    assert "DIFFERS" not in str(found)


@pytest.mark.parametrize(
    ("function", "ways", "cause"),
    [
        (by_the_process, ["in another process", "in a second one"], "they depend on the process"),
        (by_the_clock, ["alone", "beside", "in another", "in a second"], "Each call gives other values"),
        (shared, ["beside"], "threads get into each other's way"),
    ],
)
def test_what_differs_is_told_by_the_way(function: Any, ways: list[str], cause: str) -> None:
    with pytest.warns() if function is by_the_clock else contextlib.nullcontext():
        found = check(make_simulator([prior, function]), 12, seed=1)

    assert not found.is_good
    assert len(found.differences) == len(ways)
    assert all(way.startswith(start) for way, start in zip(found.differences, ways, strict=True))
    assert str(found).count(cause) == 1
    assert f"stage {function.__name__!r}: x = [" in str(found)


def test_sources_are_told() -> None:
    own = np.random.default_rng(1)

    def draws(seed: int) -> dict[str, Any]:
        return {"x": own.normal() + np.random.normal() + seed % 2}

    found = check(make_simulator(draws), 5)

    assert found.stages[0].draws_from == (
        "seed",
        "a Generator that it reaches",
        "the generators of the process, such as numpy.random's",
    )


def test_what_repeats_or_fails_or_is_not_finite_is_counted() -> None:
    def fragile(theta: Any) -> dict[str, Any]:
        if theta[0] > 1.0:
            raise ValueError("too large")
        return {"y": np.nan if theta[0] < -1.0 else 1.0}

    found = check(make_simulator([prior, fragile]), 100, seed=1)

    assert found.is_good
    assert found.failures[0].count > 0
    assert "\nfailed      " in str(found)
    assert found.n_nonfinite > 0
    assert found.n_repeated == 0
    assert check(make_simulator(lambda rng: {"coin": rng.integers(2)}), 100, seed=1).n_repeated == 98


def test_what_cannot_be_sent_is_not_tried_elsewhere() -> None:
    lock = threading.Lock()

    def held(rng: Rng) -> dict[str, Any]:
        with lock:
            return {"x": rng.normal()}

    found = check(make_simulator(held), 5)

    assert found.is_good
    assert len(found.not_tried) == 2
    assert "not tried" in str(found)
    assert "cannot be sent to another process" in str(found)


def test_default_number_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dasksim._operations.check._SECONDS", 0.2)

    def slow(rng: Rng) -> dict[str, Any]:
        time.sleep(0.02)
        return {"x": rng.normal()}

    assert check(make_simulator(slow)).n_samples <= 10
    assert check(make_simulator([prior, likelihood])).n_samples == 200
    assert check(two_moons(), sub_batch_size=100).n_samples == 300


def test_conditions_are_given() -> None:
    found = check(make_simulator([prior, likelihood]), 3, conditions={"theta": np.ones((3, 2))})

    assert found.is_good
    assert [stage.name for stage in found.stages] == ["likelihood"]


def test_arguments_are_checked() -> None:
    with pytest.raises(ArgumentTypeError, match="simulator must be a Simulator"):
        check(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="conditions must be a mapping"):
        check(make_simulator(prior), conditions=3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="n_samples"):
        check(make_simulator(prior), 0)


MODULE = """
import os
def good(rng): return {"x": rng.normal()}
def bad(rng): return {"x": rng.normal() + os.getpid()}
"""


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model_to_check.py"
    file.write_text(MODULE)

    assert main(["check", f"{file}:good", "-n", "10", "--seed", "1"]) == 0
    assert "simulated   10 samples, in 5 ways" in capsys.readouterr().out
    assert main(["check", f"{file}:bad", "-n", "10"]) == 4
    assert "DIFFERS" in capsys.readouterr().out
    store = str(tmp_path / "s.zarr")
    assert main(["generate", f"{file}:bad", store, "-n", "20", "--scheduler", "synchronous"]) == 4
    assert "came out otherwise" in capsys.readouterr().err
    how = ["--scheduler", "synchronous", "--overwrite", "--audit", "no"]
    assert main(["generate", f"{file}:bad", store, "-n", "20", *how]) == 0
    assert "audited  no" in capsys.readouterr().err
    assert dasksim.status(store).audit is None

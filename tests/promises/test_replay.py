"""One sample again: the same as in the store, or the exception that it raised, with all that leads there."""

import pickle
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import file_bytes, receipt_files
from distributed import Client
from processes import run_python
from streams import seeds_of
from variants import quick
from zoo.classes import Kind, kinds
from zoo.failing import MASK, REDRAW, HasALockError, chain, comparison, failing, made

import dasksim
from dasksim import (
    ArgumentError,
    ArgumentTypeError,
    OutputError,
    RejectionSimulator,
    Simulator,
    StoreMismatchError,
    make_simulator,
    replay,
)

Rng = np.random.Generator


@kinds
def test_replay_agrees_with_the_store(kind: Kind, tmp_path: Path) -> None:
    dataset = made(kind.make(), tmp_path / "s.zarr", (21, *kind.further)).compute()
    before = file_bytes(tmp_path / "s.zarr")
    for sample in (7, 20):
        found = replay(tmp_path / "s.zarr", kind.make(), sample)
        assert (found.sample, found.sub_batch, found.is_stored) == (sample, sample // 8, True)
        for name, value in found.variables.items():
            np.testing.assert_array_equal(value, dataset[name][sample])
        shown = str(found)
        assert shown.startswith(f"sample {sample} of sub-batch {sample // 8}: the same in the store, bit by bit\n")
        assert not re.search(r"(<-|->) \S*/", shown), "names of hidden variables are shown"
        assert {line.split()[1] for line in shown.splitlines() if line.strip().startswith("->")} >= set(dataset)
    assert file_bytes(tmp_path / "s.zarr") == before


@failing
@pytest.mark.parametrize("policy", [MASK, pytest.param(REDRAW, marks=pytest.mark.slow)], ids=["mask", "redraw"])
def test_replay_agrees_where_other_samples_fail(kind: Kind, policy: dict[str, str], tmp_path: Path) -> None:
    dataset = made(kind.make(), tmp_path / "s.zarr", (21, *kind.further), **policy).compute()
    valid = dataset.valid.values if "valid" in dataset else np.ones(21, bool)
    for sample in {int(np.argmin(valid)), int(np.argmax(valid)), 20}:
        if not valid[sample]:
            with pytest.raises((ValueError, OutputError), match=r"more than|NaN or infinite"):
                replay(tmp_path / "s.zarr", kind.make(), sample)
        else:
            assert replay(tmp_path / "s.zarr", kind.make(), sample).is_stored


def wide(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
    x = rng.normal(size=batch_shape)
    if x.max() > 2.0:
        raise ValueError("more than 2.0")
    return {"x": x}


def late() -> Simulator:
    """A simulator that fails at one of the later samples, whatever the probe."""

    def observe(theta: float, rng: Rng) -> dict[str, Any]:
        x = theta + rng.normal()
        if x > 3.5:
            raise ValueError(f"x = {x!r} is more than 3.5")
        return {"x": x}

    return make_simulator([lambda rng: {"theta": rng.normal()}, observe])


STOPPED: dict[str, tuple[Callable[[], Simulator], Any]] = {
    "late": (late, 400),
    "batched": (lambda: make_simulator(wide, is_batched=True), 80),
    "comparison": (lambda: dasksim.ModelComparisonSimulator({"plain": late(), "shifted": late()}), 1000),
    "unmixed": (lambda: dasksim.ModelComparisonSimulator([late(), late()], use_mixed_batches=False), 400),
    "rejection": (lambda: RejectionSimulator(late(), lambda x: x > 0), 400),
}


def stopped(simulator: Simulator, store: Path, n: Any, **options: Any) -> Exception:
    with pytest.raises(ValueError, match="more than") as found:
        made(simulator, store, n, **options)
    return found.value


def pasted(error: Exception, simulator: Simulator, **names: Any) -> Any:
    """Run the line that a note offers."""
    notes = "\n".join(error.__notes__)
    lines = [line.strip() for line in notes.splitlines() if line.strip().startswith("dasksim.replay(")]
    assert len(lines) == 1, notes
    return eval(lines[0], {"dasksim": dasksim, "simulator": simulator, **names})


@pytest.mark.parametrize(("make", "n"), STOPPED.values(), ids=STOPPED)
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_line_of_an_exception_raises_it_again(
    make: Callable[[], Simulator], n: Any, scheduler: str, tmp_path: Path
) -> None:
    error = stopped(make(), tmp_path / "s.zarr", n, scheduler=scheduler)
    with pytest.raises(type(error), match=re.escape(str(error))) as again:
        pasted(error, make())
    assert traceback.extract_tb(again.value.__traceback__)[-1].name in ("observe", "wide")


@pytest.mark.parametrize("name", ["late", "comparison"])
def test_notes_tell_stage_sub_batch_sample_and_its_inputs(name: str, tmp_path: Path) -> None:
    make, n = STOPPED[name]
    notes = "\n".join(stopped(make(), tmp_path / "s.zarr", n).__notes__)
    found = re.search(r"raised by stage '(\w+/)?observe' at sample (\d+), whose inputs are theta=([-.\d]+)", notes)
    assert found
    sample = int(found[2])
    assert f"sub-batch {sample // 8} (samples {sample // 8 * 8} to {sample // 8 * 8 + 7})" in notes
    assert f"simulator, sample={sample})" in notes


@pytest.mark.parametrize("scheduler", quick(["processes", "cluster"], "cluster"))
def test_exceptions_of_workers_keep_what_they_say(scheduler: str, two_workers: Client, tmp_path: Path) -> None:
    where = two_workers if scheduler == "cluster" else scheduler

    def observe(theta: float) -> dict[str, Any]:
        if theta == 9.0 and kind is HasALockError:
            raise HasALockError(f"theta = {theta!r}")
        if theta == 9.0:
            raise KeyError("unknown", theta)
        return {"x": theta}

    with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock' object"):
        pickle.dumps(HasALockError(""))
    conditions = {"theta": np.arange(20.0)}
    for kind, text in ((KeyError, "unknown"), (HasALockError, "theta = ")):
        simulator = make_simulator(observe)
        with pytest.raises(kind, match=text) as found:
            made(simulator, tmp_path / kind.__name__, 20, conditions=conditions, scheduler=where)
        notes = "\n".join(found.value.__notes__)
        assert "raised by stage 'observe' at sample 9, whose inputs are theta=9.0" in notes
        with pytest.raises(kind, match=text):
            pasted(found.value, simulator, conditions=conditions)


def test_run_goes_on_once_the_function_finds_what_it_lacked(tmp_path: Path) -> None:
    def look_up(rng: Rng) -> dict[str, Any]:
        x = rng.uniform()
        if x > 0.99:
            return {"x": float((tmp_path / "table.txt").read_text())}
        return {"x": x}

    simulator = make_simulator(look_up)
    with pytest.raises(FileNotFoundError, match=r"table\.txt"):
        made(simulator, tmp_path / "s.zarr", 200, seed=6)
    n_complete = dasksim.status(tmp_path / "s.zarr").n_complete
    assert n_complete > 0
    (tmp_path / "table.txt").write_text("7.0")
    receipts = {chunk: file.read_bytes() for chunk, file in receipt_files(tmp_path / "s.zarr").items()}
    found = made(simulator, tmp_path / "s.zarr", 200, seed=6).compute()
    assert (found.x == 7.0).any()
    assert all(receipt_files(tmp_path / "s.zarr")[chunk].read_bytes() == content for chunk, content in receipts.items())


def test_sample_that_is_not_finite_is_named(tmp_path: Path) -> None:
    simulator = make_simulator([lambda rng: {"a": rng.uniform()}, lambda a: {"b": np.inf if a > 0.97 else a}])
    with pytest.raises(
        OutputError, match=r"'b' with NaN or infinite values at sample \d+, whose inputs are a="
    ) as found:
        made(simulator, tmp_path / "s.zarr", 200, on_nonfinite="raise")
    with pytest.raises(OutputError, match=re.escape(str(found.value))):
        pasted(found.value, simulator)


def test_failure_beyond_the_end_can_be_replayed(tmp_path: Path) -> None:
    def observe(theta: float, seed: int) -> dict[str, Any]:
        if seed in beyond:
            raise ValueError("is more than there are")
        return {"x": theta}

    def total(batch_shape: tuple[int, ...], x: Any) -> dict[str, Any]:
        return {"total": 2 * x}

    beyond = seeds_of("observe", range(13, 16))
    stages = [lambda rng: {"theta": rng.normal()}, observe, total]
    simulator = make_simulator(stages, obj_kwargs=[None, None, {"is_batched": True}])
    error = stopped(simulator, tmp_path / "s.zarr", 12)
    assert "(samples 8 to 11, and more beyond the end, 13 among them, since batched stages need them)" in str(
        error.__notes__
    )
    with pytest.raises(ValueError, match="is more than there are"):
        pasted(error, simulator)
    with pytest.raises(ArgumentError, match="sample must be a number from 0 to 11; got 12"):
        replay(tmp_path / "s.zarr", simulator, 12)


def test_sample_of_a_chunk_that_is_missing_is_simulated(tmp_path: Path) -> None:
    dataset = made(chain(), tmp_path / "s.zarr", 40, **MASK).compute()
    receipt_files(tmp_path / "s.zarr")[1].unlink()
    sample = 16 + int(np.argmax(dataset.valid.values[16:]))
    found = replay(tmp_path / "s.zarr", chain(), sample)
    assert not found.is_stored
    assert str(found).startswith(f"sample {sample} of sub-batch {sample // 8}: not in the store yet\n")
    assert found.variables["theta"] == dataset.theta.values[sample]


def test_simulator_that_has_changed_is_noticed(tmp_path: Path) -> None:
    made(make_simulator([lambda rng: {"a": rng.normal()}, lambda a: {"b": a}]), tmp_path / "s.zarr", 20)
    changed = make_simulator([lambda rng: {"a": rng.normal()}, lambda a: {"b": 2 * a}])
    with pytest.raises(StoreMismatchError, match=r"differs from the store:\n  b: .* now, .* in the store") as e:
        replay(tmp_path / "s.zarr", changed, 3)
    assert "stage '<lambda>_2': its source, its arguments or what it captures have changed" in str(e.value)
    with pytest.raises(StoreMismatchError, match=r"has the variables \['a', 'b'\] and was made with the conditions"):
        replay(tmp_path / "s.zarr", make_simulator(lambda rng: {"a": rng.normal()}), 3)


def test_masked_sample_that_does_not_fail_now_is_told_apart(tmp_path: Path) -> None:
    def observe(rng: Rng) -> dict[str, Any]:
        if (tmp_path / "slow").exists() and rng.uniform() > 0.5:
            raise OSError("the disk is slow")
        return {"x": 1.0}

    (tmp_path / "slow").touch()
    dataset = made(make_simulator(observe), tmp_path / "s.zarr", 20, **MASK)
    (tmp_path / "slow").unlink()
    sample = int(np.argmin(dataset.valid.values))
    with pytest.raises(StoreMismatchError, match=f"sample {sample} is masked in the store, but did not fail now; did"):
        replay(tmp_path / "s.zarr", make_simulator(observe), sample)


def test_replay_takes_the_conditions_of_the_store(tmp_path: Path) -> None:
    simulator = make_simulator([lambda rng: {"a": rng.normal()}, lambda a, level: {"b": a * level}])
    conditions = {"a": np.arange(20.0), "level": 2.0}
    made(simulator, tmp_path / "s.zarr", 20, conditions=conditions)
    assert replay(tmp_path / "s.zarr", simulator, 13, conditions=conditions).variables["b"] == 26.0
    with pytest.raises(StoreMismatchError, match="was made with the conditions"):
        replay(tmp_path / "s.zarr", simulator, 13, conditions={**conditions, "level": 3.0})


@pytest.mark.parametrize(("sample", "error"), [(-1, ArgumentError), (20, ArgumentError), ("3", ArgumentTypeError)])
def test_samples_that_there_are_not_are_refused(sample: Any, error: type[Exception], tmp_path: Path) -> None:
    simulator = make_simulator(lambda rng: {"x": rng.normal()})
    made(simulator, tmp_path / "s.zarr", 20)
    with pytest.raises(error, match="sample must be"):
        replay(tmp_path / "s.zarr", simulator, sample)


def test_large_values_are_shown_in_few_lines(tmp_path: Path) -> None:
    simulator = make_simulator([lambda rng: {"image": rng.normal(size=(50, 60))}, lambda image: {"n": 3}])
    made(simulator, tmp_path / "s.zarr", 20)
    lines = str(replay(tmp_path / "s.zarr", simulator, 3)).splitlines()
    assert len(lines) == 6
    assert re.fullmatch(r"    -> image = \[ *(\S+ +){3}\.\.\. +\S+ +\S+ +\S+ *\] of shape \(50, 60\)", lines[2])


def test_model_of_the_sample_is_shown_alone(tmp_path: Path) -> None:
    dataset = made(comparison(), tmp_path / "s.zarr", 20, on_error="redraw").compute()
    for sample in (2, 3, 4, 5):
        model = "plain" if dataset.model_indices.values[sample, 0] else "shifted"
        names = [stage.name for stage in replay(tmp_path / "s.zarr", comparison(), sample).stages]
        assert names == ["choice", model, "merge"]


# The command line.

TARGET = """
def prior(rng):
    return {"theta": rng.normal()}

def observe(theta, rng):
    if theta > 2:
        raise ValueError(f"theta = {theta} is more than 2")
    return {"x": theta + rng.normal()}
"""


def test_command_line_replays_and_debugs(tmp_path: Path) -> None:
    (tmp_path / "target.py").write_text(f"{TARGET}\nsimulator = [prior, observe]\n")
    target, store = f"{tmp_path / 'target.py'}:simulator", str(tmp_path / "s.zarr")
    command = ["-m", "dasksim", "replay", target, store]
    options = ["-n", "100", "--seed", "1", "--on-error", "mask", "--scheduler", "threads"]
    done = run_python("-m", "dasksim", "generate", target, store, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    dataset = dasksim.open_dataset(store)
    good, bad = int(np.argmax(dataset.valid.values)), int(np.argmin(dataset.valid.values))

    shown = run_python(*command, str(good), cwd=tmp_path)
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[0] == f"sample {good} of sub-batch 0: the same in the store, bit by bit"

    failed = run_python(*command, str(bad), cwd=tmp_path)
    assert failed.returncode == 1
    assert "in observe" in failed.stderr
    assert "is more than 2" in failed.stderr

    asked = [sys.executable, *command, str(bad), "--pdb"]
    debugged = subprocess.run(asked, capture_output=True, text=True, check=False, input="p theta\nq\n")
    assert debugged.returncode == 2
    assert "raise ValueError" in debugged.stderr
    assert re.search(r"\(Pdb\) [23]\.", debugged.stdout)

    missing = run_python(*command, "100", cwd=tmp_path)
    assert missing.returncode == 2
    assert missing.stderr == "dasksim: sample must be a number from 0 to 99; got 100\n"

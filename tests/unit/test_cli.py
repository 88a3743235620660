"""The command line: what it does, what it prints where, and its exit codes."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
import pytest
from bits import age_unfinished, array_bytes, finished_bytes
from processes import ended, run_python, wait_for
from variants import quick

import dasksim
from dasksim._core.telling import counted
from dasksim._execution.progress import Progress
from dasksim.cli import FAILED, INCOMPLETE, INTERRUPTED, OK, RAISED, main
from dasksim.cli._words import count

MODEL = """
    def prior(rng):
        return {"theta": rng.normal()}

    def likelihood(theta, rng):
        return {"x": rng.normal(theta, size=3)}

    model = [prior, likelihood]
    simulator = __import__("dasksim").make_simulator(model)

    class Holder:
        inner = simulator
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a file of simulators and a package of the same."""
    (tmp_path / "simulator_file.py").write_text(textwrap.dedent(MODEL))
    (tmp_path / "simulator_package").mkdir()
    (tmp_path / "simulator_package" / "__init__.py").write_text("")
    (tmp_path / "simulator_package" / "models.py").write_text(textwrap.dedent(MODEL))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("simulator_")]:
        del sys.modules[name]


def generate(target: str, store: str, *options: str) -> int:
    return main(["generate", target, store, "-n", "40", "--seed", "1", "--sub-batch-size", "8", *options])


def run(*arguments: str, cwd: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return run_python("-W", "error", "-m", "dasksim", *arguments, cwd=cwd, timeout=timeout)


# generate


def test_generate_makes_a_store_of_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("two_moons", "s.zarr", "--chunk-size", "16", "--dtype", "float64") == OK

    captured = capsys.readouterr()
    dataset = dasksim.open_dataset("s.zarr")
    assert captured.out == ""
    assert "s.zarr: complete" in captured.err
    assert "samples  40 of 40" in captured.err
    assert "chunks   3 of 3 (of 16 samples)" in captured.err
    assert dataset.sizes["batch"] == 40
    assert dataset.parameters.dtype == "float64"


@pytest.mark.parametrize(
    "target",
    [
        "simulator_file.py:model",
        "simulator_file.py:simulator",
        "simulator_file.py:Holder.inner",
        "./simulator_file.py:model",
        "simulator_package.models:model",
        "simulator_package.models:Holder.inner",
    ],
)
def test_targets_of_all_forms_name_one_simulator(target: str, folder: Path) -> None:
    assert generate(target, "s.zarr", "--scheduler", "synchronous") == OK

    expected = dasksim.make_simulator([_prior, _likelihood]).sample(40, seed=1, sub_batch_size=8).compute()
    for name, array in dasksim.open_dataset("s.zarr").items():
        np.testing.assert_array_equal(array, expected[name])


def _prior(rng: np.random.Generator) -> dict[str, object]:
    return {"theta": rng.normal()}


def _likelihood(theta: float, rng: np.random.Generator) -> dict[str, object]:
    return {"x": rng.normal(theta, size=3)}


_prior.__name__, _likelihood.__name__ = "prior", "likelihood"


def test_a_plain_function_is_a_target(folder: Path) -> None:
    assert generate("simulator_file.py:prior", "s.zarr", "--scheduler", "synchronous") == OK

    assert dasksim.open_dataset("s.zarr").theta.dims == ("batch",)


@pytest.mark.parametrize("target", ["simulator_file.py:model", "simulator_package.models:model"])
def test_worker_processes_find_what_lies_in_the_current_folder(target: str, folder: Path) -> None:
    done = run("generate", target, "s.zarr", "-n", "40", "--seed", "1", "--scheduler", "processes", cwd=folder)

    assert done.returncode == OK, done.stderr
    assert dasksim.status("s.zarr").is_complete


def test_generate_goes_on_with_a_store_and_overwrites_on_demand(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("two_moons", "s.zarr") == OK
    assert generate("two_moons", "s.zarr") == OK
    assert main(["generate", "two_moons", "s.zarr", "-n", "80"]) == FAILED
    assert "--n-samples: 40 in the store, 80 asked for" in capsys.readouterr().err
    assert main(["generate", "two_moons", "s.zarr", "-n", "80", "--overwrite", "--no-progress"]) == OK
    assert dasksim.status("s.zarr").n_samples == 80


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "two_moon",
            "target 'two_moon' is no model, and no package.module:object or file.py:object; did you mean 'two_moons'?",
        ),
        ("simulator_file.py:", "target 'simulator_file.py:' is no model"),
        (":model", "target ':model' is no model"),
        ("simulator_file.py:modle", "'simulator_file.py' has no 'modle'; did you mean 'model'?"),
        ("simulator_file.py:model.copi", "'simulator_file.py' has no 'copi'; did you mean 'copy'?"),
        (
            "simulator_file.py:likelihood",
            "stage 'likelihood' needs 'theta', but no earlier stage, context or condition",
        ),
        ("simulator_file.py:__doc__", "cannot make a simulator of None; give a function, a Simulator, or a sequence"),
        ("absent.py:model", "there is no file 'absent.py'; known: 'simulator_file.py'"),
        ("absent_package:model", "cannot import 'absent_package': No module named 'absent_package'"),
        ("simulator_package.modles:model", "cannot import 'simulator_package.modles': No module named"),
    ],
)
def test_a_bad_target_is_explained_on_stderr(
    target: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(target, "s.zarr") == FAILED

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"dasksim: {message}")
    assert not Path("s.zarr").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "--seed must be >= 0; got -1"),
        (["--chunk-size", "12"], "--chunk-size 12 is not a multiple of --sub-batch-size 8; use 8 or 16, or leave"),
        (["--dtype", "flaot32"], "--dtype must hold NumPy dtypes; got 'flaot32'"),
        (["--scheduler", "thread"], "--scheduler must be one of 'synchronous', 'threads', 'processes' or an address"),
        (["-n", "0"], "--n-samples must be >= 1; got 0"),
    ],
)
def test_a_bad_option_is_explained_on_stderr(
    options: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("two_moons", "s.zarr", *options) == FAILED

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"dasksim: {message}")
    assert not Path("s.zarr").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "dasksim: the following arguments are required: COMMAND\nusage: dasksim "),
        (
            ["generate", "two_moons", "s.zarr"],
            "dasksim generate: the following arguments are required: -n/--n-samples\n",
        ),
        (
            ["generate"],
            "-n/--n-samples\nusage: dasksim generate TARGET STORE -n N [options]\ndasksim generate --help tells",
        ),
        (["statsu", "s.zarr"], "); did you mean 'status'?\n"),
        (["status", "s.zarr", "--jsn"], "dasksim status: unrecognized arguments: --jsn; did you mean '--json'?\n"),
        (["status", "s.zarr", "--qqq"], "dasksim status: unrecognized arguments: --qqq\n"),
        (["generate", "sir", "s.zarr", "-n1", "--sed=2"], "unrecognized arguments: --sed=2; did you mean '--seed'?\n"),
        (["generate", "sir", "s.zarr", "-n", "1e400"], "argument -n/--n-samples: must be a whole number, such as 1000"),
        (["generate", "sir", "s.zarr", "-n1", "--on-error", "redaw"], "did you mean 'redraw'?"),
        (
            ["generate", "sir", "s.zarr", "-n1", "--part", "2/2"],
            "must be i/m with 0 <= i < m, such as 0/4 for the first",
        ),
        (
            ["generate", "sir", "s.zarr", "-n1", "--timeout", "soon"],
            "must be a number of seconds greater than 0; got 'soon'",
        ),
        (["generate", "sir", "s.zarr", "-n1", "--timeout", "0"], "must be a number of seconds greater than 0; got '0'"),
    ],
)
def test_a_call_that_cannot_be_parsed_says_in_three_lines_why(
    arguments: list[str],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match=r"^2$"):
        main(arguments)

    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 3


def test_what_is_near_to_a_target_is_offered(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("simulator_file", "s.zarr") == FAILED
    assert "did you mean 'simulator_file.py'?" in capsys.readouterr().err
    assert generate("simulator_flie.py", "s.zarr") == FAILED
    assert "there is no file 'simulator_flie.py'; did you mean 'simulator_file.py'?" in capsys.readouterr().err
    assert generate("quite_other", "s.zarr") == FAILED
    assert "; dasksim models lists the models\n" in capsys.readouterr().err
    assert generate("two_moons", "s.zarr", "-q") == OK
    assert main(["extend", "s.zarr", "two_moons", "-n", "80"]) == FAILED
    assert "it is a store, before which the simulator comes: TARGET s.zarr" in capsys.readouterr().err
    assert generate("two_moons", "t.zarr", "--option", "varaint=sbibm") == FAILED
    assert "'two_moons' has no option 'varaint'; did you mean 'variant'?" in capsys.readouterr().err


def test_resimulate_asks_for_a_target(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "s.zarr", "--resimulate", "1"]) == FAILED
    assert "--resimulate needs --target, what the store was made with\n" in capsys.readouterr().err


def test_notes_of_exceptions_speak_of_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("simulator_bad.py").write_text("def f(a, rng):\n    x = rng.normal()\n    return {'x': a / (x < 1)}\n")
    assert generate("simulator_bad.py:f", "a store.zarr", "--set", "a=0.5") == RAISED
    said = capsys.readouterr().err
    assert "dasksim.replay" not in said

    found = re.search(r"    dasksim (replay simulator_bad\.py:f '\S*a store\.zarr' \d+ --set a=0\.5)\n", said)
    assert found, said
    assert main(shlex.split(found[1])) == RAISED
    assert "ZeroDivisionError" in capsys.readouterr().err


# status, models, version


def test_status_tells_complete_from_incomplete_by_its_exit_code(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate("two_moons", "s.zarr", "--chunk-size", "8")
    capsys.readouterr()

    assert main(["status", "s.zarr"]) == OK
    assert "s.zarr: complete\n" in capsys.readouterr().out
    (folder / "s.zarr" / "_dasksim" / "receipts" / "c.1.0").unlink()
    assert main(["status", "s.zarr"]) == INCOMPLETE
    printed = capsys.readouterr().out
    assert "s.zarr: incomplete; run dasksim generate again with the same arguments to finish it" in printed
    assert "samples  32 of 40" in printed


def test_status_of_no_store_is_explained_on_stderr(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("")

    assert main(["status", "absent.zarr"]) == FAILED
    assert "dasksim: there is no store at" in capsys.readouterr().err
    assert main(["status", "full"]) == FAILED
    assert "is not empty and is no store made by dasksim" in capsys.readouterr().err


def test_report_writes_a_page_and_says_where(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate("two_moons", "s.zarr")
    capsys.readouterr()

    assert main(["report", "s.zarr"]) == OK
    assert main(["report", "s.zarr", "-o", "page.html"]) == OK
    assert capsys.readouterr().out == "report.html\npage.html\n"
    assert "theta_1" in Path("page.html").read_text()
    assert main(["report", "s.zarr", "-o", "simulator_file.py"]) == FAILED
    assert "'simulator_file.py' is there, and is no report of dasksim's" in capsys.readouterr().err
    assert main(["report", "absent.zarr"]) == FAILED
    assert "dasksim: there is no store at" in capsys.readouterr().err


def test_models_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == OK

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(dasksim.models.MODELS)
    assert "Two moons: two parameters, two observables" in lines[0]


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    done = run("--version", cwd=tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (OK, f"dasksim {dasksim.__version__}\n", "")
    assert run("status", "absent.zarr", cwd=tmp_path).returncode == FAILED


# Interruption

SLOW = """
    import os, time

    def slow(rng):
        time.sleep(float(os.environ.get("SECONDS_A_SAMPLE", 0)))
        return {"x": rng.normal(), "n": int(rng.integers(9))}  # which is compressed, by a library with a lock
"""

LAYOUT = ["-n", "160", "--seed", "3", "--sub-batch-size", "8", "--chunk-size", "8", "--no-progress"]


@pytest.mark.parametrize("scheduler", quick(["synchronous", "threads", "processes"], "threads", "processes"))
def test_ctrl_c_keeps_what_is_complete_and_the_same_call_goes_on(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["generate", "slow_file.py:slow", "s.zarr", *LAYOUT, "--scheduler", scheduler]
    process = _slowly(arguments, tmp_path)
    with ended([process]):
        _wait_for_receipts(tmp_path / "s.zarr", process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        message = process.communicate(timeout=60)[1]
    stopped = dasksim.status(tmp_path / "s.zarr")

    assert process.returncode == INTERRUPTED, message
    assert "dasksim: interrupted\n" in message
    assert f"kept {counted(stopped.n_complete, 'complete chunk')}; run dasksim generate again" in message
    assert "leaked" not in message
    assert "Traceback" not in message
    assert 0 < stopped.n_complete < stopped.n_chunks == 20

    age_unfinished(tmp_path / "s.zarr")  # of worker processes, which were killed
    finished = finished_bytes(tmp_path / "s.zarr")
    assert run(*arguments, cwd=tmp_path).returncode == OK
    resumed = array_bytes(tmp_path / "s.zarr")
    assert {n: resumed[n] for n in finished if "/c/" in n} == {n: b for n, b in finished.items() if "/c/" in n}
    whole = ["generate", "slow_file.py:slow", "whole.zarr", *LAYOUT, "--scheduler", "threads"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "slow_file", raising=False)
    assert main(whole) == OK
    assert resumed == array_bytes(tmp_path / "whole.zarr")


@pytest.mark.parametrize("seconds", [0.03, 0.07, 0.11])
def test_ctrl_c_while_worker_processes_start_says_nothing_of_them(seconds: float, tmp_path: Path) -> None:
    """They get it as all of a terminal's do, before they can ignore it."""
    process = _slowly(["generate", "slow_file.py:slow", "s.zarr", *LAYOUT, "--scheduler", "processes"], tmp_path)

    def is_worker(child: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(child.cmdline())
            return "loky" in command and "tracker" not in command
        return False

    with ended([process]):
        wait_for(lambda: any(map(is_worker, psutil.Process(process.pid).children())))
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        message = process.communicate(timeout=60)[1]
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in message
    assert "Fatal" not in message


@pytest.mark.parametrize("seconds", [None, 0.5])
def test_ctrl_c_ends_a_cluster_of_workers_without_their_tracebacks(seconds: float | None, tmp_path: Path) -> None:
    """While they start, or when chunks are complete."""
    process = _slowly(["generate", "slow_file.py:slow", "s.zarr", *LAYOUT, "--workers", "2"], tmp_path)
    with ended([process]):
        if seconds is None:
            _wait_for_receipts(tmp_path / "s.zarr", process)
        else:
            wait_for(lambda: len(psutil.Process(process.pid).children()) > 1)  # the first one tracks resources
            time.sleep(seconds)
        workers = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        message = process.communicate(timeout=60)[1]
    assert process.returncode == INTERRUPTED, message
    assert "dasksim: interrupted\n" in message
    for word in ("Traceback", "distributed", "leaked", "Nanny"):
        assert word not in message
    assert psutil.wait_procs(workers, timeout=20)[1] == []


def _slowly(arguments: list[str], folder: Path) -> "subprocess.Popen[str]":
    """Start the command line on a file with a function that is slow in this process only."""
    (folder / "slow_file.py").write_text(textwrap.dedent(SLOW))
    return subprocess.Popen(
        [sys.executable, "-m", "dasksim", *arguments],
        cwd=folder,
        env={**os.environ, "SECONDS_A_SAMPLE": "0.05"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _wait_for_receipts(store: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not list(store.glob("_dasksim/receipts/c.*.0")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_scripts_without_a_main_guard_can_use_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import dasksim
            import numpy as np

            print("started")

            def prior(rng):
                return {"theta": rng.normal()}

            def likelihood(theta):
                return {"x": np.random.normal(theta, size=3)}

            simulator = dasksim.make_simulator([prior, likelihood])
            options = dict(seed=1, sub_batch_size=8, chunk_size=16)
            ds = dasksim.generate(simulator, "s.zarr", 64, scheduler="processes", **options)
            assert ds.compute().equals(simulator.sample(64, **options).compute())
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "started\n"


# Numbers, conditions and options


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1000", 1000),
        ("1_000", 1000),
        ("1,000", 1000),
        ("1e6", 10**6),
        ("10k", 10_000),
        ("2.5M", 2_500_000),
        ("16.1k", 16_100),
        ("1e23", 10**23),
    ],
)
def test_numbers_are_written_as_people_do(text: str, number: int) -> None:
    assert count(text) == number
    assert count(str(2**100)) == 2**100


@pytest.mark.parametrize("text", ["", "k", "1.5", "1e-3", "ten", "1 000 x", "0x10", "1,5k", "1e400"])
def test_what_is_no_whole_number_is_refused(text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "simulator_file.py", "s.zarr", "-n", text])
    assert f"must be a whole number, such as 1000, 1e6 or 10k; got {text!r}" in capsys.readouterr().err


def test_conditions_and_options_of_models(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("simulator_file.py", "s.zarr", "--set", "theta=2.5", "-q") == OK
    assert (dasksim.open_dataset("s.zarr").theta == 2.5).all()
    assert capsys.readouterr() == ("", "")
    assert main(["extend", "simulator_file.py", "s.zarr", "-n", "80", "--set", "theta=2.5", "--quiet"]) == OK
    assert main(["verify", "s.zarr", "--target", "simulator_file.py", "--set", "theta=2.5", "--resimulate", "1"]) == OK
    assert main(["replay", "simulator_file.py", "s.zarr", "7", "--set", "theta=2.5"]) == OK
    assert generate("lotka_volterra", "lv.zarr", "--option", "subsample=5", "--option", "flatten=False") == OK
    assert dasksim.open_dataset("lv.zarr").sizes["time"] == 5
    capsys.readouterr()
    assert generate("simulator_file.py:simulator", "t.zarr", "--option", "a=1") == FAILED
    assert "--option is for models and functions that make a simulator" in capsys.readouterr().err
    assert generate("simulator_file.py", "t.zarr", "--set", "tehta=1") == FAILED
    assert "did you mean 'theta'?" in capsys.readouterr().err


# What is printed for programs


def test_json_has_what_the_text_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("simulator_file.py", "s.zarr", "-q") == OK
    assert main(["status", "s.zarr", "--json"]) == OK
    status = json.loads(capsys.readouterr().out)
    assert (status["n_samples"], status["is_complete"], status["seed"]) == (40, True, 1)
    assert main(["verify", "s.zarr", "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["is_good"] is True
    assert main(["check", "simulator_file.py", "-n", "64", "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["is_good"] is True
    assert main(["models", "--json"]) == OK
    assert list(json.loads(capsys.readouterr().out)) == list(dasksim.models.MODELS)


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(folder: Path) -> None:
    assert generate("simulator_file.py", "s.zarr", "-q") == OK
    command = f"{sys.executable} -W error -m dasksim status s.zarr | true; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert (found.stdout, found.stderr) == ("0\n", "")


def test_progress_is_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch("dasksim._execution.progress._LINE_SECONDS", 0.0), Progress(100, 20, True) as progress:
        progress.tell(1, 30)
        progress.advance(1, 40, 50, 40)
    lines = capsys.readouterr().err.splitlines()
    assert any(re.match(r"50.* of 100.* samples \(50%\), .* left$", line) for line in lines)
    assert re.match(r"60.* of 100.* samples \(60%\), .*accepted=0.8", lines[-1])
    with Progress(100, 0, True) as progress:
        progress.advance(1, 100, 100, 100)
        assert capsys.readouterr().err == ""
    assert len(capsys.readouterr().err.splitlines()) == 1


# Files


def test_a_file_lists_its_simulators(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = 'make = __import__("dasksim").make_simulator\n'
    Path("simulator_two.py").write_text(make + "f = lambda rng: {'x': rng.normal()}\none, two = make(f), make(f)\n")
    Path("simulator_none.py").write_text("x = 3\n")
    assert generate("simulator_two.py", "s.zarr") == FAILED
    assert "has 2 simulators: simulator_two.py:one, simulator_two.py:two" in capsys.readouterr().err
    assert generate("simulator_two.py:on", "s.zarr") == FAILED
    assert "did you mean 'one'?" in capsys.readouterr().err
    assert generate("simulator_none.py", "s.zarr") == FAILED
    assert "'simulator_none.py' has no simulator; make one with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "last", "n_frames"), [("x = (\n", "SyntaxError: '(' was never closed", 1), ("x = y\n", "NameError:", 1)]
)
def test_a_broken_file_shows_itself_alone(
    text: str, last: str, n_frames: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("simulator_broken.py").write_text(text)
    assert generate("simulator_broken.py", "s.zarr") == RAISED
    message = capsys.readouterr().err
    assert last in message
    assert message.count("File ") == n_frames
    assert "simulator_broken.py" in message


def test_messages_speak_of_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("simulator_file.py", "s.zarr", "-q") == OK
    assert generate("simulator_file.py", "s.zarr", "--seed", "2") == FAILED
    message = capsys.readouterr().err
    assert "--overwrite" in message
    assert "overwrite=True" not in message


def test_help_has_examples_and_exit_codes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in (
        "check",
        "generate",
        "extend",
        "derive",
        "status",
        "verify",
        "replay",
        "report",
        "models",
        "completion",
    ):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert f"dasksim {command}" in text.partition("example")[2]
        assert "exit codes:" in text
        assert max(map(len, text.splitlines())) <= 80


# Completion


def completed(shell: str, line: str, folder: Path) -> set[str]:
    """Return what a shell offers at the end of a line."""
    script = folder / f"script.{shell}"
    if not script.exists():
        done = run("completion", shell, cwd=folder)
        assert done.returncode == OK, done.stderr
        script.write_text(done.stdout)
    command = {
        "bash": 'source script.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_dasksim; printf "%s\\n" '
        '"${COMPREPLY[@]}"',
        "fish": "source script.fish; complete -C (string join ' ' -- $argv)",
    }[shell]
    words = line.split(" ")
    arguments = [shell, "-c", command, *(["bash"] if shell == "bash" else []), *words]
    plain = {**os.environ, "LC_ALL": "C"}  # of a locale that is not there, shells warn
    found = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=True, timeout=60, env=plain)
    assert found.stderr == ""
    return {offered.partition("\t")[0].rstrip("/") for offered in found.stdout.splitlines()}


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_shells_complete_commands_options_models_and_files(shell: str, folder: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    (folder / "some.zarr").mkdir()
    (folder / "two.py").write_text("")
    assert completed(shell, "dasksim ge", folder) == {"generate"}
    assert completed(shell, "dasksim generate two", folder) == {"two_moons", "two_level", "two.py"}
    assert completed(shell, "dasksim derive tw", folder) == {"two.py"}
    assert completed(shell, "dasksim generate two_moons so", folder) == {"some.zarr"}
    assert completed(shell, "dasksim status so", folder) == {"some.zarr"}
    assert completed(shell, "dasksim generate sir s.zarr --on-", folder) == {"--on-error", "--on-nonfinite"}
    assert completed(shell, "dasksim generate sir s.zarr --device ", folder) == {"auto", "cpu", "gpu"}
    assert completed(shell, "dasksim generate sir s.zarr --scheduler th", folder) == {"threads"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_can_read_its_script(folder: Path) -> None:
    (folder / "_dasksim").write_text(run("completion", "zsh", cwd=folder).stdout)
    subprocess.run(["zsh", "-n", "_dasksim"], cwd=folder, check=True, timeout=60)


def test_completion_says_what_it_lacks(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == FAILED
    assert capsys.readouterr().err == (
        "dasksim: completion needs the package shtab: pip install 'dasksim[completion]'\n"
    )

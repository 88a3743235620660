"""External programs as stages: real programs, their failures, and nothing that they leave behind."""

import json
import os
import pickle
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest
from bits import bits
from dask.system import CPU_COUNT
from distributed import Client

from dasksim import (
    ArgumentError,
    ArgumentTypeError,
    ExternalProgram,
    OutputError,
    SimulatorError,
    StoreMismatchError,
    generate,
    make_simulator,
)
from dasksim._engine.provenance import source_digest

NORMAL = """\
import json, random, sys
given = json.load(sys.stdin)
random.seed(given["seed"])
print(json.dumps({"x": [random.gauss(given["beta"], 1) for _ in range(3)], "big": given["beta"] > 0}))
"""

SUM = r"""
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    double beta = atof(argv[1]);
    unsigned long long seed = strtoull(argv[2], 0, 10);
    printf("%.17g %.17g\n%.17g %llu\n", beta, 2 * beta, 3 * beta, seed % 1000);
    return beta > 100 ? 3 : 0;
}
"""


def python(code: str, *more: str, **options: Any) -> ExternalProgram:
    """Return a program in Python, which starts in a few milliseconds without its site packages."""
    return ExternalProgram([sys.executable, "-S", "-E", "-c", literal(code), *more], **options)


def sh(script: str, *more: str, **options: Any) -> ExternalProgram:
    return ExternalProgram(["sh", "-c", literal(script), "sh", *more], **options)


def literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def read_stdout(folder: Path) -> dict[str, Any]:
    return {"stdout": (folder / "stdout").read_text()}


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"beta": rng.normal()}


def normal() -> ExternalProgram:
    return python(NORMAL, stdin=["beta", "seed"])


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "sum.c").write_text(SUM)
    subprocess.run([compiler, "-o", folder / "sum", folder / "sum.c"], check=True)
    return folder


def notes(error: BaseException) -> str:
    return "\n".join(error.__notes__)


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# What goes in


def test_compiled_program_takes_arguments_and_prints_numbers(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(compiled)
    program = ExternalProgram(["./sum", "{beta}", "{seed}"], outputs={"x": "stdout"})
    monkeypatch.chdir("/")

    dataset = make_simulator([prior, program]).sample(20, seed=1).compute(scheduler="threads")

    assert dataset.x.shape == (20, 2, 2)
    assert dataset.x.dtype == "float64"
    assert np.array_equal(dataset.x[:, 0, 0], dataset.beta[:, 0])
    assert len(np.unique(dataset.x[:, 1, 1])) > 10


@pytest.mark.parametrize(
    ("template", "value", "text"),
    [
        ("{v}", 0.1, "0.1"),
        ("{v}", np.float64(1) / 3, repr(1 / 3)),
        ("{v}", np.float32(0.1), repr(float(np.float32(0.1)))),
        ("{v}", np.array(2.5), "2.5"),
        ("{v!r}", np.int64(7), "7"),
        ("{v:.3f}", np.float64(2), "2.000"),
        ("{v:d}", np.True_, "1"),
        ("{v[1]}", np.arange(3), "1"),
        ("a={v};{{v}}", 1, "a=1;{v}"),
        ("x y'\"$HOME;|*", 1, "x y'\"$HOME;|*"),
    ],
)
def test_words_of_a_command_read_back_as_the_same_value(template: str, value: Any, text: str) -> None:
    program = python("import sys; print(*sys.argv[1:], sep=chr(0))", template, outputs=read_stdout)

    assert program(v=value) == {"stdout": text + "\n"}


def test_files_and_input_hold_templates_or_json() -> None:
    program = python(
        "",
        files={"conf/input.toml": "theta = [{theta[0]}, {theta[1]:.1f}]\n", "input.json": ["theta", "n"]},
        stdin="{theta:g}\n",
        outputs=lambda folder: {p: (folder / p).read_text() for p in ("conf/input.toml", "input.json", "stdin")},
    )

    found = program(theta=np.array([0.5, 2.0]), n=np.int32(3))

    assert found["conf/input.toml"] == "theta = [0.5, 2.0]\n"
    assert json.loads(found["input.json"]) == {"theta": [0.5, 2.0], "n": 3}
    assert found["stdin"] == "0.5 2\n"


def test_a_program_without_input_reads_nothing_and_never_waits() -> None:
    assert sh("cat; echo '{\"x\": 1}'")() == {"x": 1.0}


def test_env_is_added_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "3")
    program = sh("echo $INHERITED $OMP_NUM_THREADS", env={"OMP_NUM_THREADS": "1"}, outputs={"x": "stdout"})

    assert program()["x"].tolist() == [3, 1]


def test_misspelt_name_is_told_with_the_nearest() -> None:
    with pytest.raises(SimulatorError, match=r"needs 'bta'.*did you mean 'beta'\?"):
        make_simulator([prior, ExternalProgram(["true", "{bta}"])]).sample(1)


def test_arrays_are_refused_where_they_cannot_stand() -> None:
    with pytest.raises(SimulatorError, match=r"cannot stand in a word of a command; take its elements.*as JSON"):
        ExternalProgram(["true", "{theta}"])(theta=np.arange(3.0))
    with pytest.raises(SimulatorError, match=r"several axes.*written as JSON"):
        ExternalProgram(["true"], stdin="{theta}")(theta=np.eye(2))
    with pytest.raises(ValueError, match="not JSON compliant"):
        ExternalProgram(["true"], stdin=["theta"])(theta=np.array([np.nan]))


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (ArgumentTypeError, r"no shell reads.*give the list \['./sir', '{beta}'\]", {"command": "./sir {beta}"}),
        (ArgumentTypeError, r"no shell reads.*got './sir \"'$", {"command": './sir "'}),
        (ArgumentTypeError, "each a str or a Path; write numbers as a str", {"command": ["true", 3]}),
        (ArgumentTypeError, "list of the program and its arguments", {"command": []}),
        (ArgumentError, r"command\[0\] is the path './no_such'.*no such file in", {"command": ["./no_such"]}),
        (ArgumentError, r"command\[1\] is the path 'no.R'.*given as a str", {"command": ["Rscript", Path("no.R")]}),
        (ArgumentError, r"command\[1\] is no template.*double a literal brace", {"command": ["awk", "{print $1"]}),
        (ArgumentError, r"field without a name; name it.*double literal", {"command": ["true", "{}"]}),
        (ArgumentError, r"field without a name", {"command": ["true", "{0}"]}),
        (ArgumentError, r"'print \$1', which is not the name of a variable", {"command": ["awk", "{print $1}"]}),
        (ArgumentError, r"'class', which is not the name", {"command": ["true", "{class}"]}),
        (ArgumentError, r"'rng', which cannot be written; use \{seed\}", {"command": ["true", "{beta:{rng}}"]}),
        (ArgumentTypeError, "stdin must be a template, a str, or a list of names", {"stdin": b"x"}),
        (ArgumentTypeError, "stdin must list names, each a str; got 3", {"stdin": [3]}),
        (ArgumentTypeError, "files must be a mapping", {"files": ["input.toml"]}),
        (ArgumentTypeError, r"files\['a'\] must be a template", {"files": {"a": 3}}),
        (ArgumentError, "within the run's own folder; got '../a'", {"files": {"../a": ""}}),
        (ArgumentError, "files holds 'stdout', the name of another file", {"files": {"stdout": ""}}),
        (ArgumentError, r"for a file that holds one variable, give \{'x': 'o.csv'\}", {"outputs": "o.csv"}),
        (ArgumentError, r"outputs\['x'\]='o.npz' holds arrays with names", {"outputs": {"x": "o.npz"}}),
        (ArgumentError, "outputs holds the variable 'seed', a name that dasksim", {"outputs": {"seed": "stdout"}}),
        (ArgumentError, r"outputs\['x'\] must be the name of a file within", {"outputs": {"x": "/tmp/o.csv"}}),
        (ArgumentTypeError, r"outputs\['x'\] must be the name of a file, a str; got 3", {"outputs": {"x": 3}}),
        (ArgumentTypeError, "outputs must be the name of a file with all variables", {"outputs": 3}),
        (ArgumentTypeError, "outputs must be the name of a file with all variables", {"outputs": {}}),
        (ArgumentTypeError, "timeout must be a number of seconds", {"timeout": "60"}),
        (ArgumentTypeError, "timeout must be a number of seconds", {"timeout": True}),
        (ArgumentError, "timeout must be a number of seconds > 0", {"timeout": 0}),
        (ArgumentError, "timeout must be a number of seconds > 0", {"timeout": np.inf}),
        (ArgumentTypeError, "env must be a mapping of str to str", {"env": {"OMP_NUM_THREADS": 1}}),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_at_once(
    error: type[Exception], match: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(error, match=match):
        ExternalProgram(**{"command": ["true"], **arguments})


# What comes out


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1 2 3\n", [1, 2, 3]),
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("# time, x\n 1, 2.5\n\n3, 4 # the last\n", [[1, 2.5], [3, 4]]),
        ("1\n2\n", [1, 2]),
        ("7", 7),
        ("nan -inf 1e-3", [np.nan, -np.inf, 1e-3]),
    ],
)
def test_text_of_numbers_is_an_array(text: str, values: Any) -> None:
    found = sh("cat", stdin=text, outputs={"x": "stdout"})()["x"]

    assert np.array_equal(found, np.array(values, "float64"), equal_nan=True)
    assert found.dtype == "float64"


def test_json_numbers_are_float64_and_null_is_nan() -> None:
    found = sh("cat", stdin='{{"a": 1, "b": [1, null, 2.5], "c": [[true]], "d": NaN, "e": "NaN"}}')()

    assert {name: value.dtype for name, value in found.items()} == dict.fromkeys("abde", "float64") | {"c": "bool"}
    assert np.array_equal(found["b"], [1, np.nan, 2.5], equal_nan=True)
    assert all(np.isnan(found[name]) for name in "de")


def test_files_are_read_by_their_kind() -> None:
    def read(folder: Path) -> dict[str, Any]:
        return {"name": len(folder.name), "x": np.load(folder / "x.npy")}

    code = "import numpy as np; x = np.arange(3, dtype='int16'); np.save('x.npy', x); np.savez('all.npz', x=x, y=2.5)"
    code += "; open('v.json', 'w').write('[1, 2]'); open('all.json', 'w').write('{\"z\": 1}')"
    command = [sys.executable, "-c", literal(code)]

    assert ExternalProgram(command, outputs={"x": "x.npy"})()["x"].dtype == "int16"
    assert ExternalProgram(command, outputs={"v": "v.json"})()["v"].tolist() == [1, 2]
    assert ExternalProgram(command, outputs="all.json")() == {"z": 1.0}
    found = ExternalProgram(command, outputs="all.npz")()
    assert (found["x"].tolist(), found["y"]) == ([0, 1, 2], 2.5)
    assert ExternalProgram(command, outputs=read)()["x"].sum() == 3


@pytest.mark.parametrize(
    ("script", "outputs", "error", "match"),
    [
        ("echo '{'", "stdout", ValueError, "Expecting property name"),
        ("true", "stdout", ValueError, "Expecting value"),
        ("true", {"x": "stdout"}, ValueError, "could not convert string to float: ''"),
        ("echo 1 two", {"x": "stdout"}, ValueError, "could not convert string to float: 'two'"),
        ("echo 1 2; echo 3", {"x": "stdout"}, ValueError, "inhomogeneous"),
        (r"printf '\377\376\377'", "stdout", ValueError, "codec can't decode"),
        ("true", {"x": "output.csv"}, FileNotFoundError, "output.csv"),
    ],
)
def test_output_that_cannot_be_read_is_a_failure_of_the_run(
    script: str, outputs: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match) as caught:
        sh(script, outputs=outputs)()

    assert not isinstance(caught.value, OutputError)
    assert "the command was sh -c" in notes(caught.value)


@pytest.mark.parametrize(
    ("text", "outputs"),
    [('{"x": [0, 9007199254740993]}', "stdout"), ("0 9007199254740993", {"x": "stdout"})],
    ids=["json", "text"],
)
def test_an_integer_that_float64_cannot_hold_is_told(text: str, outputs: Any) -> None:
    with pytest.raises(OutputError, match=r"wrote the integer 9007199254740993, which float64.*\.npy"):
        sh("cat", stdin=literal(text), outputs=outputs)()
    assert sh("cat", stdin=literal(text.replace("3", "2")), outputs=outputs)()["x"].tolist() == [0, 9007199254740992]


def test_output_without_names_is_told() -> None:
    with pytest.raises(OutputError, match=r"returned list .*must return a dict"):
        make_simulator(sh("echo '[1, 2]'")).sample(1)


def test_large_output_and_errors_do_not_block() -> None:
    code = "import sys; sys.stderr.write('e' * 5_000_000); print('1 ' * 1_000_000)"

    assert python(code, outputs={"x": "stdout"}, timeout=60)()["x"].shape == (1_000_000,)


# Failures


def test_return_code_is_an_error_with_all_that_is_needed_to_look_into_it() -> None:
    simulator = make_simulator([prior, sh('echo at $1 >&2; test "$1" = -5 || exit 3', "{beta}")])

    with pytest.raises(subprocess.CalledProcessError, match="returned non-zero exit status 3") as caught:
        simulator.sample(3, seed=1)

    wanted = r"the command was sh -c .* sh -?\d\.\d+\nthe end of its stderr:\nat -?\d\.\d+"
    assert re.search(wanted, notes(caught.value))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.returncode, notes(again)) == (3, notes(caught.value))


def test_notes_tell_the_sample_and_hold_only_the_end_of_what_was_printed() -> None:
    code = "import sys; print('0'); sys.stderr.write('e' * 10_000 + 'END'); sys.exit(float(sys.argv[1]) == 2)"
    simulator = make_simulator(python(code, "{i}", outputs={"x": "stdout"}))

    with pytest.raises(subprocess.CalledProcessError, match="returned non-zero exit status") as caught:
        simulator.sample(4, seed=1, i=np.arange(4.0)).compute(scheduler="threads")

    assert "raised by stage 'ExternalProgram' at sample 2" in notes(caught.value)
    assert "eEND" in notes(caught.value)
    assert len(notes(caught.value)) < 5000


def test_crash_names_the_signal() -> None:
    with pytest.raises(subprocess.CalledProcessError, match="SIGSEGV"):
        sh("kill -SEGV $$")()


@pytest.mark.parametrize("command", [["no_such_program"], ["/no/such/program"], ["/etc/passwd"]])
def test_missing_program_is_told_before_any_sample_is_simulated(command: list[str]) -> None:
    with pytest.raises(SimulatorError, match=f"cannot start the program '{command[0]}'.*on every worker"):
        make_simulator(ExternalProgram(command)).sample(1)


def test_script_given_as_a_str_is_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text("print('{\"x\": 1}')")

    with pytest.raises(subprocess.CalledProcessError, match="returned non-zero exit status") as caught:
        ExternalProgram([sys.executable, "script.py"])()

    assert "give Path('script.py'): the program runs in another folder" in notes(caught.value)
    assert ExternalProgram([sys.executable, Path("script.py")])() == {"x": 1}


def test_timeout_kills_the_program_and_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = sh(f"sleep 1000 & echo $! $$ > {pids}; sleep 1000", timeout=3)

    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired, match=r"timed out after 3\.0 seconds") as caught:
        program()

    assert time.monotonic() - start < 10
    assert "the command was sh -c" in notes(caught.value)
    wait_until(lambda: not any(is_running(int(pid)) for pid in pids.read_text().split()))


def test_timeout_where_the_system_cannot_tell_of_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)

    assert sh("echo 1", outputs={"x": "stdout"}, timeout=10)()["x"] == 1
    with pytest.raises(subprocess.TimeoutExpired, match=r"timed out after 0\.2 seconds"):
        sh("sleep 100", timeout=0.2)()


@pytest.mark.parametrize("lacks", [["pidfd_open"], ["pidfd_open", "waitid"]])
def test_group_is_killed_before_its_leader_is_reaped(lacks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def killpg(pid: int, number: int) -> None:
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        killed.append(pid)

    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", killpg)
    for name in lacks:
        monkeypatch.delattr(os, name)
    for name in ("KQ_FILTER_PROC", "KQ_EV_ADD", "KQ_NOTE_EXIT"):
        monkeypatch.setattr(select, name, name, raising=False)
    monkeypatch.setattr(select, "kevent", lambda pid, *flags: pid, raising=False)
    monkeypatch.setattr(select, "kqueue", FakeQueue, raising=False)

    assert sh("echo 1", outputs={"x": "stdout"}, timeout=100)()["x"] == 1
    assert len(killed) == 1


class FakeQueue:
    """Tells of the end of a process as the kqueue of BSD does, which does not reap it either."""

    def control(self, changes: list[int], n_events: int, timeout: float | None) -> list[int]:
        wait_until(lambda: Path(f"/proc/{changes[0]}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        return changes

    def close(self) -> None:
        """Close nothing."""


def test_what_a_program_leaves_running_is_killed_and_holds_nothing_up(tmp_path: Path) -> None:
    start = time.monotonic()
    found = sh(f"sleep 1000 & echo $! > {tmp_path}/pid; echo 1", outputs={"x": "stdout"})()

    assert found["x"] == 1
    assert time.monotonic() - start < 10
    wait_until(lambda: not is_running(int((tmp_path / "pid").read_text())))


def test_interrupt_kills_the_program(tmp_path: Path) -> None:
    script = f"import dasksim\ndasksim.ExternalProgram(['sh', '-c', 'echo $$ > {tmp_path}/pid; sleep 1000; true'])()"
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as process:
        wait_until(lambda: bool((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING)  # no longer starting it
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert b"KeyboardInterrupt" in process.stderr.read()

    wait_until(lambda: not is_running(int((tmp_path / "pid").read_text())))


def test_interrupt_of_worker_processes_kills_their_programs(tmp_path: Path) -> None:
    n = min(2, CPU_COUNT)  # as many as run at once: a program that begins while others are killed may be missed
    script = (
        "import dasksim, sys\n"
        f"sleeper = dasksim.ExternalProgram(['sh', '-c', 'echo $$ > {tmp_path}/pid_$$; sleep 1000; true'])\n"
        "simulator = dasksim.LambdaSimulator(sleeper, schema={'x': ((), 'float64')})\n"
        f"dasksim.generate(simulator, '{tmp_path}/s.zarr', {n}, seed=1, chunk_size=1, sub_batch_size=1,"
        " scheduler='processes', progress=False)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as process:
        wait_until(lambda: sum(bool(path.read_text()) for path in tmp_path.glob("pid_*")) == n)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert b"KeyboardInterrupt" in process.stderr.read()

    pids = [int(path.read_text()) for path in tmp_path.glob("pid_*") if path.read_text()]
    wait_until(lambda: not any(map(is_running, pids)))


# Folders


def test_each_run_has_a_folder_that_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ok = sh("ls | wc -l; mkdir a; touch a/b", outputs={"n": "stdout"})

    simulator = make_simulator(ok, dims={})
    assert simulator.sample(10, seed=1).n.compute(scheduler="threads").values.tolist() == [2] * 10  # stdout, stderr
    with pytest.raises(subprocess.CalledProcessError, match="exit status 1"):
        sh("touch c; false")()
    assert list(tmp_path.iterdir()) == []


def test_kept_folders_hold_all_that_a_run_read_and_wrote(tmp_path: Path) -> None:
    program = sh("cat; echo well >&2; exit $1", "{code}", stdin='{{"x": 1}}', keep_in=tmp_path / "runs")

    assert program(code=0) == {"x": 1}
    with pytest.raises(subprocess.CalledProcessError, match="exit status 1") as caught:
        program(code=1)

    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    folder = Path(notes(caught.value).rpartition("its folder is ")[2])
    assert folder in folders
    files = {path.name: path.read_text() for path in folder.iterdir()}
    assert (files["stdin"], files["stdout"], files["stderr"]) == ('{"x": 1}', '{"x": 1}', "well\n")
    again = subprocess.run("sh ./command < stdin", shell=True, cwd=folder, capture_output=True)
    assert (again.returncode, again.stdout) == (1, b'{"x": 1}')


# As a stage


@pytest.mark.usefixtures("one_process")
def test_samples_are_the_same_on_every_scheduler(two_workers: Client, tmp_path: Path) -> None:
    simulator = make_simulator([prior, normal()])
    options: dict[str, Any] = {"seed": 5, "sub_batch_size": 2, "chunk_size": 4}
    wanted = bits(simulator.sample(7, **options), scheduler="synchronous")

    assert wanted == bits(simulator.sample(7, **{**options, "chunk_size": 8}), scheduler="threads")
    assert wanted == bits(simulator.sample(7, **options), scheduler=two_workers)
    for i, scheduler in enumerate(["threads", "processes", two_workers]):
        dataset = generate(simulator, tmp_path / f"{i}.zarr", 7, scheduler=scheduler, **options)
        assert bits(dataset, scheduler="synchronous") == wanted
    x = simulator.sample(7, **options).compute()
    assert len(np.unique(x.x)) == 21
    assert x.big.dtype == "bool"


@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_a_program_can_be_pickled(module: Any) -> None:
    program = normal()
    again = module.loads(module.dumps(program))

    assert again(beta=1.0, seed=3)["x"].tolist() == program(beta=1.0, seed=3)["x"].tolist()
    assert source_digest(again) == source_digest(program)


def test_a_program_that_draws_without_a_seed_is_told() -> None:
    program = python("import random; print(random.random())", outputs={"x": "stdout"})

    with pytest.warns(UserWarning, match="'ExternalProgram' returned different values for one and the same seed"):
        make_simulator(program).sample(1)


def test_digest_follows_what_the_outputs_depend_on(compiled: Path, tmp_path: Path) -> None:
    program, moved = tmp_path / "sum", tmp_path / "moved" / "sum"
    moved.parent.mkdir()
    for copy in (program, moved):
        shutil.copy(compiled / "sum", copy)

    def digest(command: list[Any], **options: Any) -> str:
        return source_digest(ExternalProgram(command, **options))

    first = digest([program, "{beta}"])
    assert first == digest([moved, "{beta}"], timeout=3, keep_in=tmp_path)
    others = [
        digest([program, "{beta}", "1"]),
        digest([program, "{beta}"], stdin=["beta"]),
        digest([program, "{beta}"], files={"a": "{beta}"}),
        digest([program, "{beta}"], env={"A": "1"}),
        digest([program, "{beta}"], outputs={"x": "stdout"}),
        digest([program, "{beta}"], outputs=lambda folder: {"x": 1.0}),
        digest([program, "{beta}"], outputs=lambda folder: {"x": 2.0}),
    ]
    with program.open("ab") as file:
        file.write(b"\0")
    others.append(digest([program, "{beta}"]))
    assert len({first, *others}) == 9
    assert digest(["/opt/a/bin/julia"]) == digest(["/usr/bin/julia"]) != digest(["/usr/bin/julia2"])


def test_a_store_is_not_continued_by_a_changed_script(tmp_path: Path) -> None:
    script = tmp_path / "program.py"

    def run(factor: int) -> None:
        script.write_text(f"import sys; beta = float(sys.argv[1]); print(beta if beta < 5 else {factor} * beta)")
        program = ExternalProgram([sys.executable, "-S", script, "{beta}"], outputs={"x": "stdout"})
        generate(make_simulator([prior, program]), tmp_path / "s.zarr", 4, seed=1, scheduler="threads")

    run(1)
    run(1)
    with pytest.raises(StoreMismatchError, match="stage 'ExternalProgram': its source"):
        run(2)


def test_repr_shows_the_command() -> None:
    assert repr(ExternalProgram(["Rscript", "{beta}"])) == "ExternalProgram(['Rscript', '{beta}'])"

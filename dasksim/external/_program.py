"""A program as a function."""

from __future__ import annotations

import hashlib
import inspect
import math
import numbers
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dasksim._engine.provenance import source_digest
from dasksim.errors import ArgumentError, ArgumentTypeError
from dasksim.external._outputs import Outputs, check_file_name, check_outputs, read_outputs
from dasksim.external._process import STREAMS, run_program, tail
from dasksim.external._templates import Input, fill_text, fill_word, names_in

__all__ = ["ExternalProgram"]


class ExternalProgram:
    """A program in any language, as a function: a stage of a simulator that runs it once for each sample.

    Its arguments are the names in its templates: ``{beta}`` is the variable ``beta`` of an earlier stage, ``{seed}`` an
    integer of 63 bits, another one for each sample. A program that draws random numbers without it is not reproducible.

    Every run has a folder of its own, in which it is started and which is removed afterwards. The program's standard
    streams are the files ``stdin``, ``stdout`` and ``stderr`` there.

    Parameters
    ----------
    command
        The program and its arguments, as a list; no shell reads it. A str is a template like those of
        :meth:`str.format`: ``{beta}`` is written so that it reads back as the same number, ``{beta:.3f}`` as it says,
        ``{theta[0]}`` is an element, ``{{`` a brace. A :class:`~pathlib.Path` is a file that exists, such as a script,
        relative to the present folder. So is a program with a ``/`` in its name; another is looked for on ``PATH``.
    stdin
        What the program reads from its standard input: a template, in which an array is written as numbers with spaces
        between them, or a list of names, which are written as a JSON object. By default nothing.
    files
        Files to be written into the folder before, by name: each a template or a list of names, as for ``stdin``.
    outputs
        Where the variables are. By default a JSON object on the standard output; the name of another file with one,
        ending in ``.json``, or of an ``.npz`` archive; a mapping of variables to files that hold one each, ``.npy``,
        ``.json`` or a text of numbers in rows, such as ``{"x": "stdout"}``; or a function that takes the folder, a
        :class:`~pathlib.Path`, and returns a dict. Numbers in texts and in JSON are float64, ``null`` is NaN, and axes
        of size 1 of a text are dropped.
    timeout
        Seconds after which a run is killed, with all processes that it started.
    env
        Environment variables, besides those that are there.
    keep_in
        A folder in which the folders of all runs are kept, to look at what a program did.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used.

    Notes
    -----
    A call raises :class:`subprocess.CalledProcessError` if the program ends with another return code than 0,
    :class:`subprocess.TimeoutExpired` if it takes too long, what Python raises for outputs that cannot be read, and
    :class:`SimulatorError` if there is no such program. A note gives the command and the end of what it printed.

    Examples
    --------
    >>> import sys
    >>> program = "import sys, random; random.seed(sys.argv[2]); print(random.gauss(float(sys.argv[1]), 1))"
    >>> normal = ExternalProgram([sys.executable, "-c", program, "{mean}", "{seed}"], outputs={"x": "stdout"})
    >>> import dasksim
    >>> simulator = dasksim.make_simulator([lambda rng: {"mean": rng.normal()}, normal])
    >>> simulator.sample(2, seed=1).x.compute().shape
    (2, 1)
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        stdin: str | Sequence[str] | None = None,
        files: Mapping[str, str | Sequence[str]] | None = None,
        outputs: Outputs = "stdout",
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        keep_in: str | Path | None = None,
    ) -> None:
        self.command = _check_command(command)
        self.inputs = _check_inputs(stdin, files)
        self.outputs = check_outputs(outputs)
        self.timeout = _check_timeout(timeout)
        self.env = _check_env(env)
        self.keep_in = None if keep_in is None else Path(keep_in).absolute()
        templates: dict[str, Input] = {
            f"command[{i}]": word for i, word in enumerate(self.command) if isinstance(word, str)
        }
        templates |= {f"files[{name!r}]" if name != "stdin" else name: text for name, text in self.inputs.items()}
        names = dict.fromkeys(name for where, template in templates.items() for name in names_in(template, where))
        # stages take their inputs by the names in a function's signature
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
        )

    def __repr__(self) -> str:
        return f"ExternalProgram({[str(word) for word in self.command]!r})"

    def __call__(self, **values: Any) -> Any:
        """Run the program, and return its outputs, one sample of each variable."""
        if self.keep_in is not None:
            self.keep_in.mkdir(parents=True, exist_ok=True)
            return self._run_in(Path(tempfile.mkdtemp(prefix="run-", dir=self.keep_in)), values)
        folder = Path(tempfile.mkdtemp(prefix="dasksim-"))
        try:
            return self._run_in(folder, values)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def __dask_tokenize__(self) -> Any:
        """Return what the outputs depend on, for the provenance of a dataset."""
        outputs = source_digest(self.outputs) if callable(self.outputs) else self.outputs
        return [_identity(word) for word in self.command], self.inputs, outputs, self.env

    def _run_in(self, folder: Path, values: Mapping[str, Any]) -> Any:
        command = [fill_word(word, values) if isinstance(word, str) else str(word) for word in self.command]
        for name, template in self.inputs.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            # ends of lines stay as the template has them
            (folder / name).write_text(fill_text(template, values), "utf-8", newline="")
        if self.keep_in is not None:
            (folder / "command").write_text(shlex.join(command) + "\n", "utf-8")
        try:
            run_program(command, folder, timeout=self.timeout, env=self.env)
            return read_outputs(folder, self.outputs)
        except Exception as error:
            error.add_note(self._report(command, folder))
            raise

    def _report(self, command: Sequence[str], folder: Path) -> str:
        lines = [f"the command was {shlex.join(command)}"]
        lines += [f"the end of its {name}:\n{text}" for name in STREAMS if (text := tail(folder / name))]
        if self.keep_in is not None:
            lines.append(f"its folder is {folder}")
        words = [word for word in self.command if isinstance(word, str) and len(word) < 256]  # as a file's name is
        lines += [
            f"if {word!r} is the file of the present folder, give Path({word!r}): the program runs in another folder"
            for word in words
            if not Path(word).is_absolute() and Path(word).is_file() and not (folder / word).exists()
        ]
        return "\n".join(lines)


def _check_command(command: Any) -> tuple[str | Path, ...]:
    """Return the words of a command, with paths that are relative to the present folder made absolute."""
    if isinstance(command, str):
        try:
            words = f"; give the list {shlex.split(command)!r}"
        except ValueError:
            words = ""
        raise ArgumentTypeError(f"command must be a list of words, which no shell reads; got {command!r}{words}")
    if not isinstance(command, Sequence) or not command or not all(isinstance(word, str | Path) for word in command):
        raise ArgumentTypeError(
            "command must be a list of the program and its arguments, each a str or a Path; write numbers as a str; "
            f"got {command!r}"
        )
    return tuple(_check_word(word, i) for i, word in enumerate(command))


def _check_word(word: str | Path, i: int) -> str | Path:
    """Return a word; a file that is named relative to the present folder becomes an absolute path."""
    if isinstance(word, str):
        is_template = bool(names_in(word, f"command[{i}]"))
        if i > 0 or is_template or "/" not in word or Path(word).is_absolute():
            return word
    # the program starts in another folder, where a relative path leads elsewhere
    path = Path(word)
    if not path.is_absolute() and not path.exists():
        raise ArgumentError(
            f"command[{i}] is the path {str(word)!r}, but there is no such file in {str(Path.cwd())!r}; a file of the "
            "run's own folder is given as a str"
        )
    return path.absolute()


def _check_inputs(stdin: Any, files: Any) -> dict[str, Input]:
    """Return what is written into the folder before a run, by the name of the file."""
    if not isinstance(files, Mapping | None):
        raise ArgumentTypeError(f"files must be a mapping of names to templates or lists of names; got {files!r}")
    for name in files or ():
        if check_file_name(name, "a key of files") in (*STREAMS, "command"):
            raise ArgumentError(f"files holds {name!r}, the name of another file of a run; rename it")
    given = {**({} if stdin is None else {"stdin": stdin}), **(files or {})}
    inputs: dict[str, Input] = {}
    for name, template in given.items():
        if not isinstance(template, str) and (not isinstance(template, Sequence) or isinstance(template, bytes)):
            where = name if name == "stdin" else f"files[{name!r}]"
            raise ArgumentTypeError(f"{where} must be a template, a str, or a list of names for JSON; got {template!r}")
        inputs[name] = template if isinstance(template, str) else tuple(template)
    return inputs


def _check_timeout(timeout: Any) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, numbers.Real):
        raise ArgumentTypeError(f"timeout must be a number of seconds or None; got {timeout!r}")
    seconds = float(timeout)
    if not 0 < seconds < math.inf:
        raise ArgumentError(f"timeout must be a number of seconds > 0, or None; got {timeout!r}")
    return seconds


def _check_env(env: Any) -> dict[str, str] | None:
    if env is None:
        return None
    if not isinstance(env, Mapping) or not all(isinstance(text, str) for pair in env.items() for text in pair):
        raise ArgumentTypeError(f"env must be a mapping of str to str, such as {{'OMP_NUM_THREADS': '1'}}; got {env!r}")
    return dict(env)


def _identity(word: str | Path) -> Any:
    """Return what a word says, wherever a file lies: the bytes of one that is given as a path of its own."""
    if isinstance(word, str):
        return Path(word).name if Path(word).is_absolute() else word
    if not word.is_file():
        return word.name
    with word.open("rb") as file:
        return word.name, hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()

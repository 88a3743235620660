"""A process that has imported dasksim and runs each program in a fork of itself, which saves the time of imports.

Each line of its input is a list of programs, to be run at once, as JSON: of each its arguments as Python takes them,
its folder, the files of its output, and variables of its environment. It answers with their exit statuses.
"""

import json
import os
import runpy
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import distributed  # noqa: F401
import matplotlib.pyplot  # noqa: F401
from loky import ProcessPoolExecutor

import dasksim.cli
from dasksim._execution import processes

for name in dasksim.__all__:
    getattr(dasksim, name)

# a single worker process in place of one for each core, since each takes seconds to start
vars(processes)["ProcessPoolExecutor"] = lambda n_workers, **how: ProcessPoolExecutor(1, **how)


def run(arguments: list[str], folder: str, out: str, err: str, environment: dict[str, str]) -> None:
    """Run a program in this process, which ends as that of the program would."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(folder)
    os.environ.update(environment)
    while arguments[0] == "-W":
        sys.warnoptions.append(arguments[1])  # for the processes that it starts
        warnings.simplefilter(arguments[1])  # type: ignore[arg-type]
        arguments = arguments[2:]
    kind, *rest = arguments
    sys.argv = arguments if kind not in ("-m", "-c") else [kind, *rest[1:]]
    sys.path[0] = {"-m": folder, "-c": ""}.get(kind, str(Path(kind).resolve().parent))
    if kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        runpy.run_path(kind, run_name="__main__")


def serve() -> dict[str, Any] | None:
    """Fork for each program; return what the fork has to run, and nothing at the end of the input."""
    for line in sys.stdin:
        programs: list[dict[str, Any]] = json.loads(line)
        forks = []
        for program in programs:
            forks.append(os.fork())
            if forks[-1] == 0:
                return program
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) for fork in forks]), flush=True)
    return None


if __name__ == "__main__" and (program := serve()):
    run(**program)

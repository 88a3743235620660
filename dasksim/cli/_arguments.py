"""What commands there are, and what each takes."""

import argparse
from typing import Any

from dasksim._version import __version__
from dasksim.cli import _commands
from dasksim.cli._codes import OK, TABLE
from dasksim.cli._completion import DTYPES, FILES, FUNCTIONS, SCHEDULERS, SHELLS, STORES, TARGETS, script
from dasksim.cli._parser import Parser
from dasksim.cli._words import assignment, count, part, seconds

__all__ = ["parser"]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = Parser(
        prog="dasksim",
        description="Simulate training sets for simulation-based inference into Zarr stores.",
        epilog="examples:\n"
        "  dasksim check model.py\n"
        "  dasksim generate model.py train.zarr -n 10M --seed 1\n"
        "  dasksim status train.zarr\n"
        "  dasksim report train.zarr -o report.html\n\n"
        "dasksim COMMAND --help has the options and examples of a command.\n\n" + TABLE,
    )
    whole.add_argument("--version", action="version", version=f"dasksim {__version__}")
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")
    # Each function of a command's name adds that command; they are in the order of the help.
    for add in (_check, _generate, _extend, _derive, _status, _verify, _replay, _report, _models, _completion):
        add(commands)
    return whole


def _command(commands: Any, name: str, takes: str, says: str, run: Any, *examples: str) -> argparse.ArgumentParser:
    lines = "".join(f"  dasksim {name} {example}".rstrip() + "\n" for example in examples)
    added: argparse.ArgumentParser = commands.add_parser(
        name,
        usage=f"dasksim {name} {takes}".rstrip(),
        help=says,
        description=f"{says[0].upper()}{says[1:]}.",
        epilog=f"{'examples' if len(examples) > 1 else 'example'}:\n{lines}\n{TABLE}",
    )
    added.set_defaults(run=run)
    return added


def _check(commands: Any) -> None:
    check = _command(
        commands,
        "check",
        "TARGET [-n N] [options]",
        "try a simulator before a long run: the same bits everywhere?",
        _commands.check,
        "model.py",
        "sir -n 1k",
    )
    _add_target(check)
    _number(check, "-n", "--n-samples", help="number of samples (default: what takes about a second)")
    _number(check, "--seed", help="an integer >= 0 (default: fresh entropy)")
    _number(check, "--sub-batch-size", help="samples simulated together by batched functions (default: as fits)")
    _add_json(check)


def _generate(commands: Any) -> None:
    generate = _command(
        commands,
        "generate",
        "TARGET STORE -n N [options]",
        "simulate a dataset into a store, or go on where a run was stopped",
        _commands.generate,
        "two_moons moons.zarr -n 10M --seed 1",
        "model.py train.zarr -n 1e6 --set theta=0.5 --on-error mask",
        "two_moons moons.zarr -n 1M --option variant=sbibm --workers 4",
    )
    _add_target(generate)
    _add_store(generate)
    what = generate.add_argument_group("what is simulated")
    _number(what, "-n", "--n-samples", required=True, help="number of samples: 1000, 1e6, 10k, 2.5M")
    _number(what, "--seed", help="an integer >= 0 (default: fresh entropy, which the store records)")
    _add_conditions(what)
    _number(
        what,
        "--sub-batch-size",
        help="samples simulated together; values of batched functions depend on it (default: as fits)",
    )
    what.add_argument(
        "--on-error",
        choices=["raise", "mask", "redraw"],
        default="raise",
        help="what becomes of a sample for which a stage raises an exception (default: raise, which stops the run)",
    )
    what.add_argument(
        "--on-nonfinite",
        choices=["keep", "raise", "mask", "redraw"],
        default="keep",
        help="and of one for which it returns NaN or infinity (default: keep)",
    )
    store = generate.add_argument_group("how it is stored")
    _number(store, "--chunk-size", help="samples in a chunk, a multiple of the sub-batch size (default: as fits)")
    _add_dtype(store, "store all floating-point variables in this dtype (default: their own)")
    store.add_argument("--overwrite", action="store_true", help="remove a dasksim store that is there")
    store.add_argument("--repair", action="store_true", help="simulate chunks again that verify finds damaged")
    run = _add_run(generate)
    run.add_argument(
        "--device",
        choices=["auto", "cpu", "gpu"],
        default="auto",
        help="where stages run that can run on a GPU (default: auto, on a GPU if there is one)",
    )
    run.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")


def _extend(commands: Any) -> None:
    extend = _command(
        commands,
        "extend",
        "TARGET STORE -n N [options]",
        "make a store longer, or go on with that",
        _commands.extend,
        "model.py train.zarr -n 20M",
        "two_moons moons.zarr -n 20M --workers 4",
    )
    _add_target(extend)
    _add_store(extend)
    what = extend.add_argument_group("what is simulated")
    _number(what, "-n", "--n-samples", required=True, help="number of samples that the store shall have")
    _add_conditions(what)
    _add_run(extend)


def _derive(commands: Any) -> None:
    derive = _command(
        commands,
        "derive",
        "FUNCTION STORE [options]",
        "add variables to a store that are computed from its own",
        _commands.derive,
        "model.py:summaries train.zarr",
    )
    _argument(
        derive,
        "target",
        FUNCTIONS,
        metavar="FUNCTION",
        help="file.py:function or package.module:function, which takes variables by name",
    )
    _add_store(derive)
    what = derive.add_argument_group("what is computed")
    _number(what, "--seed", help="an integer >= 0 (default: the store's)")
    what.add_argument("--batched", action="store_true", help="call the function once for a whole sub-batch")
    _add_dtype(what, "store new floating-point variables in this dtype (default: their own)")
    what.add_argument("--overwrite", action="store_true", help="remove derived variables of the same names")
    what.add_argument("--repair", action="store_true", help="compute chunks again that verify finds damaged")
    _add_scheduler(derive.add_argument_group("how it runs"))


def _status(commands: Any) -> None:
    status = _command(
        commands,
        "status",
        "STORE [--json]",
        "say how far a store is, how fast it grows and what is missing",
        _commands.status,
        "train.zarr",
        "train.zarr --json",
    )
    _add_store(status)
    _add_json(status)


def _verify(commands: Any) -> None:
    verify = _command(
        commands,
        "verify",
        "STORE [--target TARGET --resimulate N] [options]",
        "check a store against its receipts",
        _commands.verify,
        "train.zarr",
        "train.zarr --target model.py --resimulate 3",
    )
    _add_store(verify)
    _argument(verify, "--target", TARGETS, help=f"what the store was made with, for --resimulate: {_TARGET}")
    verify.add_argument("--option", **_OPTION)
    _add_conditions(verify)
    _number(
        verify, "--resimulate", default=0, help="chunks, chosen at random, to simulate and compare too (default: 0)"
    )
    _add_progress(verify)
    _add_json(verify)


def _replay(commands: Any) -> None:
    replay = _command(
        commands,
        "replay",
        "TARGET STORE SAMPLE [options]",
        "run one sample again, and show what each stage was given and made",
        _commands.replay,
        "model.py train.zarr 12345",
        "model.py train.zarr 12345 --pdb",
    )
    _add_target(replay)
    _add_store(replay)
    replay.add_argument("sample", type=count, metavar="SAMPLE", help="number of the sample, from 0")
    _add_conditions(replay)
    replay.add_argument("--pdb", action="store_true", help="start the debugger where a stage raises an exception")


def _report(commands: Any) -> None:
    report = _command(
        commands,
        "report",
        "STORE [-o FILE]",
        "write a page on a store, with statistics and plots",
        _commands.report,
        "train.zarr",
        "train.zarr -o moons.html",
    )
    _add_store(report)
    _argument(
        report,
        "-o",
        FILES,
        "--output",
        default="report.html",
        metavar="FILE",
        help="where to write it (default: report.html)",
    )


def _models(commands: Any) -> None:
    models = _command(
        commands, "models", "[--json]", "list the models that come with dasksim", _commands.models, "", "--json"
    )
    _add_json(models)


def _completion(commands: Any) -> None:
    completion = _command(
        commands,
        "completion",
        "SHELL",
        "print what lets a shell complete commands, options, models and files",
        _print_script,
        "bash > ~/.local/share/bash-completion/completions/dasksim",
        "zsh > ~/.zfunc/_dasksim",
        "fish > ~/.config/fish/completions/dasksim.fish",
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def _print_script(arguments: argparse.Namespace) -> int:
    print(script(parser(), arguments.shell))  # noqa: T201
    return OK


_TARGET = "a model's name, file.py with one simulator, file.py:object or package.module:object"

_OPTION: dict[str, Any] = {
    "type": assignment,
    "action": "append",
    "default": [],
    "metavar": "NAME=VALUE",
    "help": "an option of a model, such as variant=sbibm; may be given several times",
}


def _argument(to: Any, name: str, complete: Any, *names: str, **how: Any) -> None:
    """Add an argument, and what shells complete for it."""
    to.add_argument(name, *names, **how).complete = complete


def _number(to: Any, *names: str, **how: Any) -> None:
    to.add_argument(*names, type=count, metavar="N", **how)


def _add_target(command: Any) -> None:
    _argument(command, "target", TARGETS, metavar="TARGET", help=_TARGET)
    command.add_argument("--option", **_OPTION)


def _add_store(command: Any) -> None:
    _argument(command, "store", STORES, metavar="STORE", help="path or URL of the store")


def _add_conditions(command: Any) -> None:
    command.add_argument(
        "--set",
        type=assignment,
        action="append",
        default=[],
        dest="conditions",
        metavar="NAME=VALUE",
        help="a condition, such as theta=0.5; may be given several times",
    )


def _add_dtype(command: Any, says: str) -> None:
    _argument(command, "--dtype", DTYPES, help=says)


def _add_json(command: Any) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_progress(command: Any) -> None:
    command.add_argument("--no-progress", action="store_true", help="show no progress")
    command.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")


def _add_run(command: Any) -> Any:
    run = command.add_argument_group("how it runs")
    run.add_argument(
        "--audit",
        choices=list(_commands.AUDITS),
        default="stop",
        help="where samples that are simulated again differ: stop, warn; or do not look: no (default: stop)",
    )
    run.add_argument(
        "--part", type=part, metavar="i/m", help="simulate the i-th of m shares only, i from 0 (default: all)"
    )
    run.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="what a sample may take, or a sub-batch of batched functions (default: no limit)",
    )
    _add_scheduler(run)
    return run


def _add_scheduler(command: Any) -> None:
    _argument(
        command, "--scheduler", SCHEDULERS, help="synchronous, threads, processes or tcp://host:port (default: as fits)"
    )
    _number(command, "--workers", help="run on this many worker processes, with a dashboard (default: --scheduler)")
    _number(command, "--retries", default=3, help="tries more of a chunk whose worker died (default: 3)")
    command.add_argument("--allow-changed", action="store_true", help="go on although a stage's source has changed")
    _add_progress(command)

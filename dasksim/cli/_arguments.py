"""What commands there are, and what each takes."""

import argparse
from typing import Any

from dasksim._version import __version__
from dasksim.cli import _commands
from dasksim.cli._codes import TABLE
from dasksim.cli._words import assignment, count, part

__all__ = ["parser"]

_TARGET = "a model's name, package.module:object, file.py:object, or file.py that has one simulator"
_STORE = "path or URL of the store"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = argparse.ArgumentParser(
        prog="dasksim",
        description="Simulate training sets for simulation-based inference into Zarr stores.",
        epilog="examples:\n"
        "  dasksim check model.py\n"
        "  dasksim generate model.py train.zarr -n 10M --seed 1\n"
        "  dasksim status train.zarr\n"
        "  dasksim report train.zarr -o report.html\n\n" + TABLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"dasksim {__version__}")
    commands = whole.add_subparsers(title="commands", required=True, metavar="command")
    _add_making(commands)
    _add_looking(commands)
    return whole


def _command(commands: Any, name: str, says: str, run: Any, *examples: str) -> argparse.ArgumentParser:
    lines = "".join(f"  dasksim {name} {example}\n" for example in examples)
    added: argparse.ArgumentParser = commands.add_parser(
        name,
        help=says,
        description=f"{says[0].upper()}{says[1:]}.",
        epilog=f"{'examples' if len(examples) > 1 else 'example'}:\n{lines}\n{TABLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.set_defaults(run=run)
    return added


def _add_making(commands: Any) -> None:
    """Add the commands that try a simulator, and make and change stores."""
    check = _command(
        commands,
        "check",
        "try a simulator before a long run: the same bits everywhere?",
        _commands.check,
        "model.py",
        "sir -n 1k",
    )
    _add_target(check)
    check.add_argument("-n", "--n-samples", type=count, help="number of samples (default: what takes about a second)")
    check.add_argument("--seed", type=count, help="an integer >= 0 (default: fresh entropy)")
    check.add_argument("--sub-batch-size", type=count, help="samples simulated together by batched functions")
    _add_json(check)

    generate = _command(
        commands,
        "generate",
        "simulate a dataset into a store, or go on where a run was stopped",
        _commands.generate,
        "two_moons moons.zarr -n 10M --seed 1",
        "model.py train.zarr -n 1e6 --set theta=0.5 --on-error mask",
        "lotka_volterra lv.zarr -n 100k --option subsample=20 --workers 4",
    )
    _add_target(generate)
    generate.add_argument("store", help=_STORE)
    generate.add_argument(
        "-n", "--n-samples", type=count, required=True, help="number of samples: 1000, 1e6, 10k, 2.5M"
    )
    generate.add_argument(
        "--seed", type=count, help="an integer >= 0 (default: fresh entropy, which the store records)"
    )
    _add_conditions(generate)
    generate.add_argument(
        "--sub-batch-size", type=count, help="samples simulated together; values of batched functions depend on it"
    )
    generate.add_argument("--chunk-size", type=count, help="samples in a chunk, a multiple of the sub-batch size")
    generate.add_argument("--dtype", help="store all floating-point variables in this dtype")
    generate.add_argument("--device", default="auto", help="auto, cpu or gpu: where stages run that can run on a GPU")
    generate.add_argument(
        "--on-error", default="raise", help="where a stage raises an exception: raise, mask or redraw"
    )
    generate.add_argument("--on-nonfinite", default="keep", help="where it returns NaN: keep, raise, mask or redraw")
    generate.add_argument("--overwrite", action="store_true", help="remove a dasksim store that is there")
    generate.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    generate.add_argument("--repair", action="store_true", help="simulate chunks again that verify finds damaged")
    _add_run(generate)

    extend = _command(commands, "extend", "make a store longer", _commands.extend, "model.py train.zarr -n 20M")
    _add_target(extend)
    extend.add_argument("store", help=_STORE)
    extend.add_argument("-n", "--n-samples", type=count, required=True, help="number of samples that it shall have")
    _add_conditions(extend)
    _add_run(extend)

    derive = _command(
        commands,
        "derive",
        "add variables to a store that are computed from its own",
        _commands.derive,
        "model.py:summaries train.zarr",
    )
    derive.add_argument("target", help="package.module:function or file.py:function, which takes variables by name")
    derive.add_argument("store", help=_STORE)
    derive.add_argument("--seed", type=count, help="an integer >= 0 (default: the store's)")
    derive.add_argument("--batched", action="store_true", help="call the function once for a whole sub-batch")
    derive.add_argument("--dtype", help="store new floating-point variables in this dtype")
    derive.add_argument("--overwrite", action="store_true", help="remove derived variables of the same names")
    derive.add_argument("--repair", action="store_true", help="compute chunks again that verify finds damaged")
    _add_scheduler(derive)


def _add_looking(commands: Any) -> None:
    """Add the commands that look at stores, and leave them as they are."""
    status = _command(commands, "status", "say how far a store is", _commands.status, "train.zarr", "train.zarr --json")
    status.add_argument("store", help=_STORE)
    _add_json(status)

    verify = _command(
        commands,
        "verify",
        "check a store against its receipts",
        _commands.verify,
        "train.zarr",
        "train.zarr --target model.py --resimulate 3",
    )
    verify.add_argument("store", help=_STORE)
    verify.add_argument("--target", help="what it was made with, for --resimulate")
    verify.add_argument("--option", **_OPTION)
    _add_conditions(verify)
    verify.add_argument("--resimulate", type=count, default=0, help="chunks, chosen at random, to simulate and compare")
    _add_progress(verify)
    _add_json(verify)

    replay = _command(
        commands,
        "replay",
        "run one sample again, and show what each stage was given and made",
        _commands.replay,
        "model.py train.zarr 12345",
    )
    _add_target(replay)
    replay.add_argument("store", help=_STORE)
    replay.add_argument("sample", type=count, help="number of the sample, from 0")
    _add_conditions(replay)
    replay.add_argument("--pdb", action="store_true", help="start the debugger where a stage raises an exception")

    report = _command(
        commands, "report", "write a page on a store, with statistics and plots", _commands.report, "train.zarr"
    )
    report.add_argument("store", help=_STORE)
    report.add_argument("-o", "--output", default="report.html", help="where to write it (default: report.html)")

    models = _command(commands, "models", "list the models that come with dasksim", _commands.models, "")
    _add_json(models)


_OPTION: dict[str, Any] = {
    "type": assignment,
    "action": "append",
    "default": [],
    "metavar": "NAME=VALUE",
    "help": "an option of a model, such as variant=sbibm; may be given several times",
}


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument("target", help=_TARGET)
    command.add_argument("--option", **_OPTION)


def _add_conditions(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        type=assignment,
        action="append",
        default=[],
        dest="conditions",
        metavar="NAME=VALUE",
        help="a condition, such as theta=0.5; may be given several times",
    )


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_progress(command: argparse.ArgumentParser) -> None:
    command.add_argument("--no-progress", action="store_true", help="show no progress")
    command.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--audit",
        choices=list(_commands.AUDITS),
        default="stop",
        help="where samples that are simulated again differ: stop, warn; or do not look: no (default: stop)",
    )
    command.add_argument("--part", type=part, help="i/m: simulate the i-th of m shares only, i from 0")
    command.add_argument(
        "--timeout", type=float, help="seconds that a sample may take, or a sub-batch of batched functions"
    )
    _add_scheduler(command)


def _add_scheduler(command: argparse.ArgumentParser) -> None:
    command.add_argument("--allow-changed", action="store_true", help="go on although a stage's source has changed")
    command.add_argument("--scheduler", help="synchronous, threads, processes or tcp://host:port (default: as fits)")
    command.add_argument("--workers", type=count, help="run on this many worker processes, with a dashboard")
    command.add_argument(
        "--retries", type=count, default=3, help="tries more of a chunk whose worker died (default: 3)"
    )
    _add_progress(command)

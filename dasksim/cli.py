"""The command line: ``dasksim generate``, ``extend``, ``derive``, ``status``, ``verify``, ``report`` and others."""

import argparse
import contextlib
import importlib
import importlib.util
import pdb
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

# as users do: a name is loaded when a command asks for it
import dasksim
from dasksim._core.tracebacks import MOST_SHOWN, shorten
from dasksim._version import __version__
from dasksim.errors import ArgumentError, DasksimError, IrreproducibleError, nearest

__all__ = ["main"]

#: Exit codes: all went well; the store is incomplete; the call or the simulator was wrong; chunks are damaged; samples
#: came out otherwise when they were simulated again; interrupted by Ctrl-C. After the traceback of a simulator's own
#: exception it is 1 too.
OK, INCOMPLETE, FAILED, DAMAGED, IRREPRODUCIBLE, INTERRUPTED = 0, 1, 2, 3, 4, 130
RAISED = 1

# What becomes of a difference that an audit finds.
_AUDITS: dict[str, bool | str] = {"stop": True, "warn": "warn", "no": False}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv
        The arguments, by default those of the process.
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except DasksimError as error:
        _say(f"dasksim: {error}", error)
        return IRREPRODUCIBLE if isinstance(error, IrreproducibleError) else FAILED
    except KeyboardInterrupt as error:
        _say("dasksim: interrupted", error)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  (a simulator's own)
        shorten(error, MOST_SHOWN)
        traceback.print_exception(error)
        return RAISED
    return code


def _say(message: str, error: BaseException) -> None:
    print("\n".join([message, *getattr(error, "__notes__", ())]), file=sys.stderr)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dasksim", description="Simulate training sets for simulation-based inference into Zarr stores."
    )
    parser.add_argument("--version", action="version", version=f"dasksim {__version__}")
    commands = parser.add_subparsers(title="commands", required=True)

    first = commands.add_parser(
        "check", help="try a simulator before a long run: the same bits everywhere? exit code 4 if not"
    )
    first.add_argument("target", help="a model's name, package.module:object or file.py:object")
    first.add_argument("-n", "--n-samples", type=int, help="number of samples (default: what takes about a second)")
    first.add_argument("--seed", type=int, help="an integer >= 0 (default: fresh entropy)")
    first.add_argument("--sub-batch-size", type=int, help="samples simulated together by batched functions")
    first.set_defaults(run=_check)

    one = commands.add_parser("generate", help="simulate a dataset into a store, or go on where a run was stopped")
    _add_target(one)
    one.add_argument("-n", "--n-samples", type=int, required=True, help="number of samples")
    one.add_argument("--seed", type=int, help="an integer >= 0 (default: fresh entropy, which the store records)")
    one.add_argument(
        "--sub-batch-size", type=int, help="samples simulated together; values of batched functions depend on it"
    )
    one.add_argument("--chunk-size", type=int, help="samples in a chunk, a multiple of the sub-batch size")
    one.add_argument("--dtype", help="store all floating-point variables in this dtype")
    one.add_argument("--device", default="auto", help="auto, cpu or gpu: where stages run that can run on a GPU")
    one.add_argument("--on-error", default="raise", help="where a stage raises an exception: raise, mask or redraw")
    one.add_argument("--on-nonfinite", default="keep", help="where it returns NaN: keep, raise, mask or redraw")
    one.add_argument("--overwrite", action="store_true", help="remove a dasksim store that is there")
    one.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    one.add_argument("--repair", action="store_true", help="simulate chunks again that verify finds damaged")
    _add_run(one)
    one.set_defaults(run=_generate)

    two = commands.add_parser("extend", help="make a store longer")
    _add_target(two)
    two.add_argument("-n", "--n-samples", type=int, required=True, help="number of samples that it shall have")
    _add_run(two)
    two.set_defaults(run=_extend)

    added = commands.add_parser("derive", help="add variables to a store that are computed from its own")
    added.add_argument("target", help="package.module:function or file.py:function, which takes variables by name")
    added.add_argument("store", help="path or URL of the store")
    added.add_argument("--seed", type=int, help="an integer >= 0 (default: the store's)")
    added.add_argument("--batched", action="store_true", help="call the function once for a whole sub-batch")
    added.add_argument("--dtype", help="store new floating-point variables in this dtype")
    added.add_argument("--overwrite", action="store_true", help="remove derived variables of the same names")
    added.add_argument("--repair", action="store_true", help="compute chunks again that verify finds damaged")
    _add_scheduler(added)
    added.set_defaults(run=_derive)

    three = commands.add_parser("status", help="say how far a store is; exit code 1 if it is incomplete")
    three.add_argument("store", help="path or URL of the store")
    three.set_defaults(run=_status)

    four = commands.add_parser("verify", help="check a store against its receipts; exit code 3 if chunks are damaged")
    four.add_argument("store", help="path or URL of the store")
    four.add_argument("--target", help="what it was made with, for --resimulate")
    four.add_argument("--resimulate", type=int, default=0, help="chunks, chosen at random, to simulate and compare")
    four.add_argument("--no-progress", action="store_true", help="show no progress bar")
    four.set_defaults(run=_verify)

    five = commands.add_parser("replay", help="run one sample again, and show what each stage was given and made")
    _add_target(five)
    five.add_argument("sample", type=int, help="number of the sample, from 0")
    five.add_argument("--pdb", action="store_true", help="start the debugger where a stage raises an exception")
    five.set_defaults(run=_replay)

    six = commands.add_parser("report", help="write a page on a store, with statistics and plots")
    six.add_argument("store", help="path or URL of the store")
    six.add_argument("-o", "--output", default="report.html", help="where to write it (default: report.html)")
    six.set_defaults(run=_report)

    seven = commands.add_parser("models", help="list the models that come with dasksim")
    seven.set_defaults(run=_models)
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", help="a model's name, package.module:object or file.py:object")
    parser.add_argument("store", help="path or URL of the store")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--audit",
        choices=list(_AUDITS),
        default="stop",
        help="where samples that are simulated again differ: stop, warn; or do not look: no (default: stop)",
    )
    parser.add_argument("--part", type=_part, help="i/m: simulate the i-th of m shares only, i from 0")
    parser.add_argument(
        "--timeout", type=float, help="seconds that a sample may take, or a sub-batch of batched functions"
    )
    _add_scheduler(parser)


def _add_scheduler(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-changed", action="store_true", help="go on although a stage's source has changed")
    parser.add_argument("--scheduler", help="synchronous, threads, processes or tcp://host:port (default: as fits)")
    parser.add_argument("--workers", type=int, help="run on this many worker processes, with a dashboard")
    parser.add_argument("--retries", type=int, default=3, help="tries more of a chunk whose worker died (default: 3)")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def _part(text: str) -> tuple[int, int]:
    i, _, m = text.partition("/")
    try:
        return int(i), int(m)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be i/m, such as 0/4; got {text!r}") from None


@contextlib.contextmanager
def _run_options(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with _workers(arguments.workers, arguments.scheduler) as scheduler:
        yield {
            "part": arguments.part,
            "timeout": arguments.timeout,
            "allow_changed": arguments.allow_changed,
            "scheduler": scheduler,
            "retries": arguments.retries,
            "progress": False if arguments.no_progress else None,
            "audit": _AUDITS[arguments.audit],
        }


@contextlib.contextmanager
def _workers(n_workers: int | None, scheduler: str | None) -> Iterator[Any]:
    """Give a client of a local cluster, if workers are asked for, else the scheduler."""
    if n_workers is None:
        yield scheduler
        return
    if scheduler is not None:
        raise ArgumentError(f"give --workers {n_workers} or --scheduler {scheduler}, not both")
    if n_workers < 1:
        raise ArgumentError(f"--workers must be >= 1; got {n_workers}")
    import dask  # which nothing else needs at once
    from distributed import Client, LocalCluster  # it takes half a second

    keeps_memory = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}  # see docs/clusters.md
    with warnings.catch_warnings(), dask.config.set(keeps_memory):
        warnings.filterwarnings("ignore", message="Port .* is already in use")  # the line below tells which it is
        # one thread each: functions called by the sample hold the interpreter's lock
        cluster = LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:8787")
    with cluster, Client(cluster, set_as_default=False) as client:
        print(f"dashboard: {cluster.dashboard_link}", file=sys.stderr)  # noqa: T201
        yield client


def _check(arguments: argparse.Namespace) -> int:
    simulator = load_simulator(arguments.target)
    found = dasksim.check(simulator, arguments.n_samples, seed=arguments.seed, sub_batch_size=arguments.sub_batch_size)
    print(found)  # noqa: T201
    return OK if found.is_good else IRREPRODUCIBLE


def _generate(arguments: argparse.Namespace) -> int:
    # first: a target that does not exist starts no workers
    simulator = load_simulator(arguments.target)
    with _run_options(arguments) as options:
        dasksim.generate(
            simulator,
            arguments.store,
            arguments.n_samples,
            seed=arguments.seed,
            sub_batch_size=arguments.sub_batch_size,
            chunk_size=arguments.chunk_size,
            dtypes=arguments.dtype,
            device=arguments.device,
            on_error=arguments.on_error,
            on_nonfinite=arguments.on_nonfinite,
            overwrite=arguments.overwrite,
            repair=arguments.repair,
            dry_run=arguments.dry_run,
            **options,
        )
    if not arguments.dry_run:
        print(dasksim.status(arguments.store), file=sys.stderr)  # noqa: T201
    return OK


def _extend(arguments: argparse.Namespace) -> int:
    simulator = load_simulator(arguments.target)
    with _run_options(arguments) as options:
        dasksim.extend(arguments.store, simulator, arguments.n_samples, **options)
    print(dasksim.status(arguments.store), file=sys.stderr)  # noqa: T201
    return OK


def _derive(arguments: argparse.Namespace) -> int:
    function = _load_object(arguments.target)
    with _workers(arguments.workers, arguments.scheduler) as scheduler:
        dasksim.derive(
            arguments.store,
            function,
            seed=arguments.seed,
            is_batched=arguments.batched,
            dtypes=arguments.dtype,
            overwrite=arguments.overwrite,
            allow_changed=arguments.allow_changed,
            repair=arguments.repair,
            scheduler=scheduler,
            retries=arguments.retries,
            progress=False if arguments.no_progress else None,
        )
    print(dasksim.status(arguments.store), file=sys.stderr)  # noqa: T201
    return OK


def _verify(arguments: argparse.Namespace) -> int:
    simulator = load_simulator(arguments.target) if arguments.target else None
    progress = False if arguments.no_progress else None
    found = dasksim.verify(arguments.store, simulator, resimulate=arguments.resimulate, progress=progress)
    print(found)  # noqa: T201
    return OK if found.is_good else DAMAGED


def _replay(arguments: argparse.Namespace) -> int:
    simulator = load_simulator(arguments.target)
    try:
        found = dasksim.replay(arguments.store, simulator, arguments.sample)
    except DasksimError:
        raise
    except Exception as error:
        if not arguments.pdb:
            raise
        traceback.print_exception(error)
        pdb.post_mortem(error.__traceback__)
        return FAILED
    print(found)  # noqa: T201
    return OK


def _status(arguments: argparse.Namespace) -> int:
    found = dasksim.status(arguments.store)
    print(found)  # noqa: T201
    return DAMAGED if found.damaged else OK if found.is_complete else INCOMPLETE


def _report(arguments: argparse.Namespace) -> int:
    print(dasksim.report(arguments.store, arguments.output))  # noqa: T201
    return OK


def _models(arguments: argparse.Namespace) -> int:
    for name, model in dasksim.models.MODELS.items():
        print(f"{name:<20} {(model.__doc__ or '').strip().splitlines()[0]}")  # noqa: T201
    return OK


def load_simulator(target: str) -> "dasksim.Simulator":
    """Return the simulator that a target names.

    Parameters
    ----------
    target
        The name of a model, ``package.module:object`` or ``file.py:object``. The object is a simulator, or anything
        that :func:`~dasksim.make_simulator` takes.

    Raises
    ------
    ArgumentError
        If there is none.
    """
    if target in dasksim.models.MODELS:
        return dasksim.models.MODELS[target]()
    found = _load_object(target)
    return found if isinstance(found, dasksim.Simulator) else dasksim.make_simulator(found)


def _load_object(target: str) -> Any:
    module_name, colon, path = target.rpartition(":")
    if not colon or not module_name or not path:
        raise ArgumentError(
            f"target {target!r} is no model, and no package.module:object or file.py:object; "
            f"{nearest(target, dasksim.models.MODELS)}"
        )
    found: Any = _load_file(Path(module_name)) if module_name.endswith(".py") else _load_module(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise ArgumentError(f"{module_name!r} has no {name!r}; {nearest(name, dir(found))}")
        found = getattr(found, name)
    return found


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the current folder, as for python -m
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ArgumentError(f"cannot import {name!r}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ArgumentError(f"there is no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"cannot import {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    # before it runs: dataclasses look for the module of a class there, and cloudpickle does below
    sys.modules[path.stem] = module
    # so that it can import its neighbours, as a script can
    sys.path.insert(0, str(path.parent.absolute()))
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)  # workers cannot import it
    return module


if __name__ == "__main__":
    sys.exit(main())

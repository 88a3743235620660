"""The command line: ``dasksim generate``, ``dasksim status`` and ``dasksim models``."""

import argparse
import contextlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from dasksim._generate import generate
from dasksim._version import __version__
from dasksim.errors import ArgumentError, DasksimError, nearest
from dasksim.models import MODELS
from dasksim.simulators import Simulator, make_simulator
from dasksim.store import status

__all__ = ["main"]

#: Exit codes: all went well; the store is incomplete; the call or the simulator was wrong; interrupted by Ctrl-C.
OK, INCOMPLETE, FAILED, INTERRUPTED = 0, 1, 2, 130


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
        return FAILED
    except KeyboardInterrupt as error:
        _say("dasksim: interrupted", error)
        return INTERRUPTED
    return code


def _say(message: str, error: BaseException) -> None:
    print("\n".join([message, *getattr(error, "__notes__", ())]), file=sys.stderr)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dasksim", description="Simulate training sets for simulation-based inference into Zarr stores."
    )
    parser.add_argument("--version", action="version", version=f"dasksim {__version__}")
    commands = parser.add_subparsers(title="commands", required=True)

    one = commands.add_parser("generate", help="simulate a dataset into a store, or go on where a run was stopped")
    one.add_argument("target", help="a model's name, package.module:object or file.py:object")
    one.add_argument("store", help="path of the store")
    one.add_argument("-n", "--n-samples", type=int, required=True, help="number of samples")
    one.add_argument("--seed", type=int, help="an integer >= 0 (default: fresh entropy, which the store records)")
    one.add_argument("--sub-batch-size", type=int, help="samples that share a stream of random numbers")
    one.add_argument("--chunk-size", type=int, help="samples in a chunk, a multiple of the sub-batch size")
    one.add_argument("--dtype", help="store all floating-point variables in this dtype")
    one.add_argument("--overwrite", action="store_true", help="remove a dasksim store that is at the path")
    one.add_argument("--scheduler", help="synchronous, threads, processes or tcp://host:port (default: as fits)")
    one.add_argument("--workers", type=int, help="run on this many worker processes, with a dashboard")
    one.add_argument("--retries", type=int, default=3, help="tries more of a chunk whose worker died (default: 3)")
    one.add_argument("--no-progress", action="store_true", help="show no progress bar")
    one.set_defaults(run=_generate)

    two = commands.add_parser("status", help="say how far a store is; exit code 1 if it is incomplete")
    two.add_argument("store", help="path of the store")
    two.set_defaults(run=_status)

    three = commands.add_parser("models", help="list the models that come with dasksim")
    three.set_defaults(run=_models)
    return parser


def _generate(arguments: argparse.Namespace) -> int:
    simulator = load_simulator(arguments.target)
    with _workers(arguments.workers, arguments.scheduler) as scheduler:
        generate(
            simulator,
            arguments.store,
            arguments.n_samples,
            seed=arguments.seed,
            sub_batch_size=arguments.sub_batch_size,
            chunk_size=arguments.chunk_size,
            dtypes=arguments.dtype,
            overwrite=arguments.overwrite,
            scheduler=scheduler,
            retries=arguments.retries,
            progress=False if arguments.no_progress else None,
        )
    print(status(arguments.store), file=sys.stderr)  # noqa: T201
    return OK


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
    from distributed import Client, LocalCluster  # it takes half a second

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Port .* is already in use")  # the line below tells which it is
        cluster = LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:8787")
    with cluster, Client(cluster, set_as_default=False) as client:
        print(f"dashboard: {cluster.dashboard_link}", file=sys.stderr)  # noqa: T201
        yield client


def _status(arguments: argparse.Namespace) -> int:
    found = status(arguments.store)
    print(found)  # noqa: T201
    return OK if found.is_complete else INCOMPLETE


def _models(arguments: argparse.Namespace) -> int:
    for name, model in MODELS.items():
        print(f"{name:<20} {(model.__doc__ or '').strip().splitlines()[0]}")  # noqa: T201
    return OK


def load_simulator(target: str) -> Simulator:
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
    if target in MODELS:
        return MODELS[target]()
    module_name, colon, path = target.rpartition(":")
    if not colon or not module_name or not path:
        raise ArgumentError(
            f"target {target!r} is no model, and no package.module:object or file.py:object; {nearest(target, MODELS)}"
        )
    found: Any = _load_file(Path(module_name)) if module_name.endswith(".py") else _load_module(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise ArgumentError(f"{module_name!r} has no {name!r}; {nearest(name, dir(found))}")
        found = getattr(found, name)
    return found if isinstance(found, Simulator) else make_simulator(found)


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
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.absolute()))
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)  # workers cannot import it
    return module


if __name__ == "__main__":
    sys.exit(main())

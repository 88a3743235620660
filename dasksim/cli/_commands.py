"""What each command does."""

import argparse
import contextlib
import dataclasses
import json
import pdb
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

# as users do: a name is loaded when a command asks for it
import dasksim
from dasksim._execution.starting import starting
from dasksim.cli._codes import DAMAGED, FAILED, INCOMPLETE, IRREPRODUCIBLE, OK
from dasksim.cli._targets import load_object, load_simulator
from dasksim.cli._words import in_options
from dasksim.errors import ArgumentError, DasksimError

__all__ = ["AUDITS", "check", "derive", "extend", "generate", "models", "replay", "report", "status", "verify"]

#: What becomes of a difference that an audit finds.
AUDITS: dict[str, bool | str] = {"stop": True, "warn": "warn", "no": False}


@contextlib.contextmanager
def _run_options(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with _workers(arguments) as scheduler:
        yield {
            "part": arguments.part,
            "timeout": arguments.timeout,
            "allow_changed": arguments.allow_changed,
            "scheduler": scheduler,
            "retries": arguments.retries,
            "progress": _is_progress_shown(arguments),
            "audit": AUDITS[arguments.audit],
        }


@contextlib.contextmanager
def _workers(arguments: argparse.Namespace) -> Iterator[Any]:
    """Give a client of a local cluster, if workers are asked for, else the scheduler."""
    n_workers, scheduler = arguments.workers, arguments.scheduler
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
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings(), dask.config.set(keeps_memory), starting():
            warnings.filterwarnings("ignore", message="Port .* is already in use")  # the line below tells which it is
            # one thread each: functions called by the sample hold the interpreter's lock
            cluster = stack.enter_context(
                LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:8787")
            )
        client = stack.enter_context(Client(cluster, set_as_default=False))
        if not arguments.quiet:
            print(f"dashboard: {cluster.dashboard_link}", file=sys.stderr)  # noqa: T201
        yield client


def check(arguments: argparse.Namespace) -> int:
    """Try a simulator in several ways."""
    simulator = _simulator(arguments)
    found = dasksim.check(simulator, arguments.n_samples, seed=arguments.seed, sub_batch_size=arguments.sub_batch_size)
    _show(found, arguments, is_good=found.is_good, seconds=found.seconds)
    return OK if found.is_good else IRREPRODUCIBLE


def generate(arguments: argparse.Namespace) -> int:
    """Simulate into a store."""
    # first: a target that does not exist starts no workers
    simulator = _simulator(arguments)
    with _run_options(arguments) as options:
        dasksim.generate(
            simulator,
            arguments.store,
            arguments.n_samples,
            seed=arguments.seed,
            conditions=dict(arguments.conditions) or None,
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
        _say_status(arguments)
    return OK


def extend(arguments: argparse.Namespace) -> int:
    """Make a store longer."""
    simulator = _simulator(arguments)
    with _run_options(arguments) as options:
        dasksim.extend(
            arguments.store, simulator, arguments.n_samples, conditions=dict(arguments.conditions) or None, **options
        )
    _say_status(arguments)
    return OK


def derive(arguments: argparse.Namespace) -> int:
    """Add variables to a store."""
    function = load_object(arguments.target)
    with _workers(arguments) as scheduler:
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
            progress=_is_progress_shown(arguments),
        )
    _say_status(arguments)
    return OK


def verify(arguments: argparse.Namespace) -> int:
    """Check a store against its receipts."""
    if arguments.resimulate and not arguments.target:
        raise ArgumentError("--resimulate needs --target, what the store was made with")
    simulator = _simulator(arguments) if arguments.target else None
    found = dasksim.verify(
        arguments.store,
        simulator,
        conditions=dict(arguments.conditions),
        resimulate=arguments.resimulate,
        progress=_is_progress_shown(arguments),
    )
    if not (arguments.quiet and found.is_good):
        _show(found, arguments, is_good=found.is_good)
    return OK if found.is_good else DAMAGED


def replay(arguments: argparse.Namespace) -> int:
    """Run one sample again."""
    simulator = _simulator(arguments)
    try:
        found = dasksim.replay(
            arguments.store, simulator, arguments.sample, conditions=dict(arguments.conditions) or None
        )
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


def status(arguments: argparse.Namespace) -> int:
    """Say how far a store is."""
    found = dasksim.status(arguments.store)
    _show(found, arguments, is_complete=found.is_complete, n_failed=found.n_failed)
    return DAMAGED if found.damaged else OK if found.is_complete else INCOMPLETE


def report(arguments: argparse.Namespace) -> int:
    """Write a page on a store."""
    print(dasksim.report(arguments.store, arguments.output))  # noqa: T201
    return OK


def models(arguments: argparse.Namespace) -> int:
    """List the models."""
    says = {name: (model.__doc__ or "").strip().splitlines()[0] for name, model in dasksim.models.MODELS.items()}
    width = max(map(len, says))
    lines = [json.dumps(says, indent=2)] if arguments.json else [f"{n:<{width}}  {line}" for n, line in says.items()]
    print("\n".join(lines))  # noqa: T201
    return OK


def _simulator(arguments: argparse.Namespace) -> "dasksim.Simulator":
    return load_simulator(arguments.target, dict(arguments.option))


def _is_progress_shown(arguments: argparse.Namespace) -> bool:
    return not (arguments.no_progress or arguments.quiet)


def _say_status(arguments: argparse.Namespace) -> None:
    if not arguments.quiet:
        print(in_options(str(dasksim.status(arguments.store))), file=sys.stderr)  # noqa: T201


def _show(found: Any, arguments: argparse.Namespace, **more: Any) -> None:
    """Print what was found, as text or as JSON."""
    if not arguments.json:
        print(in_options(str(found)))  # noqa: T201
        return
    fields = {one.name: getattr(found, one.name) for one in dataclasses.fields(found)}
    print(json.dumps({**fields, **more}, indent=2, default=_for_json))  # noqa: T201


def _for_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return value.item() if hasattr(value, "item") else str(value)

"""What the audit costs: simulators are generated with and without it, in turn, and ratios of the times are printed.

python benchmarks/audit.py [--repeats 5]
"""

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import dasksim


def prior(rng: np.random.Generator) -> dict[str, Any]:
    """Draw parameters."""
    return {"theta": rng.normal(size=2)}


def waiting(seconds: float) -> Callable[..., dict[str, Any]]:
    """Return a likelihood that takes so long, of work."""

    def likelihood(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop:
            pass
        return {"x": rng.normal(theta)}

    return likelihood


CASES: dict[str, tuple[Callable[[], dasksim.Simulator], int, str]] = {
    "two moons": (dasksim.models.two_moons, 10_000_000, "threads"),
    "1 ms a sample": (lambda: dasksim.make_simulator([prior, waiting(1e-3)]), 20_000, "processes"),
    "1 s a sample": (lambda: dasksim.make_simulator([prior, waiting(1.0)]), 40, "processes"),
}


def timed(simulator: dasksim.Simulator, n: int, scheduler: str, audit: bool) -> tuple[float, str]:
    """Return the seconds of a run, and what its audit found."""
    folder = Path(tempfile.mkdtemp())
    try:
        start = time.perf_counter()
        dasksim.generate(simulator, folder / "s.zarr", n, seed=1, scheduler=scheduler, audit=audit, progress=False)
        seconds = time.perf_counter() - start
        return seconds, str(dasksim.status(folder / "s.zarr").audit or "not audited")
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    for name, (make, n, scheduler) in CASES.items():
        ratios, found = [], ""
        for repeat in range(arguments.repeats):
            order = (True, False) if repeat % 2 else (False, True)  # so that neither is always first
            seconds = {}
            for audit in order:
                seconds[audit], told = timed(make(), n, scheduler, audit)
                found = told if audit else found
            ratios.append(seconds[True] / seconds[False])
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{name:<15} n={n:>10,}: {statistics.median(ratios):.3f} of the time ({spread}); {found}", flush=True)


if __name__ == "__main__":
    main()

"""What rejection wastes, and what it costs over unfiltered sampling.

Waste is the number of proposals over what a sampler that knew everything would make, for which stands its expectation,
the number of samples over the acceptance. Speeds are medians of repeats in turn, in one thread::

    python benchmarks/rejection.py
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import dasksim


def prior_of_many(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
    """Draw many parameters."""
    return {"u": rng.uniform(size=batch_shape)}


def prior(rng: np.random.Generator) -> dict[str, Any]:
    """Draw one parameter."""
    return {"u": rng.uniform()}


SIMULATORS = {
    "batched": dasksim.make_simulator(prior_of_many, is_batched=True),
    "unbatched": dasksim.make_simulator(prior),
}

#: Simulator, acceptance and number of samples, before scaling.
CASES = [
    ("batched", 0.5, 100_000),
    ("batched", 0.05, 100_000),
    ("batched", 0.001, 100_000),
    ("unbatched", 0.5, 20_000),
    ("unbatched", 0.05, 20_000),
]


def accepts(acceptance: float, u: Any) -> Any:
    """Accept the smallest."""
    return u < acceptance


def seconds(run: Callable[[], object]) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def row(store: Path, name: str, acceptance: float, n: int, repeats: int) -> None:
    """Measure one case and print one line of the table."""
    plain = SIMULATORS[name]
    rejection = dasksim.RejectionSimulator(plain, partial(accepts, acceptance))
    dasksim.generate(rejection, store, n, seed=2025, scheduler="synchronous", overwrite=True)
    found = dasksim.status(store)
    filtered = rejection.sample(n, seed=2025)
    unfiltered = plain.sample(found.n_proposals, seed=2025)
    pairs = [
        (
            seconds(lambda: filtered.compute(scheduler="synchronous")),
            seconds(lambda: unfiltered.compute(scheduler="synchronous")),
        )
        for _ in range(repeats + 1)
    ][1:]
    ours, theirs = (found.n_proposals / statistics.median(side) / 1e6 for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(
        f"| {name} | {acceptance} | {n:,} | {found.n_proposals:,} | {found.acceptance_rate:.3g} | "
        f"{found.n_proposals / (n / acceptance):.3f} | {ours:.3g} | {theirs:.3g} | {ratio:.2f} |",
        flush=True,
    )


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the numbers of samples")
    options = parser.parse_args()
    print(
        "| prior | acceptance | samples | proposals | accepted / proposals | proposals / expected need | "
        "M proposals/s | M samples/s, unfiltered | ratio |\n|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, acceptance, n in CASES:
            row(Path(folder) / "s.zarr", name, acceptance, max(int(n * options.scale), 1), options.repeats)


if __name__ == "__main__":
    main()

"""What a GPU would have to do for a sub-batch of each model, counted where there is none.

Arrays of a stand-in for CuPy count the kernels that are started and the bytes that these read and write; the numbers
of rows are those of a GPU. Two bounds follow, whichever is lower: the bytes over a card's memory bandwidth, and the
kernels' starts. Generators draw on the host here, and are counted as one kernel for each call::

    python benchmarks/gpu_counts.py
"""

import argparse
import contextlib
import sys
from pathlib import Path
from unittest import mock

from dasksim.models import MODELS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import standin

#: Bytes a second of a card's memory, and seconds to start a kernel.
BANDWIDTH, START = 3e12, 4e-6

BENCHMARKS = [name for name, model in MODELS.items() if "variant" in model.__annotations__]


def counted(name: str) -> tuple[int, int, int, int, list[str]]:
    """Return rows of a sub-batch, its bytes, kernels, bytes that these move, and what crosses to the host."""
    lazy = MODELS[name]().sample(1 << 21, seed=1, device="gpu")
    arrays = {str(v.name): v.data for v in lazy.data_vars.values() if v.chunks}
    n = lazy.chunks["batch"][0]
    one = MODELS[name]().sample(n, seed=1, device="gpu", sub_batch_size=n, chunk_size=n)
    standin.KERNELS.clear()
    standin.CROSSINGS.clear()
    one.compute(scheduler="synchronous")
    n_bytes = sum(n * arrays[v].nbytes // len(lazy.batch) if "batch" in lazy[v].dims else 0 for v in arrays)
    # what a dataset's own variables cross to the host with is not a kernel's
    crossed = [f"{kind} {shape}" for kind, shape in standin.CROSSINGS if shape[:1] != (n,)]
    return n, n_bytes, len(standin.KERNELS), sum(moved for _, moved in standin.KERNELS), crossed


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=BENCHMARKS, help="which models (default: all)")
    options = parser.parse_args()
    patches = [
        mock.patch("dasksim._core.arrays._open_gpu", standin.StandInDevice),
        mock.patch("dasksim._core.arrays._why_no_gpu", return_value=None),
    ]
    print("| model | rows | kernels | bytes moved / of a sample | small copies to the host | M samples/s at most |")
    print("|---|---|---|---|---|---|")
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        for name in options.models:
            n, n_bytes, kernels, moved, crossed = counted(name)
            most = n / max(moved / BANDWIDTH, kernels * START)
            bound = "bytes" if moved / BANDWIDTH > kernels * START else "starts"
            print(
                f"| {name} | {n:,} | {kernels:,} | {moved / n:.0f} / {n_bytes / n:.0f} = {moved / n_bytes:.1f} "
                f"| {len(crossed):,} | {most / 1e6:,.0f} ({bound}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()

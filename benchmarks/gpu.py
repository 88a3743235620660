"""A GPU against the cores of its machine: samples a second of each model, and two moons into a store.

Both sides are timed in one run, the best of several repeats. The GPU's samples stay on the GPU for the table; the store
has the time to the host and to the disk in it. Needs a GPU and CuPy::

    python benchmarks/gpu.py --store-samples 100000000
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable

import dasksim
from dasksim.models import MODELS, two_moons

BENCHMARKS = [name for name, model in MODELS.items() if "variant" in model.__annotations__]


#: Bytes of a dataset at most, so that a GPU holds it twice.
MOST_BYTES = 8 << 30


def best(run: Callable[[], object], repeats: int) -> float:
    """Return the shortest time of several calls on the wall."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def seconds_a_sample(name: str, n: int, device: str, repeats: int) -> float:
    """Return the seconds on the wall that a sample takes."""
    row_bytes = MODELS[name]().sample(1, seed=1, device="cpu").nbytes
    n = min(n, MOST_BYTES // row_bytes)
    lazy = MODELS[name]().sample(n, seed=1, device=device)
    if device == "cpu":
        return best(lambda: lazy.compute(scheduler="threads", num_workers=os.cpu_count()), repeats) / n
    import cupy

    def run() -> None:
        lazy.compute(scheduler="threads", num_workers=2)
        cupy.cuda.Device().synchronize()

    run()  # its kernels are compiled at the first call
    return best(run, repeats) / n


def main() -> None:
    """Print the table, and what the store took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=1 << 23, help="samples of each model (default: 2**23)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=BENCHMARKS, help="which models (default: all)")
    parser.add_argument("--store-samples", type=int, default=0, help="two-moons samples into a store (default: none)")
    options = parser.parse_args()
    try:
        two_moons().sample(4, seed=1, device="gpu").compute()
    except dasksim.ArgumentError as error:
        sys.exit(str(error))
    print(f"| model | M samples/s, {os.cpu_count()} cores | GPU | ratio |\n|---|---|---|---|")
    for name in options.models:
        cpu, gpu = (seconds_a_sample(name, options.n, device, options.repeats) for device in ("cpu", "gpu"))
        print(f"| {name} | {1e-6 / cpu:.2f} | {1e-6 / gpu:.2f} | {cpu / gpu:.1f} |", flush=True)
    if options.store_samples:
        folder = tempfile.mkdtemp()
        start = time.perf_counter()
        dasksim.generate(two_moons(), f"{folder}/s.zarr", options.store_samples, seed=1, device="gpu", progress=False)
        seconds = time.perf_counter() - start
        rate = options.store_samples / seconds / 1e6
        print(f"\n{options.store_samples:,} two-moons samples to a store in {seconds:.1f} s: {rate:.1f} M samples/s")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""Samples of each model into a store, by the command line: time, peak memory, size.

Prints one table, and what the disk takes by itself::

    python benchmarks/model_stores.py -n 10000000 --folder /data
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from dasksim.models import MODELS

BENCHMARKS = [name for name, model in MODELS.items() if "variant" in model.__annotations__]


class PeakMemory(threading.Thread):
    """Watches the memory of a process and of its children, ten times a second."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.process = process
        self.peak = 0

    def run(self) -> None:
        with contextlib.suppress(psutil.Error):  # when it has ended
            while True:
                self.peak = max(self.peak, self._memory())
                time.sleep(0.1)

    def _memory(self) -> int:
        total: int = self.process.memory_info().rss
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                total += child.memory_info().rss
        return total


def generated(name: str, store: Path, n: int, options: list[str]) -> tuple[float, int]:
    """Run the command line; return its seconds and its peak memory."""
    command = [
        sys.executable,
        "-m",
        "dasksim",
        "generate",
        name,
        str(store),
        "-n",
        str(n),
        "--seed",
        "1",
        "--no-progress",
    ]
    start = time.perf_counter()
    process = psutil.Popen([*command, *options], stderr=subprocess.DEVNULL)
    memory = PeakMemory(process)
    memory.start()
    if process.wait():
        sys.exit(f"generating {name} failed")
    seconds = time.perf_counter() - start
    memory.join()
    return seconds, memory.peak


def disk_rate(folder: Path) -> float:
    """Return the bytes a second that the disk takes, over one GB."""
    path, block = folder / "bare", os.urandom(1 << 24)
    start = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(64):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return 64 * len(block) / seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10_000_000, help="samples of each model")
    parser.add_argument("--models", nargs="*", default=BENCHMARKS, help="which models (default: all)")
    parser.add_argument("--folder", help="where the stores are made, and removed (default: a temporary folder)")
    options, further = parser.parse_known_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    print(f"{options.n:,} samples each, {os.cpu_count()} cores; options: {' '.join(further) or 'none'}")
    print(f"the disk takes {disk_rate(folder) / 1e6:,.0f} MB/s\n")
    print("| model | wall, s | k samples/s | peak memory, MB | store, MB | MB/s |\n|---|---|---|---|---|---|")
    for name in options.models:
        store = folder / f"{name}.zarr"
        seconds, peak = generated(name, store, options.n, further)
        size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
        shutil.rmtree(store)
        rate = options.n / seconds / 1e3
        cells = [name, f"{seconds:,.1f}", f"{rate:,.0f}", f"{peak / 1e6:,.0f}", f"{size / 1e6:,.0f}"]
        print("| " + " | ".join([*cells, f"{size / seconds / 1e6:,.0f}"]) + " |", flush=True)
    folder.rmdir()


if __name__ == "__main__":
    main()

"""Measure how the Zarr layout of a training set affects writing and reading it.

A training set holds one array per variable, of shape ``(n, *features)``. A shard is a
chunk of samples along axis 0, written whole by one task; a training loader reads inner
chunks. For a few representative variables, this script measures writing whole shards
from two threads, reading shuffled batches (inner chunks are visited in random order,
several are read whole, and their rows are shuffled together) and reading shards in
order; then codecs of integers; then whether the variables of a chunk are better written
one after the other, or in one hop to Zarr's event loop.

Repetitions take turns over the layouts, so a passing load touches all alike; medians
are printed, and in brackets their ratio to the best. What is read was just written, and
comes from the page cache. Row counts are powers of two, hence multiples of each other.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.core.sync import sync  # It has no public name; only the hop needs it.

Data = np.ndarray[Any, np.dtype[Any]]
Layout = tuple[int, int, str]  # rows of a shard, rows of an inner chunk, codec
KIB, MIB = 1 << 10, 1 << 20
SIZE = 32 * MIB  # of a variable
SHARDS, INNERS = (MIB, 4 * MIB, 16 * MIB), (16 * KIB, 64 * KIB, 256 * KIB, MIB)
THREADS, BATCH, BUFFER = 2, 512, 8  # writers, samples, inner chunks
CODECS: dict[str, list[BytesBytesCodec]] = {
    "none": [],
    "blosc-lz4 shuffle": [BloscCodec(cname="lz4", shuffle="shuffle")],
    "blosc-lz4 bitshuffle": [BloscCodec(cname="lz4", shuffle="bitshuffle")],
    "blosc-zstd-1 shuffle": [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")],
    "zstd-1": [ZstdCodec(level=1)],
}
HEADER = ["shard KiB (rows)", "inner KiB (rows)", "codec", "compression", "write MiB/s"]
HEADER += ["shuffled MiB/s", "in order MiB/s", "shuffled 1000 samples/s", "buffer MiB"]


def rows_of(nbytes: int, row_bytes: int) -> int:
    """Return the power of two of rows that is nearest to ``nbytes``."""
    return 1 << round(math.log2(nbytes / row_bytes))


def slices(rows: int, step: int) -> list[slice]:
    """Cut ``rows`` rows into slices of ``step`` rows."""
    return [slice(start, start + step) for start in range(0, rows, step)]


def timed(run: Callable[[], Iterable[Any]]) -> float:
    """Return the seconds it takes to go through what ``run`` returns."""
    start = time.perf_counter()
    for _ in run():
        pass
    return time.perf_counter() - start


def print_table(title: str, *rows: list[str]) -> None:
    """Print a markdown table of which the first row is the header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    print(f"\n### {title}\n", *lines, sep="\n", flush=True)


def create(at: Path, data: Data, layout: Layout) -> zarr.Array[Any]:
    """Create the array of one variable, still without a shard."""
    return zarr.create_array(
        at,
        shape=data.shape,
        dtype=data.dtype,
        chunks=(layout[1], *data.shape[1:]),
        shards=(layout[0], *data.shape[1:]),
        compressors=[*CODECS[layout[2]], Crc32cCodec()],
        config={"write_empty_chunks": True},
    )


def shuffled(array: zarr.Array[Any], parts: list[slice], group: int) -> Iterator[Data]:
    """Yield batches of the rows in ``parts``, shuffled in groups of parts."""
    step = parts[0].stop - parts[0].start
    rows = np.empty((group * step, *array.shape[1:]), array.dtype)
    for first in range(0, len(parts), group):
        for i, part in enumerate(parts[first : first + group]):
            rows[i * step : (i + 1) * step] = array[part]
        order = np.random.default_rng(first).permutation(len(rows))
        for batch in slices(len(rows), BATCH):
            yield rows[order[batch]]


def measure(at: Path, data: Data, layout: Layout) -> Data:
    """Return rates of writing, shuffled and ordered reading, and the compression."""
    array = create(at, data, layout)
    shards, inners = (slices(len(data), rows) for rows in layout[:2])
    group = min(max(BUFFER, BATCH // layout[1]), len(inners))
    visits = np.random.default_rng(0).permutation(len(inners))[: max(group, 512)]
    picked = [inners[visit] for visit in visits]

    def write(part: slice) -> None:
        array[part] = data[part]

    with ThreadPoolExecutor(THREADS) as pool:
        written = timed(lambda: pool.map(write, shards))
    shuffle = timed(lambda: shuffled(array, picked, group)) / len(picked) * len(inners)
    ordered = timed(lambda: map(array.__getitem__, shards))
    costs = np.array([written, shuffle, ordered, array.nbytes_stored()])
    shutil.rmtree(at)
    return data.nbytes / costs


def compare(title: str, data: Data, layouts: list[Layout], n: int, at: Path) -> None:
    """Measure ``layouts`` of one variable ``n`` times and print the medians."""
    row_bytes = data[0].nbytes
    measure(at, data, layouts[0])  # a warm-up
    runs = [[measure(at, data, each) for each in layouts] for _ in range(n)]
    rates: Data = np.median(runs, axis=0)
    table = []
    for layout, rate, ratio in zip(layouts, rates, rates / rates.max(0), strict=True):
        sizes = [f"{rows * row_bytes / KIB:.0f} ({rows})" for rows in layout[:2]]
        speeds = [f"{rate[i] / MIB:.0f} ({ratio[i]:.2f})" for i in range(3)]
        buffer = max(BUFFER * layout[1], BATCH) * row_bytes / MIB
        others = [f"{rate[1] / row_bytes / 1000:.0f}", f"{buffer:.2f}"]
        table.append([*sizes, layout[2], f"{rate[3]:.2f}", *speeds, *others])
    print_table(f"{title}, {row_bytes} bytes a sample", HEADER, *table)


def measure_hops(data: list[Data], shard: int, root: Path) -> list[float]:
    """Return ms to write a chunk by calls, by hop, then both from several threads."""
    layout = (shard, shard // BUFFER, "none")
    arrays = [create(root / f"{i}", each, layout) for i, each in enumerate(data)]
    pairs = list(zip(arrays, data, strict=True))

    def by_calls(part: slice) -> None:
        for array, values in pairs:
            array[part] = values[part]

    async def gather(part: slice) -> None:
        await asyncio.gather(*(a.async_array.setitem(part, d[part]) for a, d in pairs))

    # A chunk is written once: before it writes a shard, Zarr reads any there was.
    parts = slices(len(data[-1]), shard)[:64]
    ways = product((1, THREADS), (by_calls, lambda part: sync(gather(part))))
    seconds = []
    for i, (threads, write) in enumerate(ways):
        with ThreadPoolExecutor(threads) as pool:
            seconds.append(timed(partial(pool.map, write, parts[i::4])))
    shutil.rmtree(root)
    return [4000 * each / len(parts) for each in seconds]


def main() -> None:
    """Measure layouts, codecs and hops."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    rng, data = np.random.default_rng(0), dict[str, Data]()
    for width in (2, 10, 1000):
        shape = (rows_of(SIZE, 4 * width), width)
        data[f"float32 (n, {width})"] = rng.standard_normal(shape, "float32")
    counts = rng.poisson(np.geomspace(1, 1000, 10), (rows_of(SIZE, 80), 10))
    data["int64 (n, 10)"] = counts  # means from 1 to 1000
    with tempfile.TemporaryDirectory() as root:
        at = Path(root, "array")
        for title, values in data.items():
            codec = "none" if values.dtype.kind == "f" else "blosc-lz4 shuffle"
            layouts = []
            for shard in (rows_of(size, values[0].nbytes) for size in SHARDS):
                inners = {rows_of(size, values[0].nbytes) for size in INNERS} | {shard}
                layouts += [(shard, n, codec) for n in sorted(inners) if n <= shard]
            compare(title, values, layouts, args.repetitions, at)
        shard, *some = (rows_of(size, 80) for size in (4 * MIB, *INNERS[2:]))
        layouts = [(shard, *each) for each in product(some, CODECS)]
        compare("Codecs of int64 (n, 10)", counts, layouts, args.repetitions, at)
        table = [["chunk rows", "calls, ms", "hop, ms", "ratio"]]
        table[0] += [f"{THREADS} threads: {each}" for each in table[0][1:]]
        narrow = [values for values in data.values() if values.shape[1] <= 10]
        for shard in (512, 4096, 32768):
            runs = [measure_hops(narrow, shard, at) for _ in range(args.repetitions)]
            a, b, c, d = np.median(runs, axis=0)
            figures = (a, b, b / a, c, d, d / c)
            table.append([f"{shard}", *(f"{figure:.2f}" for figure in figures)])
    print_table("The variables of a chunk: one call each, or one hop", *table)


if __name__ == "__main__":
    main()

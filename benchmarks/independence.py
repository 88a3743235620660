"""Write first draws of streams, interleaved over samples, stages, seeds and attempts, for a test of randomness to read.

    python benchmarks/independence.py | dieharder -a -g 200
    python benchmarks/independence.py --birthdays 1e9

The second counts initial states that are alike among so many, by parts of them: by theory n states of b bits have
n**2 / 2**(b + 1) pairs that are alike.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterator

import numpy as np

from dasksim._streams.addresses import Address, stage_key
from dasksim._streams.cells import Cells, CellStreams, _mixed

STAGES = ("prior", "likelihood", "x", "model/observe")
ATTEMPTS = range(4)
SAMPLES = 1 << 14


def states(seed: int, stage: str, attempt: int, first: int) -> np.ndarray:
    """Return the states from which cells of a stage draw."""
    streams = CellStreams(Address(seed, stage_key(stage), 0, attempt), Cells(range(first, first + SAMPLES)))
    return _mixed(streams.words())[:, :4]


def draws(state: np.ndarray, n: int) -> np.ndarray:
    """Return the first n words of each stream, by SFC64's definition."""
    a, b, c, w = (state[:, i].copy() for i in range(4))
    out = np.empty((len(state), n), np.uint64)
    for i in range(n):
        out[:, i] = drawn = a + b + w
        w += np.uint64(1)
        a = b ^ (b >> np.uint64(11))
        b = c + (c << np.uint64(3))
        c = ((c << np.uint64(24)) | (c >> np.uint64(40))) + drawn
    return out


def blocks() -> Iterator[np.ndarray]:
    """Give draws of which neighbours are of other stages, attempts and seeds, then of other samples."""
    for first in itertools.count(0, SAMPLES):
        for seed in range(0, 16, 2):
            addresses = itertools.product((seed, seed + 1), STAGES, ATTEMPTS)
            yield np.stack([draws(states(*address, first), 2) for address in addresses], axis=1)


def write() -> None:
    """Write draws until nobody reads any more."""
    try:
        for block in blocks():
            sys.stdout.buffer.write(np.ascontiguousarray(block).tobytes())
    except BrokenPipeError:
        sys.stderr.close()


def birthdays(n: int, bits: int = 56) -> None:
    """Count pairs of states whose first bits are alike, of each of the three words; one word takes 8 bytes a state."""
    expected = n * n / 2 ** (bits + 1)
    addresses = list(itertools.product(range(2), STAGES, ATTEMPTS))
    for word in range(3):
        values, n_done = np.empty(n, np.uint64), 0
        while n_done < n:
            first = n_done // (SAMPLES * len(addresses)) * SAMPLES
            for address in addresses[: -(-(n - n_done) // SAMPLES)]:
                found = states(*address, first)[: n - n_done, word]
                values[n_done : n_done + len(found)] = found >> np.uint64(64 - bits)
                n_done += len(found)
        values.sort()
        n_alike = int((values[1:] == values[:-1]).sum())
        away = (n_alike - expected) / math.sqrt(expected)
        print(
            f"word {word}: {n_alike} pairs of {n:,} are alike in {bits} bits, {expected:.2f} expected: {away:+.2f} sd"
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--birthdays", type=float, help="number of states of which pairs are counted")
    arguments = parser.parse_args()
    birthdays(int(arguments.birthdays)) if arguments.birthdays else write()


if __name__ == "__main__":
    main()

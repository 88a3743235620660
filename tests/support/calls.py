"""Count the calls of stages, in this process and in others: each call appends a line to a file."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dasksim import Simulator, make_simulator

__all__ = ["Calls", "counted_simulator"]


class Calls:
    """Lines of one file, written by any number of processes and threads."""

    def __init__(self, path: Path) -> None:
        self._file = str(path / "calls.txt")

    def add(self, line: str) -> None:
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)

    def take(self) -> Counter[str]:
        """Return how often each line was written since the last time."""
        try:
            lines = Path(self._file).read_text().splitlines()
        except FileNotFoundError:
            return Counter()
        Path(self._file).unlink()
        return Counter(lines)


def counted_simulator(calls: Calls, **options: Any) -> Simulator:
    """Return a simulator of two batched stages, `loc` and `scale`, then `x`, and an unbatched one, `y`."""

    def prior(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
        calls.add("prior")
        return {"loc": rng.normal(size=batch_shape), "scale": rng.uniform(size=batch_shape)}

    def likelihood(batch_shape: tuple[int, ...], loc: Any, rng: np.random.Generator) -> dict[str, Any]:
        calls.add("likelihood")
        return {"x": loc[..., None] + rng.normal(size=(*batch_shape, 3))}

    def noise(scale: float, rng: np.random.Generator) -> dict[str, Any]:
        calls.add("noise")
        return {"y": rng.normal(0, scale)}

    stages = {"prior": prior, "likelihood": likelihood, "noise": noise}
    batched = {"prior": {"is_batched": True}, "likelihood": {"is_batched": True}, "noise": {}}
    return make_simulator(stages, obj_kwargs=batched, **options)

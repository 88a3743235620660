"""Damage stores at random, and see whether anything but the right values or a clear error comes of it.

Usage: damage.py [N_DAMAGES] [SEED]

Each damage is done to a copy of a small store: a bit flipped, a byte replaced, a file cut short, emptied, removed, or
swapped with another one, in data, labels, receipts or metadata. What each call then does is classed:

right   values are those of the whole store, or the call says of it what is true
error   a DasksimError, or the call says that the store is damaged or incomplete
wrong   other values, or a false statement
raw     an exception of another library
"""

import collections
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import dasksim
from dasksim import loaders

RNG = np.random.Generator
ALONE: dict[str, Any] = {"scheduler": "synchronous", "progress": False}
SIZES: dict[str, Any] = {"seed": 1, "sub_batch_size": 2, "chunk_size": 4, **ALONE}
N = 18  # in chunks of 4: the last one is short
CALLS = ("open_dataset", "status", "verify", "loaders", "repair")
CLASSES = ("right", "error", "wrong", "raw")


def prior(rng: RNG) -> dict[str, Any]:
    """Draw floats, integers and a flag."""
    return {"theta": rng.normal(size=2), "k": int(rng.integers(1, 9)), "flag": bool(rng.integers(2))}


def likelihood(theta: Any, rng: RNG) -> dict[str, Any]:
    """Draw data along a dim with labels."""
    return {"x": rng.normal(theta[0], size=(3, 2)).astype("float32")}


def fragile(theta: Any, k: int, rng: RNG) -> dict[str, Any]:
    """Fail for some parameters."""
    if k > 5:
        raise ValueError(f"{k} is too much")
    return {"x": rng.normal(theta[0], size=3)}


def context(rng: RNG) -> dict[str, Any]:
    """Draw a context."""
    return {"n": int(rng.integers(1, 5))}


def observed(theta: Any, n: int, rng: RNG) -> dict[str, Any]:
    """Draw as many numbers as the context says."""
    return {"mean": float(rng.normal(theta[0], size=n).mean())}


def noisy(theta: Any, rng: RNG) -> dict[str, Any]:
    """Derive a variable."""
    return {"noisy": theta + rng.normal(size=2)}


LABELS: dict[str, Any] = {
    "dims": {"x": ["time", "channel"]},
    "coords": {"channel": ["a", "b"], "time": [0.5, 1.0, 2.0]},
}
PLAIN = dasksim.make_simulator([prior, likelihood], **LABELS)
FRAGILE = dasksim.make_simulator([prior, fragile])
CONTEXT = dasksim.make_simulator([prior, observed], meta_fn=context)


def make_plain(path: Path, **how: Any) -> None:
    """Make or repair a store with labels."""
    dasksim.generate(PLAIN, path, N, **SIZES, **how)


def make_masked(path: Path, **how: Any) -> None:
    """Make or repair a store in which samples are masked."""
    dasksim.generate(FRAGILE, path, N, on_error="mask", **SIZES, **how)


def make_context(path: Path, **how: Any) -> None:
    """Make or repair a store with contexts."""
    dasksim.generate(CONTEXT, path, N, **SIZES, **how)


def make_extended(path: Path, **how: Any) -> None:
    """Make a store longer, or repair it."""
    if not path.exists():
        dasksim.generate(PLAIN, path, 10, **SIZES)
        dasksim.extend(path, PLAIN, N, **ALONE)
    else:
        make_plain(path, **how)


def make_derived(path: Path, **how: Any) -> None:
    """Make a store with a derived variable; repairing is two calls, of which the first may tell of the second."""
    try:
        make_plain(path, **how)
    except dasksim.StoreError as error:
        if "derive(" not in str(error):
            raise
    dasksim.derive(path, noisy, seed=3, **ALONE, **how)


KINDS: dict[str, Callable[..., None]] = {
    "plain": make_plain,
    "masked": make_masked,
    "context": make_context,
    "extended": make_extended,
    "derived": make_derived,
}


def files_of(path: Path) -> dict[str, list[Path]]:
    """Return the files of a store by what they hold."""
    found: dict[str, list[Path]] = collections.defaultdict(list)
    for file in sorted(path.rglob("*")):
        if not file.is_file():
            continue
        top = file.relative_to(path).parts[0]
        is_metadata = file.name == "zarr.json"
        kind = "metadata" if is_metadata else "receipts" if top == "_dasksim" else "data"
        found["labels" if top in LABELS["coords"] else kind].append(file)
    return found


def flip(rng: RNG, file: Path) -> None:
    """Flip a bit."""
    content = bytearray(file.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)


def replace(rng: RNG, file: Path) -> None:
    """Replace a few bytes."""
    content = bytearray(file.read_bytes())
    first = int(rng.integers(len(content)))
    content[first : first + 4] = rng.bytes(min(4, len(content) - first))
    file.write_bytes(content)


def cut(rng: RNG, file: Path) -> None:
    """Cut a file short."""
    file.write_bytes(file.read_bytes()[: rng.integers(file.stat().st_size)])


def empty(rng: RNG, file: Path) -> None:
    """Empty a file."""
    file.write_bytes(b"")


def remove(rng: RNG, file: Path) -> None:
    """Remove a file."""
    file.unlink()


DAMAGES: dict[str, Callable[[RNG, Path], None]] = {f.__name__: f for f in (flip, replace, cut, empty, remove)}


def damage(rng: RNG, path: Path) -> tuple[str, bool]:
    """Damage a store; return how, and whether what was swapped are two whole shards of the same size."""
    files = files_of(path)
    kind = str(rng.choice(sorted(files)))
    file = files[kind][rng.integers(len(files[kind]))]
    how = str(rng.choice([*DAMAGES, "swap"]))
    if how != "swap":
        DAMAGES[how](rng, file)
        return f"{how} {file.relative_to(path)}", False
    other = files[kind][rng.integers(len(files[kind]))]
    contents = file.read_bytes(), other.read_bytes()
    file.write_bytes(contents[1])
    other.write_bytes(contents[0])
    is_hidden = kind == "data" and len(contents[0]) == len(contents[1])
    return f"swap {file.relative_to(path)} and {other.relative_to(path)}", is_hidden


def values_of(dataset: Any) -> dict[str, Any]:
    """Return all that a dataset holds, its bits."""
    loaded = dataset.compute(scheduler="synchronous")
    return {str(name): (v.dims, v.dtype.str, v.values.tobytes(), v.shape) for name, v in loaded.variables.items()}


def batches_of(path: Path) -> list[Any]:
    """Return all batches of a store, their bits."""
    return [{name: values.tobytes() for name, values in b.items()} for b in loaders.batches(path, 4, masked="keep")]


def content_of(path: Path) -> dict[str, Any]:
    """Return what the files of a store hold, but for what tells when and in which steps it was made."""
    found: dict[str, Any] = {}
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if file.is_file() and "/receipts/c." not in name and not name.startswith("_dasksim/audits/"):
            found[name] = file.read_bytes() if file.name != "zarr.json" else json.loads(file.read_bytes())
    for document in found.values():
        if isinstance(document, dict) and "dasksim" in document.get("attributes", {}):
            document["attributes"].pop("crc32c", None)
            document["attributes"]["dasksim"] = without_history(json.loads(document["attributes"]["dasksim"]))
    return found


def without_history(told: Any) -> Any:
    """Return a record without what tells when and in which steps a store was made."""
    if not isinstance(told, dict):
        return told
    return {key: without_history(value) for key, value in told.items() if key not in ("created", "extended_from")}


@dataclass(frozen=True)
class Whole:
    """A whole store, and what calls say of it."""

    path: Path
    make: Callable[..., None]
    values: dict[str, Any]
    batches: list[Any]
    status: tuple[Any, ...]
    content: dict[str, Any]

    @classmethod
    def made(cls, path: Path, make: Callable[..., None]) -> "Whole":
        """Make a store."""
        make(path)
        values = values_of(dasksim.open_dataset(path))
        return cls(path, make, values, batches_of(path), told_by_status(path), content_of(path))


def told_by_status(path: Path) -> tuple[Any, ...]:
    """Return what status says of a store."""
    found = dasksim.status(path)
    return found.n_samples, found.n_complete, found.n_proposals, found.failures, found.missing, dict(found.derived)


def check_open(path: Path, whole: Whole) -> str:
    """Open a dataset and read all of it."""
    return "right" if values_of(dasksim.open_dataset(path)) == whole.values else "wrong"


def check_status(path: Path, whole: Whole) -> str:
    """Ask how far it is."""
    found = dasksim.status(path)
    if not found.is_complete or any(n_complete < found.n_chunks for n_complete in found.derived.values()):
        return "error"
    return "right" if told_by_status(path) == whole.status else "wrong"


def check_verify(path: Path, whole: Whole) -> str:
    """Verify it: what is good can be read."""
    found = dasksim.verify(path)
    if not found.is_good or found.n_checked < found.n_chunks:
        return "error"
    try:
        return check_open(path, whole)
    except dasksim.DasksimError:
        return "wrong"


def check_loaders(path: Path, whole: Whole) -> str:
    """Read all batches."""
    return "right" if batches_of(path) == whole.batches else "wrong"


def check_repair(path: Path, whole: Whole) -> str:
    """Repair it: all files are as they were then."""
    whole.make(path, repair=True)
    return "right" if content_of(path) == whole.content and check_open(path, whole) == "right" else "wrong"


CHECKS = dict(zip(CALLS, (check_open, check_status, check_verify, check_loaders, check_repair), strict=True))


def classed(call: str, path: Path, whole: Whole) -> str:
    """Return what comes of a call, an exception of others with its type."""
    try:
        return CHECKS[call](path, whole)
    except dasksim.DasksimError:
        return "error"
    except Exception as error:  # noqa: BLE001
        return f"raw {type(error).__name__}: {error}"


def run(n_damages: int, seed: int, folder: Path) -> tuple[dict[tuple[str, str], int], list[str]]:
    """Do so many damages; return how often each call came to what, and what was wrong or raw."""
    rng = np.random.default_rng(seed)
    wholes = {kind: Whole.made(folder / f"{kind}.zarr", make) for kind, make in KINDS.items()}
    counts: dict[tuple[str, str], int] = collections.Counter()
    faults = []
    for number in range(n_damages):
        kind = list(KINDS)[number % len(KINDS)]
        path = Path(shutil.copytree(wholes[kind].path, folder / "damaged.zarr"))
        how, is_hidden = damage(rng, path)
        for call in CALLS:
            found = classed(call, path, wholes[kind])
            if found == "wrong" and is_hidden and call in ("open_dataset", "loaders"):
                found = "for verify only"  # shards that are whole, but of other chunks
            counts[call, found.partition(" ")[0] if found.startswith("raw") else found] += 1
            if found.startswith(("wrong", "raw")):
                faults.append(f"{number} {kind}: {how}: {call}: {found}"[:400])
                print(faults[-1], flush=True)
        shutil.rmtree(path)
    return counts, faults


def main(n_damages: int, seed: int) -> None:
    """Print a table of what came of it, and each fault."""
    with tempfile.TemporaryDirectory() as folder:
        counts, faults = run(n_damages, seed, Path(folder))
    columns = (*CLASSES, "for verify only")
    print(f"{n_damages:,} damages, seed {seed}\n")
    print(f"{'':<14}" + "".join(f"{column:>17}" for column in columns))
    for call in CALLS:
        print(f"{call:<14}" + "".join(f"{counts.get((call, column), 0):>17,}" for column in columns))
    sys.exit(bool(faults))


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    main(*(arguments + [2000, 1][len(arguments) :]))

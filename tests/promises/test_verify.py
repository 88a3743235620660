"""Whatever is damaged in a store is found, named, and made again, and nothing else is touched."""

import itertools
import json
import re
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from bits import array_bytes, as_if_older, bits, chunk_files, file_bytes, flip, receipt_files
from variants import quick, quick_where

from dasksim import (
    ArgumentError,
    ArgumentTypeError,
    Simulator,
    StoreError,
    StoreMismatchError,
    extend,
    generate,
    make_simulator,
    open_dataset,
    replay,
    status,
    verify,
)
from dasksim.cli import main

# 18 samples in chunks of 4: 5 chunks, the last one short.
N = 18
OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 2, "chunk_size": 4, "scheduler": "synchronous"}
COORDS: dict[str, Any] = {"dims": {"x": ["time", "channel"]}, "coords": {"channel": ["a", "b"]}}


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal(), "k": int(rng.integers(9))}


def likelihood(theta: float, rng: np.random.Generator) -> dict[str, Any]:
    return {"x": rng.normal(theta, size=(3, 2)).astype("float32")}


def fragile(theta: float, k: int, rng: np.random.Generator) -> dict[str, Any]:
    if k > 5:
        raise ValueError(f"{k} is too much")
    return {"x": rng.normal(theta, size=(3, 2)).astype("float32")}


def simulator() -> Simulator:
    return make_simulator([prior, likelihood], **COORDS)


def masked() -> Simulator:
    return make_simulator([prior, fragile], **COORDS)


def times(path: Path) -> dict[str, int]:
    return {str(file.relative_to(path)): file.stat().st_mtime_ns for file in path.rglob("*")}


def mend(path: Path, simulated: Simulator, **options: Any) -> xr.Dataset:
    return generate(simulated, path, N, repair=True, scheduler="synchronous", **options)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    generate(simulator(), folder / "plain.zarr", N, **OPTIONS)
    generate(masked(), folder / "masked.zarr", N, on_error="mask", **OPTIONS)
    generate(simulator(), folder / "seed2.zarr", N, **{**OPTIONS, "seed": 2})
    return folder


@pytest.fixture
def plain(stores: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stores / "plain.zarr", tmp_path / "s.zarr"))


@pytest.fixture
def with_failures(stores: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stores / "masked.zarr", tmp_path / "s.zarr"))


def failure_files(path: Path) -> dict[int, Path]:
    return {int(file.name.split(".")[1]): file for file in (path / "_dasksim" / "failures").glob("c.*")}


def test_sound_stores_are_found_good_and_not_touched(plain: Path, stores: Path) -> None:
    for path, simulated in ((plain, simulator()), (stores / "masked.zarr", masked())):
        before = file_bytes(path), times(path)
        found = verify(path, simulated, resimulate=9)
        assert found.is_good
        assert (found.n_checked, found.n_chunks, found.resimulated) == (5, 5, (0, 1, 2, 3, 4))
        assert "good" in str(found)
        assert (file_bytes(path), times(path)) == before


DAMAGES: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "bit of a float": (lambda p: flip(chunk_files(p, "x")[1]), 1, "'x' (cannot be read|differs from its receipt)"),
    "bit of an int": (lambda p: flip(chunk_files(p, "k")[2]), 2, "'k' (cannot be read|differs from its receipt)"),
    "first bit": (lambda p: flip(chunk_files(p, "theta")[0], 0.0, 1), 0, "'theta' (cannot be read|differs)"),
    "last bit": (lambda p: flip(chunk_files(p, "theta")[0], 1.0, 128), 0, "'theta' (cannot be read|differs)"),
    "short last chunk": (lambda p: flip(chunk_files(p, "theta")[4], 0.0), 4, "'theta' (cannot be read|differs)"),
    "truncated": (lambda p: cut(chunk_files(p, "x")[3], 0.5), 3, "'x' has a shard of"),
    "cut by a byte": (lambda p: cut(chunk_files(p, "x")[3], -1), 3, "'x' has a shard of"),
    "emptied": (lambda p: cut(chunk_files(p, "x")[3], 0), 3, "'x' has a shard of 0 bytes"),
    "lost": (lambda p: chunk_files(p, "theta")[1].unlink(), 1, "'theta' has no shard"),
    "mask": (lambda p: flip(chunk_files(p, "valid")[1], 0.1), 1, "'valid' (cannot be read|differs)"),
    "lost mask": (lambda p: chunk_files(p, "valid")[1].unlink(), 1, "'valid' has no shard"),
    "bit of a receipt": (lambda p: flip(receipt_files(p)[3]), 3, "its receipt cannot be read"),
    "last bit of a receipt": (lambda p: flip(receipt_files(p)[3], 1.0), 3, "its receipt cannot be read"),
    "truncated receipt": (lambda p: cut(receipt_files(p)[3], 0.5), 3, "its receipt cannot be read"),
    "emptied receipt": (lambda p: cut(receipt_files(p)[3], 0), 3, "its receipt cannot be read"),
}
FAILURE_DAMAGES: dict[str, Callable[[Path], Any]] = {
    "bit": flip,
    "truncated": lambda file: cut(file, 0.5),
    "emptied": lambda file: cut(file, 0),
    "lost": Path.unlink,
    "other JSON": lambda file: file.write_bytes(b"[]"),
}


def cut(file: Path, keep: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] if keep < 0 else content[: int(keep * len(content))])


def check_found_and_mended(path: Path, chunk: int, problem: str, policy: dict[str, Any]) -> None:
    """The chunk alone is bad; repair writes it alone, and the store is what it was."""
    whole = array_bytes(path.parent / "whole.zarr")
    damaged, before = file_bytes(path), times(path)
    found = verify(path)
    assert list(found.problems) == [chunk]
    assert len(found.problems[chunk]) == 1
    assert re.search(problem, found.problems[chunk][0]), str(found)
    assert f"chunk {chunk}: " in str(found)
    assert "repair=True" in str(found)
    assert (file_bytes(path), times(path)) == (damaged, before)
    dataset = mend(path, masked() if policy else simulator(), **policy)
    assert array_bytes(path) == whole
    assert bits(dataset) == bits(open_dataset(path.parent / "whole.zarr"))
    assert verify(path).is_good
    after = times(path)
    files = {name for name in after if (path / name).is_file() and after[name] != before.get(name)}
    files = {name for name in files if not name.startswith("_dasksim/audits/")}
    assert files - {"zarr.json", "_dasksim/zarr.json"} == set(files_of_chunk(path, chunk))


def files_of_chunk(path: Path, chunk: int) -> list[str]:
    names = [str(p.parent.relative_to(path)) for p in path.glob("*/zarr.json")]
    shards = [chunk_files(path, name)[chunk] for name in names if name != "_dasksim" and name != "channel"]
    small = [files[chunk] for files in (receipt_files(path), failure_files(path)) if chunk in files]
    return [str(file.relative_to(path)) for file in [*shards, *small]]


@pytest.mark.parametrize(
    "damage",
    quick(
        DAMAGES,
        *("bit of a float", "first bit", "short last chunk", "truncated", "emptied", "lost", "mask"),
        *("bit of a receipt", "emptied receipt"),
    ),
)
def test_damage_is_found_and_mended(damage: str, stores: Path, tmp_path: Path) -> None:
    damaged, chunk, problem = DAMAGES[damage]
    kind, policy = ("masked", {"on_error": "mask"}) if "mask" in damage else ("plain", {})
    path = Path(shutil.copytree(stores / f"{kind}.zarr", tmp_path / "s.zarr"))
    shutil.copytree(path, tmp_path / "whole.zarr")
    damaged(path)
    check_found_and_mended(path, chunk, problem, policy)


@pytest.mark.parametrize("damage", quick(FAILURE_DAMAGES, "bit", "lost", "other JSON"))
def test_damaged_list_of_failures_is_found_and_mended(damage: str, with_failures: Path, tmp_path: Path) -> None:
    shutil.copytree(with_failures, tmp_path / "whole.zarr")
    chunk, file = next(iter(failure_files(with_failures).items()))
    FAILURE_DAMAGES[damage](file)
    if damage != "lost":
        with pytest.raises(StoreError, match=rf"failures of the chunks \[{chunk}\] .* are damaged"):
            status(with_failures)
    check_found_and_mended(with_failures, chunk, "its list of failures is damaged", {"on_error": "mask"})


def test_shards_of_two_chunks_that_were_swapped_are_found(plain: Path) -> None:
    one, other = chunk_files(plain, "x")[1], chunk_files(plain, "x")[2]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert verify(plain).problems == dict.fromkeys((1, 2), ("'x' differs from its receipt",))


def test_shard_of_another_seed_is_found(plain: Path, stores: Path) -> None:
    shutil.copy(chunk_files(stores / "seed2.zarr", "theta")[2], chunk_files(plain, "theta")[2])
    assert verify(plain).problems == {2: ("'theta' differs from its receipt",)}


def test_chunk_of_another_seed_with_its_receipt_is_found_by_simulating_it_again(plain: Path, stores: Path) -> None:
    other = stores / "seed2.zarr"
    for name in ("theta", "k", "x"):
        shutil.copy(chunk_files(other, name)[2], chunk_files(plain, name)[2])
    shutil.copy(receipt_files(other)[2], receipt_files(plain)[2])
    assert verify(plain).is_good
    found = verify(plain, simulator(), resimulate=5)
    assert found.problems == {
        2: tuple(f"{name!r} differs from what the simulator makes" for name in ("theta", "k", "x"))
    }


def test_store_of_another_simulator_is_found_by_simulating_it_again(plain: Path) -> None:
    def likelihood(theta: float, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(theta, 1.5, size=(3, 2)).astype("float32")}

    found = verify(plain, make_simulator([prior, likelihood], **COORDS), resimulate=2)
    assert len(found.problems) == 2
    for problems in found.problems.values():
        assert problems[0] == "'x' differs from what the simulator makes"
        assert "stage 'likelihood': its source" in problems[1]
    with pytest.raises(StoreMismatchError, match=r"has the variables .*given now are"):
        verify(plain, make_simulator(prior), resimulate=1)


def test_conditions_that_the_store_was_made_with_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("conditioned.py").write_text("def f(a, rng):\n    return {'x': a + rng.normal()}\n")
    store = str(tmp_path / "s.zarr")
    assert main(["generate", "conditioned.py:f", store, "-n", "9", "--set", "a=2", "-q"]) == 0
    for arguments in (["replay", "conditioned.py:f", store, "3"], ["verify", store, "--target", "conditioned.py:f"]):
        more = ["--resimulate", "1"] if arguments[0] == "verify" else []
        assert main([*arguments, *more]) == 2
        assert "was made with conditions; give --set a=...\n" in capsys.readouterr().err
        assert main([*arguments, *more, "--set", "a=2"]) == 0


def test_incomplete_stores_are_good_as_far_as_they_go(plain: Path) -> None:
    receipt_files(plain)[1].unlink()
    chunk_files(plain, "x")[1].unlink()
    found = verify(plain, simulator(), resimulate=9)
    assert found.is_good
    assert (found.n_checked, found.resimulated) == (4, (0, 2, 3, 4))
    assert "  missing      1 chunk" in str(found).splitlines()
    flip(chunk_files(plain, "x")[2])
    assert list(verify(plain).problems) == [2]
    shutil.rmtree(plain / "_dasksim" / "receipts")
    assert verify(plain).n_checked == 0
    assert status(plain).n_complete == 0
    found = verify(plain, simulator(), resimulate=3)
    assert (found.is_good, found.n_checked, found.resimulated) == (True, 0, ())
    mend(plain, simulator())
    assert verify(plain).n_checked == 5


def test_receipt_that_is_lost_is_made_again_with_its_chunk(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "whole.zarr")
    receipt_files(plain)[2].unlink()
    assert status(plain).missing == ((2, 2),)
    generate(simulator(), plain, N, **OPTIONS)
    assert array_bytes(plain) == array_bytes(tmp_path / "whole.zarr")


@pytest.mark.parametrize("damaged", [flip, lambda file: cut(file, 0.5), lambda file: cut(file, 0)])
def test_damaged_receipt_is_an_error_that_advises(damaged: Callable[[Path], Any], plain: Path) -> None:
    damaged(receipt_files(plain)[2])
    for call in (status, open_dataset, lambda path: generate(simulator(), path, N, scheduler="synchronous")):
        with pytest.raises(StoreError, match=r"receipts of the chunks \[2\] .*dasksim\.verify.*repair=True"):
            call(plain)
    with pytest.raises(StoreError, match=r"receipts of the chunks \[2\]"):
        extend(plain, simulator(), 30, scheduler="synchronous")
    generate(simulator(), plain, 30, repair=True, scheduler="synchronous")
    assert verify(plain).is_good


METADATA = ("x", "theta", "k", "channel", "_dasksim", "_dasksim/receipts", "_dasksim/failures")
METADATA_DAMAGES: dict[str, Callable[[Path], Any]] = {
    "lost": Path.unlink,
    "truncated": lambda file: cut(file, 0.5),
    "emptied": lambda file: cut(file, 0),
    "first bit": lambda file: flip(file, 0.0),
    "other JSON": lambda file: file.write_text("{}"),
}


def is_quick(name: str, damage: str) -> bool:
    """All damages of one variable, and two of what else there is."""
    return name == "x" or (name not in ("theta", "k") and damage in ("lost", "other JSON"))


@pytest.mark.parametrize(("name", "damage"), quick_where(is_quick, itertools.product(METADATA, METADATA_DAMAGES)))
def test_metadata_that_are_lost_or_damaged_are_an_error_and_made_again(
    name: str, damage: str, plain: Path, stores: Path
) -> None:
    METADATA_DAMAGES[damage](plain / name / "zarr.json")
    if damage != "lost" or name not in ("_dasksim/receipts", "_dasksim/failures"):
        with pytest.raises(StoreError, match=r"damaged.*repair=True"):
            verify(plain)
    elif name == "_dasksim/failures":  # as in older stores: nothing has failed
        assert verify(plain).is_good
    else:
        assert verify(plain).n_checked == 0
    mend(plain, simulator())
    assert array_bytes(plain) == array_bytes(stores / "plain.zarr")
    assert verify(plain).is_good


@pytest.mark.parametrize("step", [293, pytest.param(97, marks=pytest.mark.slow)])
def test_bits_of_metadata_that_are_flipped_are_found_or_harmless(step: int, stores: Path, tmp_path: Path) -> None:
    """Whatever is flipped, there is no error but ours, and what is found good has the right values."""
    whole = open_dataset(stores / "plain.zarr").compute()
    path = Path(shutil.copytree(stores / "plain.zarr", tmp_path / "s.zarr"))
    n_found = n_tried = 0
    for file in (path / "x" / "zarr.json", path / "_dasksim" / "receipts" / "zarr.json", path / "zarr.json"):
        content = file.read_bytes()
        for place in range(0, len(content), step):
            flipped = bytearray(content)
            flipped[place] ^= 1 << (place % 7)
            file.write_bytes(flipped)
            n_tried += 1
            try:
                is_good = verify(path).is_good
                values = open_dataset(path).compute()
            except StoreError:
                n_found += 1
                continue
            n_found += not is_good
            if is_good:
                xr.testing.assert_equal(values.drop_attrs(), whole.drop_attrs())
        file.write_bytes(content)
    assert n_found > n_tried / 3


def test_root_that_is_damaged_is_no_store(plain: Path) -> None:
    cut(plain / "zarr.json", 0.5)
    for call in (status, open_dataset, verify):
        with pytest.raises(StoreError, match=r"the root document of the store at .* is lost or damaged; .*repair=True"):
            call(plain)
    as_if_older(plain)
    for call in (status, open_dataset, verify):
        with pytest.raises(StoreError, match="is no store made by dasksim"):
            call(plain)


def test_replay_of_a_store_without_receipts_says_that_it_is_not_stored(plain: Path) -> None:
    shutil.rmtree(plain / "_dasksim" / "receipts")
    assert not replay(plain, simulator(), 3).is_stored


def test_repair_of_a_part_leaves_the_others(plain: Path) -> None:
    flip(chunk_files(plain, "x")[0])
    flip(chunk_files(plain, "x")[4])
    generate(simulator(), plain, N, repair=True, part=(0, 2), scheduler="synchronous")
    assert list(verify(plain).problems) == [4]
    generate(simulator(), plain, N, repair=True, part=(1, 2), scheduler="synchronous")
    assert verify(plain).is_good


def test_wrong_arguments_are_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        verify(tmp_path / "none.zarr")
    assert not (tmp_path / "none.zarr").exists()
    with pytest.raises(ArgumentError, match="resimulate= needs the simulator"):
        verify(plain, resimulate=1)
    with pytest.raises(ArgumentError, match="resimulate must be an integer >= 0"):
        verify(plain, simulator(), resimulate=-1)
    with pytest.raises(ArgumentTypeError, match="resimulate must be an integer >= 0"):
        verify(plain, simulator(), resimulate=True)
    with pytest.raises(ArgumentTypeError, match="simulator must be a Simulator"):
        verify(plain, 3, resimulate=1)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="repair must be True or False"):
        generate(simulator(), plain, N, repair=1)  # type: ignore[arg-type]


def test_memory_is_bounded_by_a_chunk(tmp_path: Path) -> None:
    def wide(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
        return {"w": rng.normal(size=(*batch_shape, 1000))}

    path = tmp_path / "s.zarr"
    generate(make_simulator(wide, is_batched=True), path, 4000, seed=1, sub_batch_size=100, chunk_size=100,
             scheduler="synchronous")  # fmt: skip
    tracemalloc.start()
    try:
        verify(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 100 * 8000  # 40 chunks of 0.8 MB


def test_command_line_verifies_and_repairs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "simulators.py").write_text("def prior(rng):\n    return {'theta': rng.normal()}\n")
    target, path = f"{tmp_path / 'simulators.py'}:prior", tmp_path / "s.zarr"

    def run(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        return code, "".join(capfd.readouterr())

    sizes = ("-n", "10", "--seed", "1", "--sub-batch-size", "2", "--chunk-size", "4", "--scheduler", "synchronous")
    assert run("generate", target, str(path), *sizes)[0] == 0
    code, text = run("verify", str(path), "--target", target, "--resimulate", "2")
    assert (code, "good" in text, "resimulated  chunks" in text) == (0, True, True)
    cut(chunk_files(path, "theta")[1], 0.5)
    code, text = run("verify", str(path))
    assert (code, "chunk 1: 'theta' has a shard of" in text, "--repair" in text) == (3, True, True)
    code, text = run("status", str(path))
    assert (code, "damaged  chunk 1: 'theta' has a shard of" in text) == (3, True)
    code, text = run("generate", target, str(path), *sizes)
    assert (code, "chunk 1: 'theta' has a shard of" in text, "--repair" in text) == (2, True, True)
    assert run("verify", str(path))[0] == 3
    assert run("generate", target, str(path), *sizes, "--repair")[0] == 0
    assert run("verify", str(path))[0] == 0
    cut(receipt_files(path)[0], 0)
    code, text = run("status", str(path))
    assert (code, "Traceback" in text, "dasksim verify" in text) == (2, False, True)
    assert run("verify", str(tmp_path / "none.zarr"))[0] == 2


def test_what_a_store_says_is_plain_json(plain: Path) -> None:
    assert json.loads(open_dataset(plain).attrs["dasksim"])["seed"] == 1

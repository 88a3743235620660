"""A stranger's store: opening or continuing it runs no code, writes nothing, and says what is wrong."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from bits import as_if_older, bits, change_record, chunk_files, file_bytes, receipt_files

from dasksim import IncompleteStoreError, Simulator, StoreError, generate, make_simulator, open_dataset, status

Json = dict[str, Any]

OPTIONS: Json = {"seed": 1, "sub_batch_size": 4, "chunk_size": 8, "scheduler": "synchronous"}


def simulator() -> Simulator:
    def prior(rng: np.random.Generator) -> Json:
        return {"theta": rng.normal(size=2), "k": int(rng.integers(2))}

    return make_simulator(prior, dims={"theta": ["p"]}, coords={"p": ["a", "b"]})


WANTED = bits(simulator().sample(20, seed=1, sub_batch_size=4))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("honest") / "s.zarr"
    generate(simulator(), path, 20, **OPTIONS)
    return path


@pytest.fixture
def path(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "s.zarr"))


def read_json(file: Path) -> Json:
    content: Json = json.loads(file.read_text())
    return content


def change_document(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**read_json(file), **changes}))


def check_refused(path: Path, message: str, reads: Any = (open_dataset, status)) -> None:
    before = file_bytes(path)
    for read in reads:
        with pytest.raises(StoreError, match=message):
            read(path)
    for overwrite in (False, True) if status in reads else (False,):
        with pytest.raises(StoreError, match=message):
            generate(simulator(), path, 20, overwrite=overwrite, **OPTIONS)
    assert file_bytes(path) == before


def variable(**changes: Any) -> Callable[[Json], Any]:
    return lambda record: record["variables"]["theta"].update(changes)


def named(name: str) -> Callable[[Json], Any]:
    return lambda record: record["variables"].update({name: record["variables"].pop("theta")})


SIZE = "must be an integer >= 1 that an array can have as its size; got"
NAME = "has a name that no variable can have"

RECORDS: dict[str, tuple[Callable[[Json], Any], str]] = {
    "list": (lambda record: [record], r"is no store made by dasksim\.generate"),
    "null": (lambda record: "null", r"is no store made by dasksim\.generate"),
    "nested": (lambda record: {"format": [[[]]]}, r"is no store made by dasksim\.generate"),
    "format is a bool": (lambda record: record.update(format=True), r"is no store made by dasksim\.generate"),
    "format is negative": (lambda record: record.update(format=-1), r"is no store made by dasksim\.generate"),
    "only format": (lambda record: {"format": 1}, "the record of the store at .* is damaged: it has no 'n_samples'"),
    **{
        f"{key} is {value!r:.20}": (lambda record, k=key, v=value: record.update({k: v}), f"damaged: {key} {SIZE}")  # type: ignore[misc]
        for key in ("n_samples", "sub_batch_size", "chunk_size")
        for value in (-1, 0, True, None, 1e300, float("nan"), float("inf"), "20", [20], 10**300, 2**63)
    },
    "seed is negative": (lambda record: record.update(seed=-1), "seed must be an integer >= 0; got -1"),
    "seed is NaN": (lambda record: record.update(seed=float("nan")), "seed must be an integer >= 0; got nan"),
    "chunks of no whole sub-batches": (lambda record: record.update(chunk_size=7), "must be a multiple of sub_batch"),
    "further": (lambda record: record.update(further=[-2]), r"further must be a list of integers >= 1; got \[-2\]"),
    "conditions": (lambda record: record.update(conditions=[1]), "conditions must be a mapping"),
    "stages": (lambda record: record.update(stages=[3]), "stages must be a list of stages with names"),
    "stage without a name": (lambda record: record.update(stages=[{}]), "stages must be a list of stages with"),
    "coords": (lambda record: record.update(coords=3), "coords must be a mapping of dims to lists of labels"),
    "coords outside": (lambda record: record.update(coords={"..": ["a"]}), "coords must be a mapping of dims to lists"),
    "coords are receipts": (lambda record: record.update(coords={"_dasksim": []}), "coords must be a mapping of dims"),
    "no variables": (lambda record: record.update(variables={}), "variables must be a mapping of one or more"),
    "variables are a list": (lambda record: record.update(variables=["theta"]), "variables must be a mapping of one"),
    **{
        f"variable {name!r}": (named(name), f"damaged: variable .* {NAME}")
        for name in ("../../etc", "/abs", "a/b", "_dasksim", "", "..", ".", ".hidden", "__class__")
    },
    "variable is no mapping": (lambda record: record["variables"].update(theta=3), "must have dims, shape and dtype"),
    "shape is negative": (variable(shape=[-1]), "must have a shape of integers >= 0"),
    "shape is a bool": (variable(shape=[True]), "must have a shape of integers >= 0"),
    "shape is text": (variable(shape="2"), "must have a shape of integers >= 0"),
    "shape is too large": (variable(shape=[2**60]), "is too large to exist"),
    "dims are too few": (variable(dims=["batch"]), "must have dims that name each axis once"),
    "dims twice": (variable(dims=["batch", "batch"]), "must have dims that name each axis once"),
    "dims without batch": (variable(dims=["q", "p"]), "must have dims that name each axis once, 'batch' first"),
    "dims are numbers": (variable(dims=["batch", 3]), "must have dims that name each axis once"),
    "dim is a variable": (variable(dims=["batch", "k"]), "'k' is a variable and a dim"),
    "dtype is object": (variable(dtype="object"), "must have a boolean or numeric dtype; got 'object'"),
    "dtype is a list": (variable(dtype=["f8"]), "must have a boolean or numeric dtype"),
    "dtype is code": (variable(dtype="__import__('os')"), "must have a boolean or numeric dtype"),
    "dtype is too wide": (variable(dtype="float128"), "must have a boolean or numeric dtype"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_impossible_record_is_refused(case: str, path: Path) -> None:
    change, message = RECORDS[case]
    change_record(path, change)
    check_refused(path, message)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        [],
        3,
        {"dasksim": 3},
        {"dasksim": {"format": 1}},
        {"dasksim": "not JSON"},
        {"dasksim": ""},
        {"dasksim": "[" * 100_000},
        {"dasksim": '{"format": ' + "1" * 10_000 + "}"},
    ],
    ids=lambda attributes: str(attributes)[:30],
)
def test_attribute_that_is_no_record_is_refused(attributes: Any, path: Path) -> None:
    change_document(path / "zarr.json", attributes=attributes)
    as_if_older(path)
    check_refused(path, "is not empty and is no store made by dasksim")


@pytest.mark.parametrize("content", [b"", b"not JSON", b"\xff\xfe", b"3", b"[" * 100_000, b'{"attributes": null}'])
def test_root_that_is_no_document_is_refused(content: bytes, path: Path) -> None:
    (path / "zarr.json").write_bytes(content)
    check_refused(path, r"the root document of the store at .* is lost or damaged; generate\(\.\.\., repair=True\)")
    assert bits(generate(simulator(), path, 20, repair=True, **OPTIONS)) == WANTED
    (path / "zarr.json").write_bytes(content)
    as_if_older(path)
    check_refused(path, "is not empty and is no store made by dasksim")


def test_huge_root_is_refused_without_reading_it(path: Path) -> None:
    with (path / "zarr.json").open("wb") as file:
        file.truncate(10**12)
    start = time.perf_counter()
    for read in (open_dataset, status):
        with pytest.raises(StoreError, match=r"'zarr\.json' in '.*' has 1,000,000 MB, more than the 268 MB"):
            read(path)
    with pytest.raises(StoreError, match="more than the 268 MB of metadata"):
        generate(simulator(), path, 20, overwrite=True, **OPTIONS)

    assert time.perf_counter() - start < 5


def make_folder(file: Path) -> None:
    file.mkdir()


def make_pipe(file: Path) -> None:
    os.mkfifo(file)


def link_to_zeros(file: Path) -> None:
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [make_folder, make_pipe, link_to_zeros])
@pytest.mark.parametrize("key", ["zarr.json", "theta/zarr.json", "_dasksim/receipts/zarr.json", "extra/zarr.json"])
def test_document_that_is_no_regular_file_is_refused(key: str, make: Callable[[Path], None], path: Path) -> None:
    (path / key).parent.mkdir(exist_ok=True)
    (path / key).unlink(missing_ok=True)
    make(path / key)
    reads = (open_dataset,) if key in ("theta/zarr.json", "extra/zarr.json") else (open_dataset, status)
    before = file_bytes(path)
    for read in reads:
        with pytest.raises(StoreError, match=rf"'{key}' in '.*' is no regular file, so this is no store"):
            read(path)
    with pytest.raises(StoreError, match="is no regular file"):
        generate(simulator(), path, 20, **OPTIONS)
    assert file_bytes(path) == before


def test_document_that_is_a_link_to_a_file_is_read(path: Path) -> None:
    shutil.move(path / "zarr.json", path.parent / "elsewhere.json")
    (path / "zarr.json").symlink_to(path.parent / "elsewhere.json")

    assert bits(open_dataset(path)) == WANTED


# Arrays that are not what the record says


OTHER = "'theta' in the store at .* is not the array that the record describes, of shape"

DOCUMENTS: dict[str, Json] = {
    "longer": {"shape": [21, 2]},
    "absurdly long": {"shape": [10**18, 2]},
    "negative": {"shape": [-20, 2]},
    "flat": {"shape": [40]},
    "no shape": {"shape": None},
    "dtype": {"data_type": "float32"},
    "dtype with a configuration": {"data_type": {"name": "numpy.datetime64", "configuration": {}}},
    "object": {"data_type": "object"},
    "dims": {"dimension_names": ["batch", "q"]},
    "no dims": {"dimension_names": None},
    "group": {"node_type": "group"},
    "version 2": {"zarr_format": 2},
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_array_other_than_the_record_says_is_refused(case: str, path: Path) -> None:
    change_document(path / "theta" / "zarr.json", **DOCUMENTS[case])
    check_refused(path, OTHER if "long" not in case else "conflicting sizes", (open_dataset,))


@pytest.mark.parametrize("content", [b"", b"not JSON", b"[]", b"[" * 100_000])
def test_array_without_readable_metadata_is_refused(content: bytes, path: Path) -> None:
    (path / "theta" / "zarr.json").write_bytes(content)
    check_refused(path, "the metadata of 'theta' in .* is damaged", (open_dataset,))


def test_variable_that_the_group_lacks_is_refused(path: Path) -> None:
    shutil.rmtree(path / "theta")
    before = file_bytes(path)
    with pytest.raises(StoreError, match=OTHER + ".*'nothing'|" + OTHER):
        open_dataset(path)
    assert file_bytes(path) == before


def test_pickles_in_metadata_of_version_2_are_not_read(path: Path) -> None:
    shutil.rmtree(path / "theta")
    (path / "theta").mkdir()
    old = {"zarr_format": 2, "shape": [20, 2], "chunks": [20, 2], "dtype": "|O", "order": "C", "fill_value": 0}
    old |= {"compressor": None, "filters": [{"id": "pickle"}]}
    (path / "theta" / ".zarray").write_text(json.dumps(old))
    (path / "theta" / "0.0").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    before = file_bytes(path)
    with pytest.raises(StoreError, match=OTHER):
        open_dataset(path)
    assert file_bytes(path) == before


@pytest.mark.parametrize(
    "codecs",
    [
        [{"name": "nobody.knows"}],
        [{"name": "pickle"}],
        [{"name": "bytes", "configuration": {"endian": "sideways"}}],
        [{"name": "sharding_indexed", "configuration": {}}],
        [],
        3,
        [3],
        None,
    ],
    ids=lambda codecs: str(codecs)[:40],
)
def test_unknown_codec_is_refused(codecs: Any, path: Path) -> None:
    change_document(path / "theta" / "zarr.json", codecs=codecs)
    check_refused(path, r"cannot (open|write|finish) (the|a) store at", (open_dataset,))


@pytest.mark.parametrize("grid", [None, {"name": "regular", "configuration": {"chunk_shape": [0, 0]}}, {"name": "odd"}])
def test_impossible_grid_is_refused(grid: Any, path: Path) -> None:
    change_document(path / "theta" / "zarr.json", chunk_grid=grid)
    check_refused(path, OTHER, (open_dataset,))


def test_arrays_that_are_not_sharded_by_chunks_are_not_written(path: Path) -> None:
    shutil.rmtree(path / "theta")
    names = ("batch", "p")
    group = zarr.open_group(path, mode="r+")
    group.create_array("theta", shape=(20, 2), chunks=(20, 2), dtype="f8", dimension_names=names, fill_value=np.nan)
    receipt_files(path)[1].unlink()
    before = file_bytes(path)
    with pytest.raises(StoreError, match=r"'theta' in the store has shape .* and shards None, not .* and \(8, 2\)"):
        generate(simulator(), path, 20, **OPTIONS)
    assert file_bytes(path) == before


def test_absurdly_long_store_is_opened_lazily(path: Path) -> None:
    n = 10**17

    def lengthen(record: Json) -> None:
        record.update(n_samples=n, chunk_size=n, sub_batch_size=n)

    change_record(path, lengthen)
    shapes = {name: read_json(path / name / "zarr.json")["shape"][1:] for name in ("theta", "k")}

    def cut(chunk_size: int) -> None:
        for name, shape in shapes.items():
            grid = {"name": "regular", "configuration": {"chunk_shape": [chunk_size, *shape]}}
            change_document(path / name / "zarr.json", shape=[n, *shape], chunk_grid=grid)

    cut(n)
    receipts = read_json(path / "_dasksim" / "receipts" / "zarr.json")
    change_document(path / "_dasksim" / "receipts" / "zarr.json", shape=[1, receipts["shape"][1]])
    start = time.perf_counter()
    assert open_dataset(path).sizes["batch"] == n
    assert status(path).n_complete_samples == n
    assert time.perf_counter() - start < 5

    change_record(path, lambda record: record.update(chunk_size=1, sub_batch_size=1))
    cut(1)
    change_document(path / "_dasksim" / "receipts" / "zarr.json", shape=[n, receipts["shape"][1]])
    (path / "_dasksim" / "receipts" / f"c.{n - 1}.0").write_bytes(receipt_files(path)[0].read_bytes())
    found = status(path)
    assert (found.n_complete, found.n_chunks) == (4, n)
    with pytest.raises(IncompleteStoreError, match=f"has 4 of {n:,} chunks"):
        open_dataset(path)
    assert time.perf_counter() - start < 10


# Receipts


RECEIPTS: dict[str, Json] = {
    "too few": {"shape": [2, 6]},
    "too many": {"shape": [10**18, 6]},
    "too narrow": {"shape": [3, 5]},
    "flat": {"shape": [18]},
    "floats": {"data_type": "float64"},
    "group": {"node_type": "group"},
    "no fields": {"attributes": {}},
    "no attributes": {"attributes": None},
    "fields are numbers": {"attributes": {"fields": [1, 2, 3, 4, 5, 6]}},
    "fields twice": {"attributes": {"fields": ["complete"] * 6}},
    "other fields": {"attributes": {"fields": ["a", "b", "c", "d", "e", "f"]}},
    "one chunk": {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, 6]}}},
}


@pytest.mark.parametrize("case", RECEIPTS)
def test_impossible_receipts_are_refused(case: str, path: Path) -> None:
    change_document(path / "_dasksim" / "receipts" / "zarr.json", **RECEIPTS[case])
    before = file_bytes(path)
    for read in (open_dataset, status):
        with pytest.raises(StoreError, match=r"the receipts of the store at .* are damaged: "):
            read(path)
    with pytest.raises(StoreError, match=r"the receipts of the store at .* are damaged: "):
        generate(simulator(), path, 20, **OPTIONS)
    assert file_bytes(path) == before


@pytest.mark.parametrize(
    "name", ["c.3.0", "c.-1.0", "c.x.0", "c.1.0.extra", "c.99999999999999999999999.0", "c.٣.0", "c"]
)
def test_files_among_receipts_that_are_none_do_not_count(name: str, path: Path) -> None:
    receipt_files(path)[2].rename(path / "_dasksim" / "receipts" / name)

    assert status(path).n_complete == 2
    with pytest.raises(IncompleteStoreError, match="has 2 of 3 chunks"):
        open_dataset(path)


def test_damaged_receipt_is_said_to_be_one(path: Path) -> None:
    receipt_files(path)[1].write_bytes(b"cut off")
    before = file_bytes(path)
    for read in (open_dataset, status):
        with pytest.raises(StoreError, match=r"the receipts of the chunks \[1\] in .* are damaged"):
            read(path)
    assert file_bytes(path) == before


# Labels, attributes, and what else lies in the group


@pytest.mark.parametrize(
    "attributes",
    [
        {"missing_value": 0, "scale_factor": 2.0, "add_offset": 1},
        {"units": "days since 1970-01-01", "calendar": "standard"},
        {"units": "days since the flood", "dtype": "timedelta64[ns]"},
        {"coordinates": "theta p nothing", "grid_mapping": "k", "bounds": "k"},
        {"scale_factor": "a lot", "_Unsigned": "true"},
    ],
    ids=str,
)
def test_attributes_of_a_variable_do_not_change_its_values(attributes: Json, path: Path) -> None:
    for name in ("theta", "k"):
        change_document(path / name / "zarr.json", attributes=attributes)
    opened = open_dataset(path)

    assert list(opened.data_vars) == ["theta", "k"]
    assert bits(opened) == WANTED


def test_fill_value_among_the_attributes_does_not_change_values(path: Path) -> None:
    change_document(path / "k" / "zarr.json", attributes={"_FillValue": 0})
    opened = open_dataset(path)
    assert bits(opened) == WANTED

    change_document(path / "k" / "zarr.json", attributes={"_FillValue": {"a": [1]}})
    check_refused(path, "cannot open the store at .*: TypeError: ", (open_dataset,))


def test_attribute_that_xarray_takes_for_a_dtype_is_refused(path: Path) -> None:
    change_document(path / "k" / "zarr.json", attributes={"dtype": "bool"})
    check_refused(path, "'k' has the attribute dtype, by which xarray reads it as bool", (open_dataset,))


def test_a_fill_value_among_the_values_is_a_value(path: Path) -> None:
    opened = open_dataset(path)

    assert opened.k.dtype == "int64"
    assert 0 in opened.k.values


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [10**12]},
        {"dimension_names": ["batch"]},
        {"data_type": {"name": "fixed_length_utf32", "configuration": {"length_bytes": 4 * 10**9}}},
        {"node_type": "group"},
    ],
    ids=str,
)
def test_labels_other_than_the_record_says_are_refused(changes: Json, path: Path) -> None:
    change_document(path / "p" / "zarr.json", **changes)
    check_refused(path, "'p' in the store at .* is not the array that the record describes", (open_dataset,))


def test_labels_with_a_hostile_encoding_are_refused(path: Path) -> None:
    change_document(path / "p" / "zarr.json", attributes={"units": "days since the flood"})
    check_refused(path, "cannot open the store at ", (open_dataset,))


def test_what_the_record_does_not_name_is_left_alone(path: Path) -> None:
    group = zarr.open_group(path, mode="r+")
    group.create_array("batch", shape=(10**12,), chunks=(10**6,), dtype="i8", dimension_names=["batch"])
    group.create_array("other", shape=(10**12, 3), chunks=(10**6, 3), dtype="i8", dimension_names=["q", "r"])
    group.create_group("deep/" + "er/" * 50 + "end")
    opened = open_dataset(path)

    assert bits(opened) == WANTED
    assert set(opened.variables) == {"theta", "k", "p"}


def test_keys_that_are_not_known_are_left_alone(path: Path) -> None:
    change_record(path, lambda record: record.update(future={"a": [1, None]}))
    change_record(path, variable(future=float("nan")))
    assert bits(open_dataset(path)) == WANTED


# Links


def test_nothing_is_written_through_a_link(path: Path) -> None:
    outside = path.parent / "outside"
    shutil.move(path / "theta" / "c", outside)
    (outside / "old.partial").write_text("somebody else's")
    os.utime(outside / "old.partial", (0, 0))
    (path / "theta" / "c").symlink_to(outside)
    receipt_files(path)[1].unlink()
    before = file_bytes(path.parent)
    with pytest.raises(
        StoreError, match=r"theta/c' is a link to a folder elsewhere, into which dasksim does not write"
    ):
        generate(simulator(), path, 20, **OPTIONS)
    assert file_bytes(path.parent) == before


def test_overwrite_removes_links_and_not_what_they_point_to(path: Path) -> None:
    outside = path.parent / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("precious")
    (path / "folder").symlink_to(outside)
    (path / "theta" / "folder").symlink_to(outside)
    (path / "file").symlink_to(outside / "precious.txt")
    assert bits(generate(simulator(), path, 20, overwrite=True, **OPTIONS)) == WANTED

    assert file_bytes(outside) == {"precious.txt": b"precious"}
    assert not (path / "theta" / "folder").exists()
    assert (path / "folder").is_symlink()  # it is none of the store's own


def test_chunks_that_are_links_are_read(path: Path) -> None:
    for chunk, file in chunk_files(path, "theta").items():
        shutil.move(file, path.parent / f"{chunk}")
        file.symlink_to(path.parent / f"{chunk}")

    assert bits(open_dataset(path)) == WANTED

"""Check that the metadata of a store's arrays are there, and go with what the store says of itself."""

import json
from collections.abc import Mapping
from typing import Any

import numcodecs.zstd
import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from dasksim._core.failures import VALID
from dasksim.errors import StoreError
from dasksim.store._create import create_array, create_arrays
from dasksim.store._document import codec_names, document_of, key_of, key_prefix, list_of, mapping_of
from dasksim.store._entries import StoredVariable
from dasksim.store._kept import FOLDER, folder_of, group_document, kept_entry
from dasksim.store._layout import StoreLayout, array_layout, inner_rows_for
from dasksim.store._location import ROOT, Location, explained
from dasksim.store._objects import names_below
from dasksim.store._receipt import KEY, fields_of
from dasksim.store._receipts import FAILURES, RECEIPTS, Receipts
from dasksim.store._record import Record
from dasksim.store._told import read_document
from dasksim.store._zarr_private import sync

__all__ = ["are_countable", "are_labels", "check_arrays", "damaged_metadata", "forget_metadata", "restore_derived"]

_Node = zarr.Array[Any] | zarr.Group | None


def check_arrays(
    location: Location, record: Record, variables: Mapping[str, StoredVariable], *, is_whole: bool
) -> None:
    """Check that shards lie where they are looked for, and that samples which nobody wrote read as none.

    What codecs there are is left to whoever reads: each chunk of what dasksim writes has its checksums.

    Raises
    ------
    StoreError
        If an array is another one than the record describes.
    """
    for name, variable in variables.items():
        document = read_document(location, name)
        if document is None and (not is_whole or name == VALID):  # which comes later than the others
            continue
        wrong = _first_other(document, _made(record, name, variable, record.chunk_size))
        if wrong:
            raise StoreError(
                f"the metadata of {name!r} in the store at {location.name!r} are lost or damaged: {wrong}; "
                "generate(..., repair=True) makes them again"
            )


def _first_other(found: Mapping[str, Any] | None, made: Mapping[str, Any]) -> str:
    """Return what an array's document has otherwise than dasksim writes it, or nothing."""
    if found is None:
        return "there are none"
    if found.get("storage_transformers"):
        return "they name storage_transformers"
    for key in ("chunk_grid", "chunk_key_encoding", "fill_value"):
        if found.get(key) != made[key]:
            return f"{key} must be {made[key]}; got {str(found.get(key))[:200]}"
    return ""


def _made(record: Record, name: str, variable: StoredVariable, inner_rows: int) -> dict[str, Any]:
    """Return the document that dasksim writes for a variable."""
    # made by what makes stores, so that no second description of them has to be kept in step
    group = zarr.create_group(MemoryStore())
    create_array(group, array_layout(record, name, variable, inner_rows))
    return document_of(group[name])  # type: ignore[arg-type]


def damaged_metadata(location: Location, record: Record, derivation: str | None = None) -> list[str]:
    """Return the paths in a store of arrays whose metadata are lost, unreadable or others than dasksim writes them.

    The empty path stands for the metadata that are gathered in the root, which are a copy.
    """
    store = location.for_reading()
    folder = folder_of(derivation)
    groups = [folder] if derivation is None else []  # which a removal that is cut off takes from under receipts
    own = [*groups, f"{folder}/{RECEIPTS}", f"{folder}/{FAILURES}"]
    # what older stores never had is not lost
    own = [name for name in own if not sync(store.is_empty(name))]
    coords = record.coords
    found = {name: _opened(store, name) for name in [*record.variables, *coords, *own]}
    copies = _gathered(location)
    documents = {name: read_document(location, name) or {} for name, node in found.items() if node is not None}
    bad = [n for n in record.variables if not _fits(found[n], documents.get(n, {}), n, record, copies)]
    bad += [n for n in own if not _is_own(found[n], documents.get(n, {}), n, record)]
    is_sane = {n: found[n] is not None and are_countable(location, n) for n in coords}
    bad += [n for n in coords if not is_sane[n] or not are_labels(_labels(found[n], n), coords[n])]
    known = {n: copies[n] for n in coords if copies and n in copies and n not in bad}
    bad += [n for n, copy in known.items() if not _holds(documents[n], copy)]  # which of them is right is not known
    if bad or derivation is not None or copies is None:
        return bad
    arrays = [name for name, node in found.items() if isinstance(node, zarr.Array)]
    return [] if all(copies.get(name) == documents[name] for name in arrays) else [""]


def forget_metadata(location: Location, record: Record) -> None:
    """Remove the metadata of arrays that are damaged, so that they are made again; data and receipts stay.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    with explained(f"cannot write to the store at {location.name!r}"):
        for derivation in (None, *record.derivations):
            view = record if derivation is None else record.view(derivation) or record
            for name in filter(None, damaged_metadata(location, view, derivation)):
                sync(location.store.delete(f"{name}/{ROOT}"))
        _mend_groups(location, record)


def _mend_groups(location: Location, record: Record) -> None:
    """Write the documents of groups of derivations again, as far as they say what they shall and are damaged beside."""
    told: dict[str, Any] = {folder_of(key): kept_entry(location, key) for key in record.derivations}
    known = {path: entry for path, entry in told.items() if entry is not None}
    for path, entry in {**({f"{FOLDER}/derived": None} if told else {}), **known}.items():
        key, made = f"{path}/{ROOT}", group_document(entry)
        if _parsed(location.read(key)) != json.loads(made):
            location.write(key, made)


def restore_derived(location: Location, record: Record) -> None:
    """Create what is missing of the arrays of derivations, which a store's record describes.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    for key in record.derivations:
        view = record.view(key) or record
        arrays = (array_layout(view, name, v, inner_rows_for(view)) for name, v in view.variables.items())
        create_arrays(location, StoreLayout(tuple(arrays), {}, view, key))


def _opened(store: Store, name: str) -> _Node:
    try:
        return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)[name]
    except Exception:  # noqa: BLE001  # whatever Zarr and codecs make of what stands there
        return None


def _fits(node: _Node, found: Mapping[str, Any], name: str, record: Record, copies: Mapping[str, Any] | None) -> bool:
    """Whether an array is as dasksim makes it, in inner chunks as they are chosen now, or as the copy says."""
    if not isinstance(node, zarr.Array):
        return False
    rows = int(node.chunks[0])
    # other versions may have chosen other inner chunks; the copy in the root tells these from damage
    if rows != inner_rows_for(record) and (copies or {}).get(name, found) != found:
        return False
    if rows < 1 or record.chunk_size % rows:
        return False
    return _compared(found) == _compared(_made(record, name, record.variables[name], rows))


def _holds(document: Mapping[str, Any], copy: object) -> bool:
    """Whether a document says what its copy says, and perhaps has attributes that somebody added."""
    found = mapping_of(document, "attributes")
    kept = {name: found.get(name) for name in mapping_of(copy, "attributes")}
    return {**document, "attributes": kept} == copy


def _compared(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document without what may differ: attributes that somebody set, and the number of samples."""
    # an empty list, such as that of storage_transformers, says the same as none
    others = {key: value for key, value in document.items() if key not in ("attributes", "shape") and value != []}
    return {**others, "row_shape": list_of(document, "shape")[1:]}


def _is_own(node: _Node, found: Mapping[str, Any], name: str, record: Record) -> bool:
    """Whether a group or an array of dasksim's own is as it makes it; older versions made fewer fields."""
    if name == FOLDER or not isinstance(node, zarr.Array):
        return name == FOLDER and isinstance(node, zarr.Group)
    try:
        prefix = key_prefix(found)
    except ValueError:
        return False
    # under another separator than that of its keys no receipt would be found, as if no chunk were complete
    keys = filter(None, map(KEY.fullmatch, names_below(node.store, name)))
    if any(key["separator"] != prefix[-1] for key in keys):
        return False
    variables, sizes = list(dict.fromkeys([*record.variables, VALID])), [1]
    if name.endswith(f"/{RECEIPTS}"):
        fields = list_of(node.attrs, "fields")
        sizes = [1, len(fields)]
        if fields != [field for field in fields_of(variables) if field in fields]:
            return False
    group = zarr.create_group(MemoryStore())
    Receipts.create(group, 1, variables, prefix[-1], FOLDER)
    made = document_of(group[f"{FOLDER}/{name.rpartition('/')[2]}"])  # type: ignore[arg-type]
    made |= {"shape": sizes, "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": sizes}}}
    oldest = {**made, "codecs": made["codecs"][:1]}  # without checksums
    return _compared(found) in (_compared(made), _compared(oldest))


def are_countable(location: Location, name: str) -> bool:
    """Whether the texts of a coordinate are as many as they shall be, so that Zarr can be let at them.

    It makes room for as many as they say, and a number that is damaged may be one for which no memory suffices.
    """
    document = read_document(location, name) or {}
    if codec_names(document) != ["vlen-utf8", "zstd"]:  # not as dasksim writes them
        return True
    size = list_of(mapping_of(mapping_of(document, "chunk_grid"), "configuration"), "chunk_shape")[0]
    for chunk in range(-(-document["shape"][0] // size)):
        content = location.read(f"{name}/{key_of(key_prefix(document), chunk, 1)}")
        try:
            texts = b"" if content is None else bytes(numcodecs.zstd.decompress(content))
        except (RuntimeError, MemoryError):
            return False
        if content is not None and int.from_bytes(texts[:4], "little") != size:
            return False
    return True


def _labels(node: _Node, name: str) -> npt.NDArray[Any]:
    """Return coordinates as xarray decodes them; none if it cannot."""
    import xarray as xr  # which takes half a second, and few stores have coordinates to be looked at

    try:
        stored = (name, np.asarray(node[:]), dict(node.attrs))  # type: ignore[index, union-attr]
        return np.asarray(xr.decode_cf(xr.Dataset(coords={name: stored}))[name].values)
    except Exception:  # noqa: BLE001  # whatever Zarr, codecs and xarray make of what stands there
        return np.zeros(0)


def are_labels(values: npt.NDArray[Any], labels: list[str]) -> bool:
    """Whether coordinates are those that a record has as strings."""
    if values.dtype.kind == "m":  # as strings they have the unit in which they were given, which is not kept
        return len(values) == len(labels)
    if values.dtype.kind == "M":
        try:
            return np.array_equal(values, np.array(labels, values.dtype), equal_nan=True)
        except ValueError:
            return False
    return [str(value) for value in values] == labels


def _gathered(location: Location) -> dict[str, Any] | None:
    """Return the copies of all documents that the root of a complete store has, or None if there are none."""
    root = _parsed(location.read(ROOT))
    gathered = root.get("consolidated_metadata") if isinstance(root, dict) else None
    return None if gathered is None else mapping_of(gathered, "metadata")


def _parsed(content: bytes | None) -> object:
    try:
        return json.loads(content or b"")
    except (ValueError, RecursionError):
        return None

"""What the metadata of arrays say, read from the documents that Zarr's specification describes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import zarr

from dasksim.errors import StoreError

__all__ = [
    "codec_names",
    "document_of",
    "has_checksums",
    "inner_codecs",
    "key_of",
    "key_prefix",
    "list_of",
    "mapping_of",
    "shard_key",
]


def document_of(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return an array's metadata as its document has them."""
    return dict(json.loads(json.dumps(array.metadata.to_dict())))  # Zarr has tuples where documents have lists


def mapping_of(found: object, key: str) -> dict[str, Any]:
    """Return the mapping under a key of what may be no mapping; an empty one if there is none."""
    value = found.get(key) if isinstance(found, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def list_of(found: object, key: str) -> list[Any]:
    """Return the list under a key of what may be no mapping; an empty one if there is none."""
    value = found.get(key) if isinstance(found, Mapping) else None
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def key_prefix(document: Mapping[str, Any]) -> str:
    """Return what keys of an array's chunks begin with, the separator last.

    Raises
    ------
    StoreError
        If the keys are formed in another way than the default one.
    """
    encoding = document.get("chunk_key_encoding")
    name = encoding if isinstance(encoding, str) else mapping_of(document, "chunk_key_encoding").get("name")
    if name != "default":
        raise StoreError(f"chunks have keys of the kind {name!r}, not 'default'")
    return f"c{mapping_of(encoding, 'configuration').get('separator', '/')}"


def key_of(prefix: str, chunk: int, n_axes: int) -> str:
    """Return the key of a chunk that is whole along all axes but the first.

    Examples
    --------
    >>> key_of("c/", 3, 2), key_of("c.", 3, 1)
    ('c/3/0', 'c.3')
    """
    return prefix + prefix[-1].join([str(chunk), *("0",) * (n_axes - 1)])


def shard_key(name: str, chunk: int, n_axes: int) -> str:
    """Return the key of a chunk of a variable, as dasksim writes them."""
    return f"{name}/{key_of('c/', chunk, n_axes)}"


def has_checksums(document: Mapping[str, Any]) -> bool:
    """Whether each chunk of an array of little-endian values, or of strings, ends with its CRC32C.

    Raises
    ------
    StoreError
        If they are encoded in another way.
    """
    values, *others = list_of(document, "codecs") or [None]
    names = [_name(codec) for codec in others]
    if not (_is_little(values) or _name(values) == "vlen-utf8") or names not in ([], ["crc32c"]):
        raise StoreError(f"chunks are encoded by {str(document.get('codecs'))[:200]}")
    return bool(names)


def codec_names(document: Mapping[str, Any]) -> list[str]:
    """Return the names of an array's codecs, in the order of writing."""
    return [_name(codec) for codec in list_of(document, "codecs")]


def inner_codecs(document: Mapping[str, Any]) -> list[str] | None:
    """Return the names of what makes bytes of an inner chunk's bytes, in the order of writing.

    None if they are not as dasksim writes them: shards whole along all axes but the first, little-endian values, and no
    codecs but Blosc and checksums.
    """
    codecs = list_of(document, "codecs")
    if len(codecs) != 1 or _name(codecs[0]) != "sharding_indexed":
        return None
    sharding = mapping_of(codecs[0], "configuration")
    values, *others = list_of(sharding, "codecs") or [None]
    index, *index_others = list_of(sharding, "index_codecs") or [None]
    names = [_name(codec) for codec in others]
    is_known = (
        sharding.get("index_location", "end") in ("start", "end")
        and _is_little(values)
        and _is_little(index)
        and [_name(codec) for codec in index_others] == ["crc32c"]
        and set(names) <= {"crc32c", "blosc"}
        and list_of(sharding, "chunk_shape")[1:] == list_of(document, "shape")[1:]
    )
    return names if is_known else None


def _name(codec: object) -> str:
    # the specification allows a name alone where there is nothing to configure
    return codec if isinstance(codec, str) else str(codec.get("name") if isinstance(codec, Mapping) else None)


def _is_little(codec: object) -> bool:
    # values of one byte have no order of bytes, and documents then say none
    return _name(codec) == "bytes" and mapping_of(codec, "configuration").get("endian", "little") == "little"

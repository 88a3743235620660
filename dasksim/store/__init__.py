"""Stores: Zarr groups written chunk by chunk, with a receipt for each complete chunk."""

from dasksim.store._check import ChunkChecker
from dasksim.store._layout import ArrayLayout, StoreLayout, choose_inner_rows, stored_dtypes
from dasksim.store._metadata import forget_metadata
from dasksim.store._read import (
    ATTRIBUTE,
    FORMAT,
    Status,
    open_dataset,
    open_part,
    open_receipts,
    read_record,
    remove_leftovers,
    status,
)
from dasksim.store._receipts import Receipt, Receipts, digest_rows
from dasksim.store._write import (
    ChunkWriter,
    cast,
    create_arrays,
    create_root,
    finish_store,
    forget_chunks,
    remove_store,
    replace_root,
)

__all__ = [
    "ATTRIBUTE",
    "FORMAT",
    "ArrayLayout",
    "ChunkChecker",
    "ChunkWriter",
    "Receipt",
    "Receipts",
    "Status",
    "StoreLayout",
    "cast",
    "choose_inner_rows",
    "create_arrays",
    "create_root",
    "digest_rows",
    "finish_store",
    "forget_chunks",
    "forget_metadata",
    "open_dataset",
    "open_part",
    "open_receipts",
    "read_record",
    "remove_leftovers",
    "remove_store",
    "replace_root",
    "status",
    "stored_dtypes",
]

"""Stores: Zarr groups written chunk by chunk, with a receipt for each complete chunk."""

from dasksim.store._check import ChunkChecker
from dasksim.store._dataset import check_shards, open_dataset, open_part, open_simulated
from dasksim.store._derived import (
    StoredRows,
    begin_derivation,
    end_derivation,
    grow_derived,
    inner_rows_of,
    remove_derivation,
)
from dasksim.store._icechunk import open_writer
from dasksim.store._layout import ArrayLayout, StoreLayout, choose_inner_rows, stored_dtypes
from dasksim.store._locate import StoreLike, locate
from dasksim.store._location import Location, explained
from dasksim.store._metadata import check_arrays, forget_metadata, restore_derived
from dasksim.store._receipt import Receipt, digest_rows
from dasksim.store._receipts import Receipts, open_receipts
from dasksim.store._record import Derivation, Record, StoredStage, StoredVariable
from dasksim.store._root import create_root, finish_store, remove_store, replace_root
from dasksim.store._shards import ShardReader
from dasksim.store._status import Status, status, stored_record
from dasksim.store._told import check_documents, present_record, read_record
from dasksim.store._within import path_within
from dasksim.store._write import ChunkWriter, cast, check_store, create_arrays, forget_chunks

__all__ = [
    "ArrayLayout",
    "ChunkChecker",
    "ChunkWriter",
    "Derivation",
    "Location",
    "Receipt",
    "Receipts",
    "Record",
    "ShardReader",
    "Status",
    "StoreLayout",
    "StoreLike",
    "StoredRows",
    "StoredStage",
    "StoredVariable",
    "begin_derivation",
    "cast",
    "check_arrays",
    "check_documents",
    "check_shards",
    "check_store",
    "choose_inner_rows",
    "create_arrays",
    "create_root",
    "digest_rows",
    "end_derivation",
    "explained",
    "finish_store",
    "forget_chunks",
    "forget_metadata",
    "grow_derived",
    "inner_rows_of",
    "locate",
    "open_dataset",
    "open_part",
    "open_receipts",
    "open_simulated",
    "open_writer",
    "path_within",
    "present_record",
    "read_record",
    "remove_derivation",
    "remove_store",
    "replace_root",
    "restore_derived",
    "status",
    "stored_dtypes",
    "stored_record",
]

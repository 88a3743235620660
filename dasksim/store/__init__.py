"""Stores: Zarr groups written chunk by chunk, with a receipt for each complete chunk."""

from dasksim.store._dataset import open_dataset
from dasksim.store._derived import StoredRows
from dasksim.store._entries import Derivation, StoredVariable
from dasksim.store._layout import StoreLayout
from dasksim.store._locate import StoreLike
from dasksim.store._record import Record
from dasksim.store._shards import ShardReader
from dasksim.store._status import Status, status
from dasksim.store._store import Store
from dasksim.store._write import ChunkWriter

__all__ = [
    "ChunkWriter",
    "Derivation",
    "Record",
    "ShardReader",
    "Status",
    "Store",
    "StoreLayout",
    "StoreLike",
    "StoredRows",
    "StoredVariable",
    "open_dataset",
    "status",
]

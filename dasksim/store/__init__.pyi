from ._dataset import open_dataset
from ._entries import Derivation, StoredVariable
from ._layout import StoreLayout
from ._locate import StoreLike
from ._record import Record
from ._shards import ShardReader
from ._status import Status, status
from ._store import Store
from ._stored_rows import StoredRows
from ._write import ChunkWriter

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

from ._dataset import open_dataset
from ._entries import Derivation, StoredVariable
from ._layout import StoreLayout
from ._locate import StoreLike
from ._record import Record
from ._rounds import check_alike
from ._samples import DatasetReader, SamplesLike, mask_of, open_samples
from ._shards import ShardReader
from ._status import Status, status
from ._store import Store
from ._stored_rows import StoredRows
from ._write import ChunkWriter

__all__ = [
    "ChunkWriter",
    "DatasetReader",
    "Derivation",
    "Record",
    "SamplesLike",
    "ShardReader",
    "Status",
    "Store",
    "StoreLayout",
    "StoreLike",
    "StoredRows",
    "StoredVariable",
    "check_alike",
    "mask_of",
    "open_dataset",
    "open_samples",
    "status",
]

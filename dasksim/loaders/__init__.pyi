from ._batches import Batches, batches
from ._follow import follow

__all__ = ["Batches", "batches", "follow"]

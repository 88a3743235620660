"""Read stores in shuffled batches to train on: NumPy here, PyTorch and Keras in the modules of their names."""

from dasksim.loaders._batches import Batches, batches
from dasksim.loaders._follow import follow

__all__ = ["Batches", "batches", "follow"]

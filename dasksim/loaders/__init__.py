"""Read stores in shuffled batches to train on: NumPy here, PyTorch and Keras in the modules of their names."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Stores: Zarr groups written chunk by chunk, with a receipt for each complete chunk."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

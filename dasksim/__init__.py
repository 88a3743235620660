"""Simulate training sets for simulation-based inference, lazily, in parallel, and with the same bits every time."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Array namespaces: which module a stage computes with, and the way back to the host."""

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["as_host", "namespace"]


def namespace() -> ModuleType:
    """Return the array namespace that functions receive as ``xp``."""
    return np


def as_host(value: Any) -> npt.NDArray[Any]:
    """Return ``value`` as a NumPy array; arrays of other libraries are copied to the host."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "__cuda_array_interface__") and hasattr(value, "get"):
        return np.asarray(value.get())
    return np.asarray(value)

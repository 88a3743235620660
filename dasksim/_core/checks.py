"""Checks of arguments that many calls have in common."""

import math
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from dasksim.errors import ArgumentError, ArgumentTypeError

__all__ = ["as_shape", "check_count", "check_flag", "check_retries", "check_seed"]

# Of seeds that nobody gave: JavaScript, and what else reads numbers of JSON as floating-point ones, keeps so many.
_SEED_BITS = 53


def as_shape(name: str, value: object) -> tuple[int, ...]:
    """Return a batch shape, given as an int or a sequence of ints.

    Raises
    ------
    ArgumentTypeError
        If it is no int or sequence of ints.
    ArgumentError
        If a size is less than 1, or there are too many samples to count.
    """
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if not value:
            raise ArgumentError(f"{name} must have at least one axis; got {value!r}")
        shape = tuple(check_count(name, size, whole=value) for size in value)
    else:
        shape = (check_count(name, value),)
    if math.prod(shape) > np.iinfo(np.int64).max:
        raise ArgumentError(f"{name} must hold fewer than 2**63 samples; got {value!r}")
    return shape


def check_count(name: str, value: Any, *, whole: Any = None) -> int:
    """Return ``value`` as an int >= 1, or raise."""
    shown = value if whole is None else whole
    # to Python a bool is an int, and True would count as 1
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise ArgumentTypeError(f"{name} must be an integer >= 1; got {shown!r}")
    if value < 1:
        raise ArgumentError(f"{name} must be >= 1; got {shown!r}")
    return int(value)


def check_flag(name: str, value: object) -> bool:
    """Return ``value`` if it is True or False, or raise."""
    if not isinstance(value, bool | np.bool_):
        raise ArgumentTypeError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def check_seed(seed: object) -> int:
    """Return ``seed`` as an int >= 0; ``None`` draws 53 bits of fresh entropy.

    Raises
    ------
    ArgumentTypeError
        If the seed is not an integer.
    ArgumentError
        If the seed is negative.
    """
    if seed is None:
        return secrets.randbits(_SEED_BITS)
    if isinstance(seed, bool | np.bool_) or not isinstance(seed, int | np.integer):
        raise ArgumentTypeError(f"seed must be an integer >= 0 or None; got {seed!r}")
    if seed < 0:
        raise ArgumentError(f"seed must be >= 0; got {seed!r}")
    return int(seed)


def check_retries(retries: object) -> int:
    """Return ``retries`` as an int >= 0, or raise."""
    if isinstance(retries, bool | np.bool_) or not isinstance(retries, int | np.integer):
        raise ArgumentTypeError(f"retries must be an integer >= 0; got {retries!r}")
    if retries < 0:
        raise ArgumentError(f"retries must be >= 0; got {retries!r}")
    return int(retries)

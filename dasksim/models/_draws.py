"""Draws in single precision, which make up most of what the benchmark simulators cost.

NumPy's generators make one number at a time. From their raw bits, with NumPy's vector functions, uniform numbers cost
half of what they cost there, and normal ones a third.
"""

import math
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["normal", "uniform"]

# Normal numbers that are made together: few enough for a core's cache, and enough that threads, which wait for each
# other between two of NumPy's calls, do not wait most of the time.
_BLOCK = 1 << 17


def normal(shape: tuple[int, ...], rng: Any, xp: ModuleType) -> Any:
    """Draw from the standard normal distribution, in single precision.

    By the method of Box and Muller, which is exact. A radius has 32 random bits and an angle as many: no draw is beyond
    6.8 standard deviations, which one in 10¹¹ should be.

    References
    ----------
    Box, G. E. P., Muller, M. E.: A note on the generation of random normal deviates, Annals of Mathematical Statistics
    1958.
    """
    if not isinstance(rng, np.random.Generator):
        return xp.asarray(rng.standard_normal(shape, dtype="float32"))
    draws = np.empty(math.prod(shape), np.float32)
    # once for all blocks: new memory for each would cost page faults
    space = np.empty((2, -(-min(draws.size, _BLOCK) // 2)), np.float32)
    for first in range(0, draws.size, _BLOCK):
        _fill_normal(draws[first : first + _BLOCK], space, rng)
    return xp.asarray(draws.reshape(shape))


def uniform(shape: tuple[int, ...], rng: Any, xp: ModuleType, lower: float = 0.0, upper: float = 1.0) -> Any:
    """Draw from a uniform distribution, in single precision; multiples of 2⁻²⁴ of its width, as NumPy's are."""
    if isinstance(rng, np.random.Generator):
        bits = _random_bits(math.prod(shape), rng)
        # 24 bits, which single precision holds exactly: no number is rounded up to 1
        bits >>= np.uint32(8)
        draws = xp.asarray(bits.astype(np.float32).reshape(shape))
        draws *= 2.0**-24 * (upper - lower)
    else:
        draws = xp.asarray(rng.random(shape, dtype="float32"))
        draws *= upper - lower
    draws += lower
    return draws


def _random_bits(n: int, rng: np.random.Generator) -> npt.NDArray[np.uint32]:
    """Return ``n`` times 32 random bits, the same on machines of either byte order."""
    raw: npt.NDArray[Any] = rng.bit_generator.random_raw(-(-n // 2))
    return raw.astype("<u8", copy=False).view("<u4")[:n]


def _fill_normal(draws: npt.NDArray[np.float32], space: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
    """Fill an array with draws; two rows of half its length, for what lies between, are given."""
    n_pairs = -(-len(draws) // 2)
    bits = _random_bits(2 * n_pairs, rng)
    radius, angle = space[:, :n_pairs]
    radius[:] = bits[:n_pairs]
    # never 0, which has no logarithm
    radius += np.float32(0.5)
    radius *= np.float32(2.0**-32)
    np.log(radius, out=radius)
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    # with a sign: angles from -pi to pi are rounded half as much as those up to 2 pi
    angle[:] = bits[n_pairs:].view("<i4")
    angle *= np.float32(2 * math.pi * 2.0**-32)
    np.cos(angle, out=draws[:n_pairs])
    draws[:n_pairs] *= radius
    # after the cosines, since the sines take the place of the angles
    np.sin(angle, out=angle)
    angle *= radius
    draws[n_pairs:] = angle[: len(draws) - n_pairs]

"""CRC32C, the checksum of Zarr's codec of that name, and that of what is joined, without reading it again."""

import functools
from typing import Any, TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt

__all__ = ["CHECKSUM_BYTES", "checked", "checksum_of", "joined", "with_checksum"]

#: Bytes of a CRC32C.
CHECKSUM_BYTES = 4

# The polynomial of CRC32C, with the bits in reverse, as its values have them.
_POLYNOMIAL = 0x82F63B78

Content = TypeVar("Content", bytes, npt.NDArray[np.uint8])


def checksum_of(content: bytes | npt.NDArray[Any]) -> int:
    """Return the CRC32C of contiguous bytes."""
    return int(google_crc32c.value(content))


def with_checksum(content: bytes) -> bytes:
    """Return a content with its checksum behind it."""
    return content + checksum_of(content).to_bytes(CHECKSUM_BYTES, "little")


def checked(content: Content) -> Content | None:
    """Return a content without its checksum, or None if it differs from that."""
    values, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
    return values if checksum_of(values) == int.from_bytes(bytes(checksum), "little") else None


def joined(first: int, second: int, n_bytes: int) -> int:
    """Return the checksum of two contents, one after the other, from that of each; the second has so many bytes.

    Examples
    --------
    >>> joined(checksum_of(b"two "), checksum_of(b"moons"), 5) == checksum_of(b"two moons")
    True
    """
    low, lower_middle, upper_middle, high = _followed_by(n_bytes)
    moved = low[first & 255] ^ lower_middle[first >> 8 & 255] ^ upper_middle[first >> 16 & 255] ^ high[first >> 24]
    return moved ^ second


@functools.lru_cache(16)
def _followed_by(n_bytes: int) -> tuple[list[int], ...]:
    """Return, for each byte of a checksum, what becomes of its values where so many bytes of zeros follow.

    A checksum is a polynomial over two elements, modulo that of CRC32C: so many bytes after it multiply it by a power
    of x, and each of its bits can be multiplied apart.
    """
    power, square, n_bits = 1 << 31, 1 << 30, 8 * n_bytes  # 1 and x: the highest bit is that of the lowest power
    while n_bits:
        power = _product(power, square) if n_bits & 1 else power
        square, n_bits = _product(square, square), n_bits >> 1
    bits = [_product(power, 1 << i) for i in range(32)]
    tables: tuple[list[int], ...] = ([0], [0], [0], [0])
    for i, bit in enumerate(bits):
        table = tables[i // 8]
        table += [bit ^ value for value in table]
    return tables


def _product(a: int, b: int) -> int:
    """Return the product of two polynomials modulo that of CRC32C."""
    product = 0
    for i in range(31, -1, -1):
        product ^= b if a >> i & 1 else 0
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product

"""Sources of random numbers: telling dasksim of those that it does not know."""

from __future__ import annotations

from dasksim._streams.libraries import register

__all__ = ["register"]

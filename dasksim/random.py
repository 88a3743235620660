"""Sources of random numbers: telling dasksim of those that it does not know."""

from dasksim._streams.libraries import register

__all__ = ["register"]

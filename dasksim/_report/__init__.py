"""One page on a store."""

from dasksim._report.page import report

__all__ = ["report"]

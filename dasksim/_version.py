"""The version of dasksim."""

__version__ = "0.1.0"

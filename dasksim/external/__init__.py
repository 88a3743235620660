"""Programs that are not Python, as functions that a simulator is made of."""

from dasksim.external._program import ExternalProgram

__all__ = ["ExternalProgram"]

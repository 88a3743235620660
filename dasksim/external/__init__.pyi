from ._program import ExternalProgram

__all__ = ["ExternalProgram"]

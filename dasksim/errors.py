"""The exceptions that dasksim raises.

The tree is grouped by what a handler would do::

    DasksimError
    ├── ArgumentError (ValueError)          a value in the call cannot be used: change the call
    ├── ArgumentTypeError (TypeError)       a value in the call has the wrong type: change the call
    ├── SimulatorError (ValueError)         the stages do not fit together: change the simulator
    ├── OutputError (ValueError)            a function returned something unexpected: change the function
    ├── IrreproducibleError (RuntimeError)  a function made other values when it ran again: change the function
    └── StoreError (OSError)                the store cannot be read or written: look at the path
        ├── StoreMismatchError (ValueError) the store was made by other arguments: change the call or the path
        └── IncompleteStoreError            the store lacks chunks: finish generating it

An exception raised *by* a user's function is never wrapped: it is raised as itself, with a note (:pep:`678`)
that says where it happened and how to reproduce it.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "DasksimError",
    "IncompleteStoreError",
    "IrreproducibleError",
    "OutputError",
    "SimulatorError",
    "StoreError",
    "StoreMismatchError",
]


class DasksimError(Exception):
    """Base class of every error that dasksim raises itself."""


class ArgumentError(DasksimError, ValueError):
    """A value in the call cannot be used."""


class ArgumentTypeError(DasksimError, TypeError):
    """A value in the call has the wrong type."""


class SimulatorError(DasksimError, ValueError):
    """The stages of a simulator do not fit together."""


class OutputError(DasksimError, ValueError):
    """A user's function returned something other than what was expected."""


class IrreproducibleError(DasksimError, RuntimeError):
    """Samples came out otherwise when they were simulated again, as an audit does."""


class StoreError(DasksimError, OSError):
    """A store cannot be read or written."""


class StoreMismatchError(StoreError, ValueError):
    """A store was made by other arguments than those now given."""


class IncompleteStoreError(StoreError):
    """A store lacks chunks."""


def nearest(name: object, known: Iterable[object]) -> str:
    """Return a hint that offers the known name closest to ``name``, or lists the known names.

    Examples
    --------
    >>> nearest("tehta", ["theta", "x"])
    "did you mean 'theta'?"
    >>> nearest("q", ["theta", "x"])
    "known: 'theta', 'x'"
    """
    known = list(known)
    close = difflib.get_close_matches(str(name), map(str, known), n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + (", ".join(map(repr, known)) or "none")

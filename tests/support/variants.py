"""Variants of a test, of which the quick suite runs some."""

from collections.abc import Iterable

import pytest

__all__ = ["quick"]


def quick(names: Iterable[str], *chosen: str) -> list[str | pytest.ParameterSet]:
    """Return names as parameters, all but the chosen ones slow: ``tox -e slow`` runs them.

    A mechanism that is the same in all of them, such as the way to worker processes, is then tried in a few.
    """
    names = list(names)
    assert set(chosen) <= set(names)
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]

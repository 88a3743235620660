"""Variants of a test and drawn examples, of which the quick suite runs some, and ``tox -e slow`` all."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import settings

__all__ = ["examples", "quick", "quick_where"]

_IS_WHOLE = os.environ.get("DASKSIM_TESTS") == "whole"


def examples(n: int, **options: Any) -> settings:
    """Return settings for a test of so many drawn examples, of which the quick suite tries a third."""
    return settings(max_examples=n if _IS_WHOLE else max(2, n // 3), **options)


def quick(names: Iterable[str], *chosen: str) -> list[Any]:
    """Return names as parameters, all but the chosen ones slow: ``tox -e slow`` runs them.

    A mechanism that is the same in all of them, such as the way to worker processes, is then tried in a few.
    """
    names = list(names)
    assert set(chosen) <= set(names)
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]


def quick_where(is_quick: Callable[..., bool], cases: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return cases of several parameters, slow where the condition does not hold of their values."""
    return [pytest.param(*case, marks=() if is_quick(*case) else pytest.mark.slow) for case in cases]

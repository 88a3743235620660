"""Durations as text."""

__all__ = ["duration"]

# In seconds; a duration is told in the largest of which it has one and a half.
_UNITS = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float) -> str:
    """Return some seconds as text, to two digits.

    Examples
    --------
    >>> duration(0.2), duration(75.4), duration(754), duration(54_000)
    ('a second', '75 s', '13 min', '15 h')
    """
    size, unit = next((u for u in _UNITS if seconds >= 1.5 * u[0]), (1, "s"))
    return f"{float(f'{seconds / size:.2g}'):,g} {unit}" if seconds >= 1 else "a second"

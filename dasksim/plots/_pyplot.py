"""Matplotlib, and text as it shows it."""

from types import ModuleType

__all__ = ["label_text", "open_pyplot"]

# Characters of a label.
_MOST_CHARACTERS = 40


def open_pyplot() -> ModuleType:
    """Return the module, or say how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        error.add_note("plots need the package matplotlib: pip install 'dasksim[plots]'")
        raise
    return plt


def label_text(label: object) -> str:
    """Return a label as it stands, where Matplotlib would read what lies between dollars as mathematics."""
    text = str(label)
    text = text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
    return text.replace("$", r"\$")

"""Matplotlib, and text as it shows it."""

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["axis_text", "label_text", "legend_above", "open_pyplot", "text_color"]

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


def axis_text(attrs: Mapping[Any, Any], name: str, feature: str = "") -> str:
    """Return the label of an axis: the attribute ``long_name``, or else the name, and the units in brackets.

    A feature is the name with what tells it from others, such as ``x[3]``.
    """
    text = f"{attrs.get('long_name', name)}{feature.removeprefix(name)}"
    return label_text(f"{text} [{attrs['units']}]" if attrs.get("units") else text)


def legend_above(ax: "Axes", n_columns: int = 4) -> None:
    """Put the legend above the axes, where it hides nothing."""
    ax.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=n_columns, fontsize="small", frameon=False, borderaxespad=0.2
    )


def text_color() -> str:
    """Return the colour of text in force, which is seen on the background, dark or light."""
    return str(open_pyplot().rcParams["text.color"])

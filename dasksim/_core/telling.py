"""How what is shown to people is worded and drawn: counts, and tables of notebooks."""

import html
from collections.abc import Iterable, Sequence

__all__ = ["counted", "html_table"]


def counted(n: int, noun: str) -> str:
    """Return a number with its noun: ``1 chunk``, ``12,000 chunks``, ``3 sub-batches``."""
    plural = "" if n == 1 else "es" if noun.endswith("ch") else "s"
    return f"{n:,} {noun}{plural}"


def html_table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), caption: str = "") -> str:
    """Return a table of texts in HTML, in which spaces at the beginning of a text stay; themes colour it."""

    def line(cells: Sequence[str], tag: str) -> str:
        style = ' style="text-align:left;vertical-align:top;white-space:pre-wrap"'
        return f"<tr>{''.join(f'<{tag}{style}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    above = f'<caption style="text-align:left">{html.escape(caption)}</caption>' if caption else ""
    names = f"<thead>{line(head, 'th')}</thead>" if head else ""
    return f"<table>{above}{names}<tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"

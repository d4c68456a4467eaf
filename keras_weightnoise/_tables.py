"""Tables as text and as HTML."""

import html
from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A table.

    Attributes:
        title: A line above it; may be empty.
        header: The columns' names.
        rows: The cells. The first column is text, the others are numbers.
        note: A line below it; may be empty.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def to_text(self) -> str:
        """Aligned columns: the first to the left, the others to the right."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            ).rstrip()
            for row in (self.header, *self.rows)
        ]
        return "\n".join(
            [
                *([self.title] if self.title else []),
                *(f"  {line}" for line in lines),
                *([f"  {self.note}"] if self.note else []),
            ]
        )

    def to_html(self) -> str:
        """An HTML table, for notebooks."""

        def row(cells: Sequence[str], tag: str) -> str:
            aligned = (
                f'<{tag} style="text-align:{"left" if i == 0 else "right"}">{html.escape(cell)}</{tag}>'
                for i, cell in enumerate(cells)
            )
            return f"<tr>{''.join(aligned)}</tr>"

        title = f"<p>{html.escape(self.title)}</p>" if self.title else ""
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        body = "".join(row(cells, "td") for cells in self.rows)
        return f"{title}<table><thead>{row(self.header, 'th')}</thead><tbody>{body}</tbody></table>{note}"

"""A record in the terminal."""

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from tightwire.core.records import Table


def render(table: Table) -> RichTable:
    """A rich table; notes become its caption."""
    drawn = RichTable(
        title=table.title, box=box.SIMPLE_HEAD, title_justify="left", caption="\n".join(table.notes) or None,
        caption_justify="left",
    )  # fmt: skip
    for column in table.columns:
        drawn.add_column(column, justify="right" if column in table.right else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn

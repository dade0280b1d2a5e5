"""A Page as one self-contained HTML file."""

from __future__ import annotations

import base64
from html import escape

from tightwire.core.records import Page, Picture, Table
from tightwire.report import plot

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100%; font-size: .85rem } td, th { padding: .35rem .6rem; text-align: left;
border-bottom: 1px solid #e1e5ea; vertical-align: top } .n { text-align: right; font-variant-numeric: tabular-nums;
white-space: nowrap }
p.note { color: #52606d; font-size: .85rem } img { max-width: 100% }
@media (prefers-color-scheme: dark) { body { background: #fff } }
"""


def render(page: Page) -> str:
    """The page with its pictures embedded; everything from the record is escaped."""
    body = "\n".join(_table(part) if isinstance(part, Table) else _picture(part) for part in page.sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(page.title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(page.title)}</h1><p>{escape(page.introduction)}</p>"
        f"{body}</body></html>\n"
    )


def _table(table: Table) -> str:
    marks = [' class="n"' if column in table.right else "" for column in table.columns]
    head = "".join(f"<th{mark}>{escape(column)}</th>" for mark, column in zip(marks, table.columns, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{mark}>{escape(cell)}</td>" for mark, cell in zip(marks, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    return f"<h2>{escape(table.title)}</h2><table><tr>{head}</tr>{rows}</table>{notes}"


def _picture(record: Picture) -> str:
    data = base64.b64encode(plot.render(record)).decode()
    return f'<p><img alt="{escape(record.title)}" src="data:image/png;base64,{data}"></p>'

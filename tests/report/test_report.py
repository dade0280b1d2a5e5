from rich.console import Console

from tightwire.core.records import Bars, Page, Table
from tightwire.report import html, plot, text

TABLE = Table("T <b>", ["a", "n"], [["<script>", "1"]], ["n"], ["note & more"])
BARS = Bars("B", "s", ["x", "y"], ["raw", "auto"], [[1.0, 2.0], [0.5, 0.1]], log=True)


def test_text_shows_cells_as_they_are() -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(text.render(Table("T", ["a"], [["[red]not markup"]], notes=["n"])))
        assert "[red]not markup" in console.export_text()


def test_html_escapes_and_embeds() -> None:
    page = html.render(Page("P & Q", "intro", [TABLE, BARS]))
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "data:image/png;base64," in page


def test_a_picture_is_a_png() -> None:
    assert plot.render(BARS).startswith(b"\x89PNG")

"""Results as plain facts, for any renderer: `tightwire.report` draws them and knows nothing else."""

from __future__ import annotations

import msgspec


class Table(msgspec.Struct, frozen=True, tag=True):
    """`rows` hold one text for each of `columns`; `right` names those that are numbers; `notes` go below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    right: list[str] = []
    notes: list[str] = []


class Bars(msgspec.Struct, frozen=True, tag=True):
    """Groups of bars: `values[series][group]`, in `unit`; drawn on a logarithmic axis where `log` is set."""

    title: str
    unit: str
    groups: list[str]
    series: list[str]
    values: list[list[float]]
    log: bool = False


class Cloud(msgspec.Struct, frozen=True, tag=True):
    """Points in three dimensions: `points[series][i]` on the `axes`, of which those named in `log` are logarithmic;
    `labels[series][i]` is written at a point unless it is empty."""

    title: str
    axes: list[str]
    series: list[str]
    points: list[list[tuple[float, float, float]]]
    labels: list[list[str]]
    log: list[str] = []


class Graph(msgspec.Struct, frozen=True, tag=True):
    """Boxes with the text of `nodes` and arrows between them (from, to); those `marked` stand out."""

    title: str
    nodes: list[str]
    arrows: list[tuple[int, int]]
    marked: list[int] = []


class Span(msgspec.Struct, frozen=True):
    """From `begin_s` to `end_s` in a lane; spans of one `kind` look alike."""

    lane: int
    begin_s: float
    end_s: float
    kind: str


class Timeline(msgspec.Struct, frozen=True, tag=True):
    """`spans` in their `lanes`, and moments with a name."""

    title: str
    lanes: list[str]
    spans: list[Span]
    moments: list[tuple[float, str]] = []


Picture = Bars | Cloud | Graph | Timeline


class Page(msgspec.Struct, frozen=True):
    """A report: a title, an introduction, pictures and tables in their order."""

    title: str
    introduction: str
    sections: list[Table | Picture]

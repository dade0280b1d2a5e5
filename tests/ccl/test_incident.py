"""An incident as it is captured, written, read again, drawn and exported."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tightwire.ccl import chrome_trace, incident_page
from tightwire.ccl.collector import Collector
from tightwire.ccl.incident import Incident, capture
from tightwire.ccl.packing import Packer
from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.summary import GroupFacts, RankSample, Summary
from tightwire.ccl.verdict import Verdict
from tightwire.cli import app
from tightwire.core.events import RECORD, Kind
from tightwire.core.records import Graph
from tightwire.errors import ConfigError
from tightwire.report import html, plot

DATA, PIPE = GroupFacts(1, "data", [0, 1, 2]), GroupFacts(2, "pipe", [2, 3])
VERDICT = Verdict(
    anomaly="H1", guilty_ranks=[3], confidence="high", cause="stopped", group="pipe", operation="allreduce", sequence=5,
    waiting_ranks=[0, 1, 2], evidence=["rank 3 is <stopped>"], since_s=40.0, at_s=42.0,
)  # fmt: skip


def records(rank: int, group: int, ended: int, entered: int) -> bytes:
    """One operation a second; the first `ended` took a tenth of it."""
    made = np.zeros(ended + entered, RECORD)
    for sequence in range(1, entered + 1):
        made[sequence - 1] = (sequence * 10**9, group, sequence, 64, 0, 1, 0xFFFFFFFF, Kind.ENTERED, 1, 0, 0)
    for sequence in range(1, ended + 1):
        made[entered + sequence - 1] = (sequence * 10**9 + 10**8, group, sequence, 0, 0, 1, 0, Kind.DONE, 0, 0, 0)
    return made.tobytes()


def sample(rank: int, counts: dict[int, tuple[int, int]]) -> RankSample:
    frames = [GroupFrame(group, entered, 0, ended, 1) for group, (entered, ended) in counts.items()]
    data = b"".join(records(rank, group, ended, entered) for group, (entered, ended) in counts.items())
    return RankSample(rank, 4, 100 + rank, 1, 0, 10, frames, ProcessState("S", 1.0, 0.0, 0), None, data)


def made() -> Collector:
    """Ranks 0 and 1 wait in `data` for rank 2, which waits in `pipe` for rank 3."""
    samples = [
        sample(0, {1: (41, 40)}), sample(1, {1: (41, 40)}), sample(2, {1: (40, 40), 2: (5, 4)}), sample(3, {2: (4, 4)}),
    ]  # fmt: skip
    collector = Collector()
    collector.take([Packer().digest(Summary("host", 42.0, samples, [DATA, PIPE]))])
    return collector


@pytest.fixture
def incident() -> Incident:
    return capture(made(), VERDICT, ["train", "--fast"])


def test_it_holds_who_waits_and_what_was_done_lately(incident: Incident) -> None:
    assert [(w.rank, w.name, w.sequence, w.on) for w in incident.waits] == [
        (0, "allreduce", 41, [2]), (1, "allreduce", 41, [2]), (2, "allreduce", 5, [3]),
    ]  # fmt: skip
    assert {o.rank for o in incident.operations if o.ended_s is None} == {0, 1, 2}
    assert all(o.ended_s is None or o.ended_s >= 12.0 for o in incident.operations)
    assert [o.entered_s for o in incident.operations] == sorted(o.entered_s for o in incident.operations)


def test_the_newest_operations_are_kept_and_all_that_have_not_ended(
    incident: Incident, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tightwire.ccl.incident.MAX_OPERATIONS", 4)
    fewer = capture(made(), VERDICT, [])
    ended = [o for o in incident.operations if o.ended_s is not None]
    assert [o for o in fewer.operations if o.ended_s is None] == [o for o in incident.operations if o.ended_s is None]
    assert {o.entered_s for o in fewer.operations if o.ended_s is not None} == {o.entered_s for o in ended[-4:]}


def test_it_is_the_same_after_writing_and_reading(incident: Incident, tmp_path: Path) -> None:
    assert Incident.load(incident.save(tmp_path)) == Incident.load(tmp_path) == incident


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"verdict": 3}', b"[" * 100_000])
def test_another_file_is_refused_by_name(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "incident.json").write_bytes(data)
    with pytest.raises(ConfigError, match=r"incident\.json"):
        Incident.load(tmp_path)


def test_waiting_goes_from_box_to_box_and_ends_at_the_guilty(incident: Incident) -> None:
    assert incident_page.waiting(incident) == Graph(
        "Who waits for whom",
        ["ranks 0-1\nin allreduce 41 of data", "rank 2\nin allreduce 5 of pipe", "rank 3 (guilty)"],
        [(0, 1), (1, 2)],
        [2],
    )


def test_the_page_holds_verdict_pictures_and_escaped_evidence(incident: Incident) -> None:
    page = html.render(incident_page.page(incident))
    assert page.count("data:image/png;base64,") == 2
    assert "rank 3 is &lt;stopped&gt;" in page
    assert "train --fast" in page


def test_open_operations_reach_the_verdict_in_the_timeline(incident: Incident) -> None:
    drawn = incident_page.timeline(incident)
    (verdict_s,) = (at_s for at_s, name in drawn.moments if name == "verdict")
    assert {drawn.lanes[s.lane] for s in drawn.spans if s.kind == "has not ended"} == {"rank 0", "rank 1", "rank 2"}
    assert all(s.end_s == verdict_s for s in drawn.spans if s.kind == "has not ended")
    assert plot.render(drawn).startswith(b"\x89PNG")


def test_the_trace_has_every_operation_in_microseconds(incident: Incident) -> None:
    trace = json.loads(json.dumps(chrome_trace.events(incident)))["traceEvents"]
    complete = [event for event in trace if event["ph"] == "X"]
    assert len(complete) == len(incident.operations)
    open_ = next(event for event in complete if "has not ended" in event["name"] and event["pid"] == 0)
    assert (open_["ts"], open_["dur"], open_["name"]) == (41e6, 1e6, "allreduce 41 (has not ended)")
    names = {event["pid"]: event["args"]["name"] for event in trace if event["name"] == "process_name"}
    assert names[3] == "rank 3 (guilty)"


def test_the_command_writes_page_and_trace(incident: Incident, tmp_path: Path) -> None:
    incident.save(tmp_path)
    done = CliRunner().invoke(app, ["ccl", "report", str(tmp_path), "--trace", str(tmp_path / "trace.json")])
    assert done.exit_code == 0, done.output
    assert "<h1>H1: rank 3</h1>" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]

"""Simulated clusters, watched to their end by the real watcher on a clock that nobody waits for."""

from tightwire.ccl.faults.simulate.fault import Fault
from tightwire.ccl.faults.simulate.layout import Layout
from tightwire.ccl.faults.simulate.physics import Program
from tightwire.ccl.faults.simulate.stream import SimulatedCluster, SimulatedSource
from tightwire.ccl.verdict import Verdict
from tightwire.ccl.watcher import Watcher
from tightwire.core.clock import FakeClock

LAYOUT = Layout(tensor=2, pipeline=2, data=4, per_host=2)


def watched(
    *faults: Fault, layout: Layout = LAYOUT, program: Program | None = None, seed: int = 0, until_s: float = 30.0,
    skew_s: float = 0.0, lost: float = 0.0, every_s: float | None = None,
) -> tuple[list[tuple[int, Verdict]], SimulatedCluster]:  # fmt: skip
    """What was said, each with the number of steps that had ended by then, until a hang or `until_s`; looked at as
    often as the watcher wants, or `every_s`."""
    clock, said = FakeClock(), []
    cluster = SimulatedCluster(layout, program, faults, seed, skew_s, lost)
    watcher = Watcher(SimulatedSource(cluster, clock), clock)
    while clock.now_s() < until_s:
        verdict = watcher.step()
        if verdict is not None:
            said.append((sum(end_s < clock.now_s() for end_s in cluster.step_ends_s), verdict))
            if verdict.is_hang:
                break
        watcher.wait() if every_s is None else clock.advance_s(every_s)
    return said, cluster

"""What the watcher does between the source and the analyzers."""

from tightwire.ccl.connections import Connections
from tightwire.ccl.faults.simulate.layout import Layout
from tightwire.ccl.faults.simulate.stream import SimulatedCluster, SimulatedSource
from tightwire.ccl.watcher import Watcher
from tightwire.core.clock import FakeClock


class Doubting:
    """A detector that doubts from its first judgement on, and then wants to look each 0.25 s."""

    next_look_s = 0.25

    def __init__(self) -> None:
        self.attentive, self.done, self.looked_s = False, [], -1.0

    def take(self, now_s: float) -> None:
        self.done.append("take")

    def wants_look(self, now_s: float) -> bool:
        return self.attentive and now_s - self.looked_s >= self.next_look_s

    def look(self, now_s: float, connections: Connections) -> None:
        self.done.append("look")
        self.looked_s = now_s

    def news(self, now_s: float) -> None:
        self.done.append("news")
        self.attentive = True


def test_the_transport_is_looked_at_as_soon_as_there_is_a_doubt_and_then_as_often_as_wanted() -> None:
    clock = FakeClock(10.0)
    watcher = Watcher(SimulatedSource(SimulatedCluster(Layout(data=2)), clock), clock)
    watcher._slow = slow = Doubting()
    watcher.step()
    assert slow.done == ["take", "news", "look"]
    watcher.wait()
    assert clock.now_s() == 10.25
    watcher.step()
    assert slow.done[3:] == ["take", "look", "news"]

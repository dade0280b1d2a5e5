import socket
from pathlib import Path

from tightwire.net.ports import LAST, free_port


def test_a_port_that_is_free_and_below_those_that_anybody_gets() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        pass
    assert port <= LAST < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

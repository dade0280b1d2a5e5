"""Frames through NIXL, written into the receiver's memory: RDMA where there is one, whatever UCX finds elsewhere.

ZeroMQ stays the way of all messages, and of frames that find no room or are not written in time. A frame that was written is
announced by its `Part` with its place; the receiver copies it out, and its `Ack` frees the place. NIXL encrypts nothing, and
who was given memory can write into that of other senders: frames carry checksums, but use it on networks you trust.
Extra `nixl`; works on tensors' bytes in host memory, as frames are.
"""

from __future__ import annotations

import logging
import os
import secrets
from typing import Any

import numpy as np

from tightwire.errors import ConfigError, LinkError
from tightwire.kv.transfer.lane import Key
from tightwire.kv.transfer.places import Places
from tightwire.kv.transfer.protocol import Memory

logger = logging.getLogger(__name__)
REGION_BYTES = 32 * 2**20  # of the receiver's memory for each sender
MAX_SENDERS = 8  # that have one; others use ZeroMQ
_MAX_METADATA_BYTES = 64 * 1024
_IN_TIME_S = 5.0


class _Slab:
    """Host memory that NIXL knows."""

    def __init__(self, size_bytes: int) -> None:
        try:
            from nixl._api import nixl_agent, nixl_agent_config
        except ImportError as error:
            raise ConfigError("nixl=True needs NIXL: pip install 'tightwire[nixl]'") from error
        self.agent = nixl_agent(f"tightwire-{os.getpid()}-{secrets.token_hex(8)}", nixl_agent_config())
        self.bytes = np.zeros(size_bytes, np.uint8)
        self.address = int(self.bytes.ctypes.data)
        self._registered = self.agent.register_memory([(self.address, size_bytes, 0, "")], "DRAM")

    def close(self) -> None:
        self.agent.deregister_memory(self._registered)


class Landing:
    """The receiver's memory: a region for each of the first senders. Not thread-safe."""

    def __init__(self, region_bytes: int = REGION_BYTES, senders: int = MAX_SENDERS) -> None:
        self._region_bytes = region_bytes
        self._slab = _Slab(region_bytes * senders)
        self._free = list(range(senders))
        self._regions: dict[bytes, int] = {}
        self.frames = 0  # that came this way

    def grant(self, peer: bytes) -> Memory | None:
        """A region for `peer`; None: all are taken."""
        if peer not in self._regions:
            if not self._free:
                return None
            self._regions[peer] = self._free.pop()
        address = self._slab.address + self._regions[peer] * self._region_bytes
        return Memory(self._slab.agent.get_agent_metadata(), address, self._region_bytes)

    def lost(self, peer: bytes) -> None:
        if peer in self._regions:
            self._free.insert(0, self._regions.pop(peer))  # the last to be given again: writes may be underway

    def take(self, peer: bytes, offset: int, size: int) -> memoryview:
        """A copy of what `peer` wrote. Raises LinkError for a place outside of its region."""
        region = self._regions.get(peer)
        if region is None or offset < 0 or size < 1 or offset + size > self._region_bytes:
            raise LinkError(f"a frame of {size} bytes at {offset} is not within the memory that this sender was given")
        start = region * self._region_bytes + offset
        self.frames += 1
        return memoryview(self._slab.bytes[start : start + size].tobytes())

    def close(self) -> None:
        self._slab.close()


class Launcher:
    """The sender's side: places in the region it was given, and the same places in its own memory. Not thread-safe."""

    def __init__(self, region_bytes: int = REGION_BYTES) -> None:
        self._slab = _Slab(region_bytes)
        self._memory: Memory | None = None
        self._peer = ""
        self._places: Places[Key] = Places(0)
        self._writes: dict[Key, tuple[Any, float]] = {}  # what NIXL knows it by, since when
        self._broken = False

    def aim(self, memory: Memory | None) -> None:
        """A new connection, and the memory it came with."""
        for handle, _ in self._writes.values():
            self._broken |= not self._released(handle)
        self._writes.clear()
        self._memory = None
        if memory is None or self._broken:
            return
        if len(memory.agent) > _MAX_METADATA_BYTES or memory.size_bytes < 1:
            logger.warning("the receiver's memory is described by %d bytes: frames go by ZeroMQ", len(memory.agent))
            return
        try:
            self._peer = self._slab.agent.add_remote_agent(memory.agent)
        except Exception as error:  # NIXL has errors of its own for everything
            logger.warning("NIXL does not reach the receiver (%s): frames go by ZeroMQ", error)
            return
        self._memory = memory
        self._places = Places(min(memory.size_bytes, self._slab.bytes.size))

    def write(self, key: Key, frame: memoryview, now_s: float) -> int | None:
        """Begin to write a frame; where it will stand. None: it has to go by ZeroMQ."""
        size = len(frame)
        offset = None if self._memory is None or key in self._places else self._places.give(key, size)
        if self._memory is None or offset is None:
            return None
        self._slab.bytes[offset : offset + size] = np.frombuffer(frame, np.uint8)
        agent = self._slab.agent
        try:
            here = agent.get_xfer_descs([(self._slab.address + offset, size, 0)], "DRAM")
            there = agent.get_xfer_descs([(self._memory.address + offset, size, 0)], "DRAM")
            handle = agent.initialize_xfer("WRITE", here, there, self._peer)
            agent.transfer(handle)
        except Exception as error:
            self._give_up(str(error))
            return None
        self._writes[key] = (handle, now_s)
        return offset

    def written(self, key: Key, now_s: float) -> bool | None:
        """Whether a write is done; None: it failed or takes too long, so that the frame has to go by ZeroMQ."""
        if key not in self._writes:
            return None
        handle, since_s = self._writes[key]
        try:
            state = self._slab.agent.check_xfer_state(handle)
        except Exception as error:
            state = str(error)
        if state == "PROC" and now_s - since_s < _IN_TIME_S:
            return False
        del self._writes[key]
        if state == "DONE" and self._released(handle):
            return True
        self._broken |= state == "PROC"  # it may still be read from here
        self._give_up(f"a write is {state} after {now_s - since_s:.1f} s")
        return None

    def arrived(self, key: Key) -> None:
        """The receiver has a copy."""
        self._places.free(key)

    def close(self) -> None:
        self.aim(None)
        if not self._broken:
            self._slab.close()

    def _released(self, handle: Any) -> bool:
        try:
            self._slab.agent.release_xfer_handle(handle)
        except Exception as error:
            logger.warning("NIXL keeps a write (%s)", error)
            return False
        return True

    def _give_up(self, why: str) -> None:
        logger.warning("NIXL: %s; frames go by ZeroMQ until the next connection", why)
        self._memory = None

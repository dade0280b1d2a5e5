"""Knowing why a collective is stuck: probe, agent, analyzer, verdict.

`attach()` in a training script, or the environment variable TIGHTWIRE_CCL, switches the probe on.
"""

from __future__ import annotations


def attach(folder: str | None = None) -> bool:
    """Observe this process's collectives from the next `init_process_group` on. `folder` is where the event ring
    goes (default: $TIGHTWIRE_CCL, else /dev/shm/tightwire). False when it could not be switched on: the job runs on."""
    from tightwire.ccl.probe.attach import attach as attach_probe

    return attach_probe(folder)


__all__ = ["attach"]

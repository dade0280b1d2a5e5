"""Simulated clusters: streams of exactly the digests that the collector gets, of tensor, pipeline and data parallel training of
any size, with jitter, phases, clock skew, lost telemetry and faults of each class, and the truth. The clock is an argument
of every question; nothing sleeps.

Shapes: P stages, D replicas, T tensor ranks; a time for each rank is [P, D, T].
"""

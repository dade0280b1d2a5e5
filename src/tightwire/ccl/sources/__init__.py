"""Where events come from besides the live probe: dumps, traces, the NCCL plugin."""

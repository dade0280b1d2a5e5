"""What the serving benchmarks share: vLLM engines as hosts, each in its namespace and on its core, and their requests."""

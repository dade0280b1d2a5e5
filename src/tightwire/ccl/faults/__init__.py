"""Faults with known truth: injected into real jobs."""

"""FLOATS → BYTES, every bit kept."""

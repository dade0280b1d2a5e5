"""Sending KV caches with less: strategies, frames, transfer, and the controller that chooses."""

"""What controller_replay.py replays: a simulated transfer, traces, published figures, real transfers."""

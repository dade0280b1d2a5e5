"""Faults in real jobs for `diagnosis.py`: the cases, how one is played, and what watching costs."""

"""Simulated clusters of thousands of ranks for `diagnosis_scale.py`: the incidents, how one is played, clean hours, and what
the collector costs."""

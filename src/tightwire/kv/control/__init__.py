"""Which strategy for this request: a latency model, corrected by what was observed."""

"""The profiling engine: from a space of strategies to the 3-D Pareto front, with few quality measurements.

| file | what it holds |
|---|---|
| `space` | which strategies there are, and what a surrogate can see of them |
| `pareto` | the front and its hypervolume |
| `surrogate` | a Gaussian process over the quality loss |
| `search` | which strategy to measure next: ask and tell |
"""

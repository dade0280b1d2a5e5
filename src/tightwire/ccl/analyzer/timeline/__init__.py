"""S1, S2, S3 from recorded timelines: rounds with who came late (`rounds`), what each step lost to whom (`losses`), and the
verdict in words (`verdicts`). The live path compares a job with its own first steps; here ranks are compared with each other,
as a recording may be slow from its beginning.

Shapes: N operations, R rounds, M their members, T steps, K ranks, G groups.
"""

from tightwire.ccl.analyzer.timeline.verdicts import diagnose

__all__ = ["diagnose"]

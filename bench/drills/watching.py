"""An agent with its analyzer as users have it, in a process that does nothing else: `python -m drills.watching FILE JOB…`
watches the job and writes to FILE what that cost while all ranks were there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tightwire.ccl import watch
from tightwire.ccl.verdict import Verdict
from tightwire.ccl.watcher import Watcher


def main() -> None:
    file, *job = sys.argv[1:]
    watchers: list[Watcher] = []
    began: list[tuple[float, float]] = []

    def on_start(watcher: Watcher) -> None:
        watchers.append(watcher)
        step = watcher.step

        def stepped() -> Verdict | None:
            ranks = watcher.collector.ranks
            if not began and len(ranks) and len(ranks) == next(iter(ranks.values())).sample.world:
                began.append((time.monotonic(), time.process_time()))
            return step()

        watcher.step = stepped  # type: ignore[method-assign]

    said: list[Verdict] = []
    status = watch.run(job, said.append, output=subprocess.DEVNULL, on_start=on_start).status
    wall_s, used_s = (now - then for now, then in zip((time.monotonic(), time.process_time()), began[0], strict=True))
    written = [view.sample.written for view in watchers[0].collector.ranks.values()]
    Path(file).write_text(json.dumps({"written": written, "core_share": used_s / wall_s, "said": len(said)}))
    sys.exit(status)


if __name__ == "__main__":
    main()

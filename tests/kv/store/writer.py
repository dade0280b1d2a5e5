"""Forks a writer for each line read: see helpers.Farm."""

import os
import random
import signal
import sys
from pathlib import Path

from tests.kv.store.helpers import key, value
from tightwire.kv.store.directory import Directory


def write(root: Path, max_bytes: int, seed: int) -> None:
    made, chosen = Directory(root, max_bytes), random.Random(seed)
    while True:
        name = key(chosen.randrange(64))
        made.put(name, value(name, 100_000))
        if chosen.random() < 0.3:
            made.remove(key(chosen.randrange(64)))


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            write(Path(sys.argv[1]), int(sys.argv[2]), int(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()

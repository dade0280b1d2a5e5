"""The environment variable TIGHTWIRE_CCL=<folder> switches the probe on without a change to the job.

torch (2.5 and later) calls the entry points of the group `torch.backends` at the end of `import torch`; this is ours.
Without the variable it returns at once and imports nothing.
"""

import os


def autoload() -> None:
    folder = os.environ.get("TIGHTWIRE_CCL")
    if not folder or "RANK" not in os.environ:  # a launcher, a data loader, a shell: not a rank
        return
    try:
        from tightwire.ccl.probe.attach import attach

        attach(folder)
    except Exception as error:
        print(f"tightwire: the probe could not be switched on ({error}); the job runs unobserved", flush=True)

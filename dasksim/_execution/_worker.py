"""What a worker process runs. It imports what a chunk needs, and none of what starts workers."""

import os
import threading
import time
from typing import Any

from dasksim._execution.jobs import SentJob
from dasksim._execution.starting import ignore_interrupts

__all__ = ["die_with", "run_in_worker", "start_watch", "start_worker"]

# Set when a worker starts whose chunks bring no job along.
_worker_job: SentJob | None = None


def start_worker(parent: int, sent: SentJob) -> None:
    """Keep the job, and end with the process that started this one."""
    global _worker_job
    start_watch(parent)
    _worker_job = sent


def start_watch(parent: int) -> None:
    """End with the process that started this one, and by nothing else."""
    threading.Thread(target=die_with, args=(parent,), name="dasksim-parent-watch", daemon=True).start()
    ignore_interrupts()


def run_in_worker(chunk: int, conditions: Any, sent: SentJob | None = None) -> Any:
    """Run a job on a chunk: the one that is given, or that of all of this worker's chunks."""
    job = sent or _worker_job
    if job is None:
        raise RuntimeError("the worker process was not started by dasksim")
    return job(chunk, conditions)


def die_with(parent: int) -> None:
    """End this process once its parent has been killed; it would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    # sys.exit would end this thread alone
    os._exit(1)

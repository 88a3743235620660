"""Memory that is freed stays with the process, for the arrays of the next sub-batch."""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import sys

import numpy as np

from dasksim._core.memory import keep_freed_memory

if sys.argv[1] == "keeps":
    keep_freed_memory()


def work():
    arrays = [np.ones(1 << 17) for _ in range(8)]  # 1 MiB each


work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory by rules of their own")
def test_pages_of_freed_arrays_are_used_again() -> None:
    def faults(how: str) -> int:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        command = [sys.executable, "-c", SCRIPT, how]
        return int(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout)

    assert faults("") > 20 * 8 * 256 / 2  # the kernel clears most pages again and again
    assert faults("keeps") < 20 * 8

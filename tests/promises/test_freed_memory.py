"""Memory that is freed stays with the process, for the arrays of the next sub-batch."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import dask
import distributed  # noqa: F401  # which has the settings
import numpy as np
import pytest

import dasksim

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


def trim_threshold(rng: np.random.Generator) -> dict[str, int]:
    return {"x": int(os.environ["MALLOC_TRIM_THRESHOLD_"])}


@pytest.mark.parametrize("is_of_a_cluster", [True, False])
def test_what_a_cluster_leaves_in_the_environment_does_not_slow_worker_processes(
    is_of_a_cluster: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nanny sets how its workers give memory back for the process that starts it too, and for good."""
    of_clusters = str(dask.config.get("distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", of_clusters if is_of_a_cluster else "123456")
    simulator = dasksim.make_simulator(trim_threshold)
    dataset = dasksim.generate(simulator, tmp_path / "s.zarr", 4, seed=1, scheduler="processes", audit=False)
    assert set(dataset.x.values.tolist()) == {1 << 25 if is_of_a_cluster else 123456}

"""Peak memory is set by the chunk size, not by the number of samples."""

import subprocess
import sys
from pathlib import Path

import pytest

from dasksim._core.memory import machine_memory

MEASURE = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "dasksim", "generate", *sys.argv[1:]], check=True, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_mebibytes(store: Path, n_samples: int) -> float:
    options = ["-n", str(n_samples), "--seed", "1", "--chunk-size", "262144", "--overwrite"]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, "two_moons", str(store), *options], capture_output=True, text=True, check=True
    )
    return int(run.stdout) / 1024


@pytest.mark.slow
def test_peak_memory_is_flat_in_the_number_of_samples(tmp_path: Path) -> None:
    peaks = {n: peak_mebibytes(tmp_path / "moons.zarr", n) for n in (1_000_000, 10_000_000, 40_000_000)}

    print(", ".join(f"{n:,} samples: {peak:.1f} MiB" for n, peak in peaks.items()))
    assert max(peaks.values()) <= 1.1 * min(peaks.values())


GROUPS = {
    "version 2": (
        "0::/user/job\n",
        {"memory.max": "max", "user/memory.max": "3000", "user/job/memory.max": "4000"},
        3000,
    ),
    "in a container": ("0::/of/the/host\n", {"memory.max": "2000"}, 2000),
    "version 1": (
        "9:cpu,memory:/job\n1:name=systemd:/\n0::/\n",
        {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/job/memory.limit_in_bytes": "5000"},
        5000,
    ),
    "none": ("0::/\n", {"memory.max": "max"}, None),
    "unreadable": ("0::/\n", {"memory.max": ""}, None),
}


@pytest.mark.parametrize(("groups", "files", "limit"), GROUPS.values(), ids=GROUPS)
def test_memory_is_that_of_the_control_group(
    groups: str, files: dict[str, str], limit: int | None, tmp_path: Path
) -> None:
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{n}": text for n, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert machine_memory(tmp_path) == (limit or machine_memory(tmp_path / "nothing"))

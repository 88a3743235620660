"""Peak memory is set by the chunk size, not by the number of samples."""

import subprocess
import sys
from pathlib import Path

import pytest

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

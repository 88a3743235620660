"""Clusters that Dask itself has none of: for others, see Dask's own classes."""

import os
import subprocess
from collections.abc import Sequence
from typing import Any

from distributed import Nanny, Scheduler, SpecCluster
from distributed.system import MEMORY_LIMIT

from dasksim.errors import ArgumentError

__all__ = ["gpu_cluster"]


def gpu_cluster(devices: Sequence[int | str] | None = None, *, dashboard_address: str = "127.0.0.1:8787") -> Any:
    """Start a cluster on this machine with one worker for each GPU.

    For where dask-cuda's ``LocalCUDACluster`` cannot be installed. Each worker has one thread, sees its own device
    alone, and has a resource ``GPU``.

    Parameters
    ----------
    devices
        Indices or UUIDs of the devices. By default those in ``CUDA_VISIBLE_DEVICES``, else all.
    dashboard_address
        Where the dashboard is served; port 0 takes any that is free.

    Returns
    -------
    distributed.SpecCluster
        The cluster; make a ``distributed.Client`` of it, and close both.

    Raises
    ------
    ArgumentError
        If there is no device.

    Examples
    --------
    >>> with gpu_cluster() as cluster, Client(cluster) as client:  # doctest: +SKIP
    ...     dasksim.generate(simulator, "train.zarr", 10_000_000, scheduler=client)
    """
    found = [str(device) for device in (_visible_devices() if devices is None else devices)]
    if not found:
        raise ArgumentError(f"a GPU cluster needs at least one device; got devices={devices!r}")
    workers = {
        device: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "resources": {"GPU": 1},
                "env": {"CUDA_VISIBLE_DEVICES": device},
                # Dask's default goes by threads: a worker with one would get the share of one core
                "memory_limit": MEMORY_LIMIT // len(found),
            },
        }
        for device in found
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": dashboard_address}}
    return SpecCluster(workers=workers, scheduler=scheduler, name="gpu-cluster")


def _visible_devices() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # set but empty, it hides all devices
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip()]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise ArgumentError(f"cannot ask nvidia-smi for this machine's GPUs ({error}); give devices") from error

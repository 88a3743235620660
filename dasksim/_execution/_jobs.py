"""What is done for each chunk, on its way to another process."""

import pickle
import sys
import threading
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from dasksim._execution._raised import Raised
from dasksim._execution._unsendable import pack, unpacked
from dasksim._execution.transport import Cache
from dasksim._version import __version__
from dasksim.errors import ArgumentError

__all__ = ["Job", "SentJob", "end_job", "run_payload"]


class Job(Protocol):
    """What is done for each chunk."""

    def __call__(self, chunk: int, conditions: Any) -> Any:
        """Do it for one chunk."""


_unpacking = threading.Lock()


class SentJob:
    """A job as bytes, unpacked once in each process that runs it.

    Parameters
    ----------
    payload
        The pickled job.
    versions
        Versions in the process that sent it.
    """

    def __init__(self, payload: bytes, versions: Mapping[str, str]) -> None:
        self.payload = payload
        self.versions = dict(versions)
        self._job: Job | None = None

    @classmethod
    def pack(cls, job: Job) -> "SentJob":
        """Return a job to be sent.

        Raises
        ------
        ArgumentError
            If what a stage holds cannot be sent.
        """
        return cls(pack(job), _versions())

    def __getstate__(self) -> dict[str, Any]:
        return {"payload": self.payload, "versions": self.versions, "_job": None}

    def unpack(self) -> Job:
        """Return the job.

        Raises
        ------
        ArgumentError
            If other versions are installed here than where it was packed: the samples might differ.
        """
        with _unpacking:
            if self._job is None:
                self._check_versions()
                self._job = unpacked(self.payload)
        return self._job

    def __call__(self, chunk: int, conditions: Any) -> Any:
        """Run the job; what it raises is returned as data, a :class:`Raised`.

        So is what would end the worker, such as SystemExit: Ctrl-C does not come here.
        """
        try:
            return self.unpack()(chunk, conditions)
        except BaseException as error:  # noqa: BLE001
            return Raised.of(error)

    def close(self) -> None:
        """End what the job has started in this process."""
        close = getattr(self._job, "close", None)
        if close is not None:
            close()

    def _check_versions(self) -> None:
        here = _versions()
        different = [
            f"{name} {here[name]} instead of {wanted}" for name, wanted in self.versions.items() if here[name] != wanted
        ]
        if different:
            raise ArgumentError(
                f"a worker of the cluster has {', '.join(different)}, and might make other samples; give its workers "
                "the environment of the process that calls generate"
            )


def _versions() -> dict[str, str]:
    """Return the versions that must agree: functions travel as bytecode, and NumPy makes the random numbers."""
    python = ".".join(map(str, sys.version_info[:2]))
    return {"Python": python, "NumPy": np.__version__, "dasksim": __version__}


# The jobs of the runs that a worker takes part in.
_jobs: Cache[SentJob] = Cache(4)


def run_payload(token: str, payload: bytes, chunk: int, conditions: Any) -> Any:
    """Run a pickled :class:`SentJob`, unpacked once."""
    return _jobs.get(token, lambda: pickle.loads(payload))(chunk, conditions)


def end_job(token: str) -> None:
    """Forget a job whose run has ended, and end what it has started in this process."""
    sent = _jobs.pop(token)
    if sent is not None:
        sent.close()

"""What is done for each chunk, on its way to another process."""

import pickle
import sys
import threading
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from dasksim._child import travelling
from dasksim._transport import dumps, loads
from dasksim._version import __version__
from dasksim.errors import ArgumentError

__all__ = ["Job", "SentJob", "run_payload"]


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
        """Return a job to be sent."""
        return cls(dumps(job), _versions())

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
                try:
                    self._job = loads(self.payload)
                except ImportError as error:
                    error.add_note(
                        "The worker process cannot import a module that the simulator uses: make it importable there, "
                        "or send it along with cloudpickle.register_pickle_by_value(module)."
                    )
                    raise
        return self._job

    def __call__(self, chunk: int, conditions: Any) -> Any:
        """Run the job; an exception that could not travel back is replaced by one that says the same."""
        try:
            return self.unpack()(chunk, conditions)
        except Exception as error:  # noqa: BLE001
            travels = travelling(error)
        raise travels  # not in the block above, where it would take the original along as its context

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


# The jobs of the runs that a worker takes part in, by their bytes, which Python hashes once.
_jobs: dict[bytes, SentJob] = {}
_MOST_JOBS = 4


def run_payload(payload: bytes, chunk: int, conditions: Any) -> Any:
    """Run a pickled :class:`SentJob`, unpacked once."""
    sent = _jobs.get(payload)
    if sent is None:
        sent = pickle.loads(payload)
        while len(_jobs) >= _MOST_JOBS:
            _jobs.pop(next(iter(_jobs)), None)
        sent = _jobs.setdefault(payload, sent)
    return sent(chunk, conditions)

"""What is done for each chunk, on its way to another process."""

import sys
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from dasksim._execution._raised import Raised
from dasksim._execution.transport import Packed, forget, once
from dasksim._version import __version__
from dasksim.errors import ArgumentError

__all__ = ["Job", "SentJob", "end_job", "run_payload"]


class Job(Protocol):
    """What is done for each chunk."""

    def __call__(self, chunk: int, conditions: Any) -> Any:
        """Do it for one chunk."""


class SentJob:
    """A job on its way to other processes, which have to have the versions of this one.

    Parameters
    ----------
    packed
        The job.
    versions
        Versions in the process that sent it.
    """

    def __init__(self, packed: Packed[Job], versions: Mapping[str, str]) -> None:
        self.packed = packed
        self.versions = dict(versions)

    @classmethod
    def of(cls, job: Job) -> "SentJob":
        """Return a job to be sent.

        Raises
        ------
        ArgumentError
            If what a stage holds cannot be sent.
        """
        # packed now, so that what cannot be sent is refused before any chunk is sent
        return cls(Packed(job).pack(), _versions())

    @property
    def n_bytes(self) -> int:
        """How large it is on its way."""
        return self.packed.n_bytes

    def unpack(self) -> Job:
        """Return the job.

        Raises
        ------
        ArgumentError
            If other versions are installed here than where it was packed: the samples might differ.
        """
        # first: the bytecode of another Python may not even be unpacked
        self._check_versions()
        return self.packed.value

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
        # a worker that was given no chunk has not unpacked it
        close = getattr(forget(self.packed.token), "close", None)
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
    # bytecode is the same in all releases of a minor version
    python = ".".join(map(str, sys.version_info[:2]))
    return {"Python": python, "NumPy": np.__version__, "dasksim": __version__}


def run_payload(token: str, payload: bytes, chunk: int, conditions: Any) -> Any:
    """Run a pickled :class:`SentJob`."""
    return once(token, payload)(chunk, conditions)


def end_job(token: str) -> None:
    """Forget a job whose run has ended, and end what it has started in this process."""
    sent = forget(token)
    # it was unpacked in two steps, and holds a job that is to be forgotten too
    if sent is not None:
        sent.close()

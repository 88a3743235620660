"""Real clusters, shared by the session."""

import signal
from collections.abc import Iterator

import dask
import pytest
from distributed import Client, LocalCluster
from hypothesis import settings
from loky import ProcessPoolExecutor

# A shell ignores Ctrl-C in what it starts in the background; processes that tests send it to would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing on a machine that does other work too.
settings.register_profile("without_deadline", deadline=None)
settings.load_profile("without_deadline")

# What clusters do while nothing runs on them, many times a second.
dask.config.set(
    {
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "500ms",
        "distributed.admin.system-monitor.interval": "10s",
        "distributed.scheduler.active-memory-manager.start": False,
    }
)


def _client(n_workers: int) -> Iterator[Client]:
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs in processes start a single one, where more would show nothing: each takes seconds to start."""
    monkeypatch.setattr(
        "dasksim._execution.processes.ProcessPoolExecutor", lambda n_workers, **how: ProcessPoolExecutor(1, **how)
    )


@pytest.fixture(scope="session")
def one_worker() -> Iterator[Client]:
    yield from _client(1)


@pytest.fixture(scope="session")
def two_workers() -> Iterator[Client]:
    yield from _client(2)

"""In a notebook: one line of progress without a widget, a short interrupt, no processes that stay."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from bits import receipt_files

import dasksim
from dasksim._execution.progress import Progress

pytest.importorskip("ipykernel")
nbclient: Any = pytest.importorskip("nbclient")
nbformat: Any = pytest.importorskip("nbformat")

pytestmark = pytest.mark.filterwarnings("default")  # Jupyter's own

SIMULATOR = """
import time, dasksim
{cluster}
def slow(rng):
    time.sleep(0.002)
    return {{"x": rng.normal(size=3)}}

simulator = dasksim.make_simulator(slow)
"""

CLUSTER = """
from distributed import Client, LocalCluster
cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
client = Client(cluster)
"""

GENERATE = """
ds = dasksim.generate(
    simulator, "s.zarr", 4000, seed=1, chunk_size=20, sub_batch_size=20, scheduler={scheduler}, audit=False
)
"""


class Interrupter(threading.Thread):
    """Interrupts a kernel as Jupyter does, with all processes of its group, once some chunks are complete."""

    def __init__(self, pid: int, path: Path) -> None:
        super().__init__(daemon=True)
        self.pid, self.path, self.at = pid, path, 0.0

    def run(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(receipt_files(self.path)) < 3:
            time.sleep(0.02)
        self.at = time.monotonic()
        os.killpg(os.getpgid(self.pid), signal.SIGINT)


def texts(cell: Any, kind: str) -> list[str]:
    """Return what a cell has written to standard error, displayed, or raised, output by output."""
    if kind == "stderr":
        return [one.text for one in cell.outputs if one.get("name") == kind]
    if kind == "error":
        return ["\n".join(one.traceback) for one in cell.outputs if one.output_type == kind]
    return [one.data["text/plain"] for one in cell.outputs if one.output_type == kind]


@pytest.mark.parametrize("scheduler", ["threads", "processes", "client"])
def test_progress_interrupt_and_going_on(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    python_path = [Path(dasksim.__file__).parents[1], *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, python_path)))
    is_cluster = scheduler == "client"
    call = GENERATE.format(scheduler=scheduler if is_cluster else repr(scheduler))
    cells = [SIMULATOR.format(cluster=CLUSTER if is_cluster else ""), call, call, "print(len(ds.batch))"]
    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(notebook, timeout=120, allow_errors=True)
    first, stopped, whole, length = notebook.cells
    with client.setup_kernel():
        client.execute_cell(first, 0)
        kernel = client.km.provisioner.pid
        interrupter = Interrupter(kernel, tmp_path / "s.zarr")
        interrupter.start()
        client.execute_cell(stopped, 1)
        seconds = time.monotonic() - interrupter.at
        n_complete = dasksim.status("s.zarr").n_complete
        client.execute_cell(whole, 2)
        client.execute_cell(length, 3)
        processes = psutil.Process(kernel).children(recursive=True)

    (error,) = texts(stopped, "error")
    assert "KeyboardInterrupt" in error
    assert "; run generate again" in error
    assert len(error.splitlines()) < 25
    assert seconds < 15  # a second or less, on a machine that has nothing else to do
    assert 3 <= n_complete < 200
    assert length.outputs[0].text == "4000\n"
    for cell in (stopped, whole):
        (said,) = texts(cell, "stderr")  # what there is to do, and no warning
        assert said.count("\n") == 1
        assert " samples (" in said
        (line,) = texts(cell, "display_data")
        assert line.count("\n") == line.count("\r") == 0
    assert line.startswith("100%|")
    assert "4.00k/4.00k" in line
    assert psutil.wait_procs(processes, timeout=60)[1] == []


def test_a_shell_of_ipython_in_a_terminal_is_no_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", __import__("types").SimpleNamespace(get_ipython=lambda: object()))
    with Progress(100, 0, True) as progress:
        progress.advance(0, 100, 100, 100)
    assert "100 of 100 samples (100%)" in capsys.readouterr().err

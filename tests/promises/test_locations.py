"""Stores in folders, zip files, memory, buckets and Icechunk repositories: the same samples, and what is refused."""

import errno
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import obstore.store
import pytest
import zarr
from bits import array_bytes, bits, file_bytes
from calls import Calls, counted_simulator
from processes import run_python
from variants import quick
from zarr.abc.store import Store, SuffixByteRequest
from zarr.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore, LoggingStore, MemoryStore, ObjectStore, WrapperStore, ZipStore

from dasksim import (
    ArgumentError,
    IncompleteStoreError,
    Simulator,
    StoreError,
    StoreMismatchError,
    generate,
    make_simulator,
    open_dataset,
    status,
)
from dasksim.store._icechunk import IcechunkWriter
from dasksim.store._locate import locate

N = 40
OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 4, "chunk_size": 8}


def simulator() -> Simulator:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal(size=2), "k": int(rng.integers(9))}

    def likelihood(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(theta[0], 1.0, size=3)}

    return make_simulator([prior, likelihood], dims={"x": ["channel"]}, coords={"channel": ["a", "b", "ç"]})


SAMPLED = bits(simulator().sample(N, seed=1, sub_batch_size=4))


def repository(folder: Path) -> icechunk.Repository:
    return icechunk.Repository.open_or_create(icechunk.local_filesystem_storage(str(folder / "repository")))


def memory_url() -> str:
    return f"memory://{uuid.uuid4().hex}/données 1.zarr"


#: Makes something that can be given as a store, in a folder.
KINDS: dict[str, Callable[[Path], Any]] = {
    "path": lambda folder: folder / "s.zarr",
    "text": lambda folder: str(folder / "s.zarr"),
    "file URL": lambda folder: (folder / "with space é.zarr").as_uri(),
    "LocalStore": lambda folder: LocalStore(folder / "s.zarr"),
    "MemoryStore": lambda folder: MemoryStore(),
    "memory URL": lambda folder: memory_url(),
    "FsspecStore": lambda folder: FsspecStore.from_url(f"local://{folder}/s.zarr", {"auto_mkdir": True}),
    "obstore on disk": lambda folder: ObjectStore(obstore.store.LocalStore(str(folder / "bucket"), mkdir=True)),
    "obstore in memory": lambda folder: ObjectStore(obstore.store.MemoryStore()),
    "WrapperStore": lambda folder: WrapperStore(MemoryStore()),
    "Icechunk repository": repository,
    "Icechunk session": lambda folder: repository(folder).writable_session("main"),
}
IN_MEMORY = ["MemoryStore", "memory URL", "obstore in memory", "WrapperStore", "Icechunk session"]
SHARED = [kind for kind in KINDS if kind not in IN_MEMORY]

several = pytest.mark.parametrize(
    "kind",
    quick(KINDS, "path", "obstore on disk", "memory URL", "Icechunk repository"),
)

pytestmark = pytest.mark.filterwarnings("ignore:Object at .* is not recognized:zarr.errors.ZarrUserWarning")


@pytest.mark.parametrize("scheduler", quick(["synchronous", "threads"], "threads"))
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_store_holds_the_same_samples(kind: str, scheduler: str, tmp_path: Path) -> None:
    store = KINDS[kind](tmp_path)
    dataset = generate(simulator(), store, N, scheduler=scheduler, **OPTIONS)

    assert bits(dataset, scheduler="threads") == bits(open_dataset(store), scheduler="synchronous") == SAMPLED
    assert dataset.channel.values.tolist() == ["a", "b", "ç"]
    found = status(store)
    assert (found.n_complete, found.n_chunks, found.n_proposals) == (5, 5, N)


@pytest.mark.parametrize("kind", quick(SHARED, "Icechunk repository"))
def test_worker_processes_write_to_every_shared_kind_of_store(kind: str, tmp_path: Path) -> None:
    assert bits(generate(simulator(), KINDS[kind](tmp_path), N, scheduler="processes", **OPTIONS)) == SAMPLED


@pytest.mark.parametrize("kind", ["file URL", "obstore on disk", "Icechunk repository"])
def test_a_cluster_writes_to_every_shared_kind_of_store(kind: str, tmp_path: Path, two_workers: Any) -> None:
    assert bits(generate(simulator(), KINDS[kind](tmp_path), N, scheduler=two_workers, **OPTIONS)) == SAMPLED


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_other_processes_are_refused_where_they_cannot_write(kind: str, tmp_path: Path, two_workers: Any) -> None:
    store = KINDS[kind](tmp_path)
    for scheduler in ("processes", two_workers):
        with pytest.raises(ArgumentError, match=r"other processes cannot write to .*; use scheduler='threads'"):
            generate(simulator(), store, N, scheduler=scheduler, **OPTIONS)

    with pytest.raises(StoreError, match="there is no store at"):
        status(store)


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_threads_are_the_default_where_other_processes_cannot_write(kind: str, tmp_path: Path) -> None:
    def thread(rng: np.random.Generator) -> dict[str, Any]:
        return {"pid": os.getpid()}

    dataset = generate(make_simulator(thread), KINDS[kind](tmp_path), N, audit=False, **OPTIONS)

    assert set(dataset.pid.values.ravel()) == {os.getpid()}


def keys(store: Store) -> set[str]:
    async def listed() -> set[str]:
        return {key async for key in store.list()}

    return zarr.core.sync.sync(listed())


@several
def test_resume_simulates_only_missing_chunks(kind: str, tmp_path: Path) -> None:
    calls, store = Calls(tmp_path), KINDS[kind](tmp_path)
    options = {**OPTIONS, "scheduler": "synchronous", "audit": False}
    counted = counted_simulator(calls)
    wanted = bits(generate(counted, store, N, **options))
    calls.take()
    generate(counted, store, N, **options)
    assert not calls.take()

    with locate(store).changing("forget a chunk") as place:
        zarr.core.sync.sync(place.store.delete("_dasksim/receipts/c" + place.key_separator.join(["", "3", "0"])))
    with pytest.raises(IncompleteStoreError, match="has 4 of 5 chunks; run generate again"):
        open_dataset(store)
    assert bits(generate(counted, store, N, **options)) == wanted
    assert calls.take() == {"prior": 2, "likelihood": 2, "noise": 8}


@several
def test_other_arguments_are_refused_and_overwrite_makes_the_store_anew(kind: str, tmp_path: Path) -> None:
    store = KINDS[kind](tmp_path)
    options = {**OPTIONS, "scheduler": "threads"}
    generate(simulator(), store, N, **options)
    with pytest.raises(StoreMismatchError, match="seed: 1 in the store, 2 asked for"):
        generate(simulator(), store, N, **{**options, "seed": 2})
    other = make_simulator(lambda rng: {"y": rng.normal()})
    dataset = generate(other, store, 20, overwrite=True, **options)

    assert bits(dataset) == bits(other.sample(20, seed=1, sub_batch_size=4))
    assert not [key for key in keys(locate(store).for_reading()) if key.startswith(("x/", "theta/", "channel/"))]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_store_is_left_untouched(kind: str, tmp_path: Path) -> None:
    store = KINDS[kind](tmp_path)
    with locate(store).changing("write something else") as place:
        zarr.open_group(place.store, mode="a").create_array("a", data=np.arange(3))
    before = keys(locate(store).for_reading())
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="is not empty and is no store made by dasksim"):
            generate(simulator(), store, N, overwrite=overwrite, scheduler="threads", **OPTIONS)

    assert keys(locate(store).for_reading()) == before


@pytest.mark.parametrize("kind", ["FsspecStore", "obstore on disk", "MemoryStore", "LocalStore"])
def test_a_read_only_store_is_read_and_not_written(kind: str, tmp_path: Path) -> None:
    store = KINDS[kind](tmp_path)
    generate(simulator(), store, N, scheduler="threads", **OPTIONS)
    before = keys(store)
    assert bits(open_dataset(store.with_read_only(True))) == SAMPLED
    with pytest.raises(ArgumentError, match="is read-only; give one that can be written to"):
        generate(simulator(), store.with_read_only(True), N, overwrite=True, **OPTIONS)

    assert keys(store) == before


@pytest.mark.parametrize(
    ("store", "name"),
    [
        (lambda: MemoryStore(), "MemoryStore"),
        (lambda: LoggingStore(MemoryStore()), "MemoryStore"),
        (lambda: "memory://somebody:secret@bucket/a b.zarr?token=secret", "memory://bucket/a b.zarr"),
        (lambda: FsspecStore.from_url("memory://bucket/s.zarr"), "memory://bucket/s.zarr"),
        (lambda: ObjectStore(obstore.store.MemoryStore()), "obstore.store.MemoryStore"),
        (
            lambda: ObjectStore(
                obstore.store.S3Store("bucket", prefix="a", access_key_id="secret", secret_access_key="secret")
            ),
            'S3Store(bucket="bucket", prefix="a")',
        ),
    ],
)
def test_names_of_stores_hold_no_credentials(store: Callable[[], Any], name: str) -> None:
    assert locate(store()).name == name


# Zip files


def zipped(path: Path) -> Path:
    return Path(shutil.make_archive(str(path), "zip", path))


def test_a_zip_file_of_a_store_is_read(tmp_path: Path) -> None:
    generate(simulator(), tmp_path / "s.zarr", N, scheduler="synchronous", **OPTIONS)
    path = zipped(tmp_path / "s.zarr")

    assert path.name == "s.zarr.zip"
    for store in (path, str(path), ZipStore(path, mode="r")):
        assert bits(open_dataset(store)) == SAMPLED
        assert status(store).is_complete
    assert bits(open_dataset(path), scheduler="processes", num_workers=1) == SAMPLED


def test_nothing_is_generated_into_a_zip_file(tmp_path: Path) -> None:
    generate(simulator(), tmp_path / "s.zarr", N, scheduler="synchronous", **OPTIONS)
    path = zipped(tmp_path / "s.zarr")
    before = file_bytes(tmp_path)
    for store in (path, tmp_path / "new.zip", ZipStore(path, mode="r"), ZipStore(path, mode="a")):
        with pytest.raises(ArgumentError, match=r"is a zip file, .*; generate into a folder and make a zip file of"):
            generate(simulator(), store, N, overwrite=True, **OPTIONS)

    assert file_bytes(tmp_path) == before


def test_what_is_no_zip_file_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "s.zip").write_text("hello")
    with pytest.raises(StoreError, match=r"cannot read the zip file '.*s\.zip': BadZipFile: File is not a zip file"):
        status(tmp_path / "s.zip")
    with pytest.raises(StoreError, match=r"there is no store at '.*none\.zip'"):
        status(tmp_path / "none.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("photo.jpg", "hello")
    with pytest.raises(StoreError, match=r"other\.zip' is not empty and is no store made by dasksim"):
        status(tmp_path / "other.zip")


# The root is created exclusively


@pytest.mark.parametrize(
    "code", [errno.EPERM, *(pytest.param(code, marks=pytest.mark.slow) for code in (errno.ENOTSUP, errno.EMLINK))]
)
def test_a_file_system_without_hard_links_holds_stores(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    options = {**OPTIONS, "scheduler": "synchronous"}
    assert bits(generate(simulator(), tmp_path / "s.zarr", N, **options)) == SAMPLED
    with pytest.raises(StoreMismatchError, match="seed: 1 in the store, 2 asked for"):
        generate(simulator(), tmp_path / "s.zarr", N, **{**options, "seed": 2})

    location = locate(tmp_path / "s.zarr")
    before = (tmp_path / "s.zarr" / "zarr.json").read_bytes()
    location.create_root(b"of a second writer")
    assert (tmp_path / "s.zarr" / "zarr.json").read_bytes() == before
    (tmp_path / "cut.zarr").mkdir()
    (tmp_path / "cut.zarr" / "zarr.json").write_bytes(b"")  # by a kill between creating the file and writing it
    assert bits(generate(simulator(), tmp_path / "cut.zarr", N, **options)) == SAMPLED
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("kind", ["path", "MemoryStore", "obstore on disk", "obstore in memory", "memory URL"])
def test_the_root_is_not_created_twice(kind: str, tmp_path: Path) -> None:
    location = locate(KINDS[kind](tmp_path))
    location.create_root(b"first")
    location.create_root(b"second")

    assert location.read("zarr.json") == b"first"


# Errors of backends


class BackendError(Exception):
    """What a storage library raises, which is no OSError."""


class FailingStore(MemoryStore):
    """A store whose backend fails at keys with a certain word."""

    word = "nothing"

    def with_read_only(self, read_only: bool = False) -> "FailingStore":
        store = FailingStore(self._store_dict, read_only=read_only)
        store.word = self.word
        return store

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:
        if self.word in key:
            raise BackendError("503 slow down")
        await super().set(key, value, byte_range)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        if self.word == "read":
            raise BackendError("503 slow down")
        return await super().get(key, prototype, byte_range)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("zarr.json", "cannot write a store at 'FailingStore'"),
        ("x/c/2", "writing to 'FailingStore' failed"),
        ("receipts/c.2", "writing to 'FailingStore' failed"),
        ("read", "cannot read 'FailingStore'"),
    ],
)
def test_errors_of_a_backend_name_the_store(word: str, message: str) -> None:
    store = FailingStore()
    store.word = word
    with pytest.raises(StoreError, match=f"{message}: BackendError: 503 slow down") as caught:
        generate(simulator(), store, N, scheduler="synchronous", **OPTIONS)
    assert isinstance(caught.value.__cause__, BackendError)

    store.word = "nothing"
    assert bits(generate(simulator(), store, N, scheduler="synchronous", **OPTIONS)) == SAMPLED


def test_an_error_of_a_backend_while_reading_names_the_store() -> None:
    store = FailingStore()
    generate(simulator(), store, N, scheduler="synchronous", **OPTIONS)
    store.word = "read"
    for read in (open_dataset, status):
        with pytest.raises(StoreError, match="cannot read 'FailingStore': BackendError: 503 slow down"):
            read(store)


def test_an_exception_of_a_function_stays_itself() -> None:
    def fail(rng: np.random.Generator) -> dict[str, Any]:
        if status(store).n_complete == 2:
            raise BackendError("of the function's own")
        return {"x": rng.normal()}

    store: Any = memory_url()
    made = make_simulator(fail, schema={"x": ((), "float64")})
    with pytest.raises(BackendError, match="of the function's own"):
        generate(made, store, N, scheduler="synchronous", **OPTIONS)
    assert status(store).n_complete == 2


# Answers that are cut off


class CuttingServer(http.server.ThreadingHTTPServer):
    """Serves a folder as a bucket does, and cuts some answers off in the middle."""

    folder: Path
    n_cut = 0
    most_cuts = 0

    @property
    def store(self) -> ObjectStore[Any]:
        host = f"http://127.0.0.1:{self.server_port}"
        return ObjectStore(
            obstore.store.S3Store(
                "b", endpoint=host, region="x", skip_signature=True, client_options={"allow_http": True}
            )
        )


class CuttingHandler(http.server.BaseHTTPRequestHandler):
    """Answers with what a file holds, or its beginning."""

    server: CuttingServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        file = self.server.folder / self.path.removeprefix("/b/")
        content = file.read_bytes() if file.is_file() else b""
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        part = content
        if wanted:
            first = int(wanted[1]) if wanted[1] else len(content) - int(wanted[2])
            part = content[first : int(wanted[2]) + 1 if wanted[1] and wanted[2] else None]
        self.send_response(206 if wanted else 200 if content else 404)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")  # no ETag, with which obstore goes on itself
        self.end_headers()
        is_cut = len(part) > 1 and self.server.n_cut < self.server.most_cuts
        self.server.n_cut += is_cut
        self.wfile.write(part[: len(part) // 2] if is_cut else part)
        self.close_connection = is_cut

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CuttingServer]:
    with CuttingServer(("127.0.0.1", 0), CuttingHandler) as serving:
        serving.folder = tmp_path
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def test_answer_of_a_bucket_that_is_cut_off_is_asked_for_again(server: CuttingServer) -> None:
    (server.folder / "zarr.json").write_bytes(b"of a document" * 9)
    location = locate(server.store)
    for most in (0, 1, 3):
        server.n_cut, server.most_cuts = 0, most
        assert location.read("zarr.json") == b"of a document" * 9
        assert server.n_cut == most
        server.n_cut = 0
        wanted = SuffixByteRequest(30)
        found = zarr.core.sync.sync(location.for_reading().get("zarr.json", default_buffer_prototype(), wanted))
        assert found is not None
        assert found.to_bytes() == (b"of a document" * 9)[-30:]
        assert server.n_cut == most
    server.n_cut, server.most_cuts = 0, 99
    with pytest.raises(Exception, match="response body"):
        location.read("zarr.json")
    assert server.n_cut == 4


# Icechunk


def test_readers_of_a_repository_see_whole_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dasksim.store._icechunk._WINDOW_CHUNKS", 2)
    store = repository(tmp_path)
    seen: list[int] = []

    def watch(rng: np.random.Generator) -> dict[str, Any]:
        seen.append(status(store).n_complete)
        return {"x": rng.normal()}

    made = make_simulator(watch, schema={"x": ((), "float64")})
    generate(made, store, N, scheduler="synchronous", audit=False, **OPTIONS)

    assert sorted(set(seen)) == [0, 2, 4]
    messages = [snapshot.message for snapshot in store.ancestry(branch="main")]
    assert messages[:-1] == ["dasksim: 1 chunk", "dasksim: 2 chunks", "dasksim: 2 chunks", "dasksim: make the store"]


def test_chunks_before_an_exception_are_committed(tmp_path: Path) -> None:
    def fail(i: float, rng: np.random.Generator) -> dict[str, Any]:
        if i == 30:
            raise BackendError("of the function's own")
        return {"x": rng.normal()}

    store = repository(tmp_path)
    made = make_simulator(fail)
    with pytest.raises(BackendError, match="of the function's own"):
        generate(made, store, N, scheduler="synchronous", conditions={"i": np.arange(float(N))}, **OPTIONS)

    assert status(store).n_complete == 3  # all before the failing one


def test_an_interrupt_is_not_lost_where_the_last_commit_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tries = repository(tmp_path), [0]

    def refuse(self: Any, forks: list[bytes]) -> None:
        tries[0] += 1
        raise StoreError("cannot commit: the disk is gone")

    def interrupt(i: float, rng: np.random.Generator) -> dict[str, Any]:
        if i == 30:
            monkeypatch.setattr(IcechunkWriter, "_commit", refuse)
            raise KeyboardInterrupt
        return {"x": rng.normal()}

    conditions = {"i": np.arange(float(N))}
    made = make_simulator(interrupt, schema={"x": ((), "float64")})
    with pytest.raises(KeyboardInterrupt) as caught:
        generate(made, store, N, scheduler="synchronous", conditions=conditions, **OPTIONS)
    assert "the last commit are lost: StoreError: cannot commit: the disk is gone" in str(caught.value.__notes__)
    assert tries == [1]


KILLED = """
import os, sys, icechunk, dasksim
import dasksim.store._icechunk as module

module._WINDOW_CHUNKS = 2
repository = icechunk.Repository.open_or_create(icechunk.local_filesystem_storage(sys.argv[1]))

def f(rng):
    if sys.argv[2] == "kill" and dasksim.status(repository).n_complete == 4:
        os.kill(os.getpid(), 9)
    return {"x": rng.normal()}

simulator = dasksim.make_simulator(f, schema={"x": ((), "float64")})
dasksim.generate(simulator, repository, 40, seed=1, sub_batch_size=4, chunk_size=4, scheduler="synchronous")
os._exit(0)  # on a busy machine Icechunk's threads may abort the interpreter while it ends
"""


def test_a_killed_run_is_resumed_from_its_last_commit(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(KILLED)
    run = [str(tmp_path / "script.py"), str(tmp_path / "repository")]
    assert subprocess.run([sys.executable, *run, "kill"], stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert status(repository(tmp_path)).n_complete == 4
    assert run_python(*run, "well", cwd=tmp_path).returncode == 0
    assert status(repository(tmp_path)).n_complete == 10


def test_a_session_is_committed_by_whoever_opened_it(tmp_path: Path) -> None:
    store = repository(tmp_path)
    session = store.writable_session("main")
    generate(simulator(), session, N, **OPTIONS)
    assert session.has_uncommitted_changes
    with pytest.raises(StoreError, match="there is no store at 'Icechunk repository"):
        status(store)
    session.commit("a training set")

    assert bits(open_dataset(store)) == SAMPLED
    assert bits(open_dataset(store.readonly_session("main"))) == SAMPLED


def test_two_writers_of_one_repository_make_one_store(tmp_path: Path) -> None:
    store = repository(tmp_path)
    others = [True]

    def is_made() -> bool:  # not yet when the function is probed
        return len(list(store.ancestry(branch="main"))) > 1

    def f(rng: np.random.Generator) -> dict[str, Any]:
        if others and is_made():
            others.clear()
            generate(made, repository(tmp_path), N, scheduler="synchronous", audit=False, **OPTIONS)
        return {"x": rng.normal()}

    made = make_simulator(f, schema={"x": ((), "float64")})
    wanted = bits(made.sample(N, seed=1, sub_batch_size=4))
    assert bits(generate(made, store, N, scheduler="synchronous", audit=False, **OPTIONS)) == wanted

    messages = [snapshot.message for snapshot in store.ancestry(branch="main")]
    assert messages[:-1] == ["dasksim: 5 chunks", "dasksim: 5 chunks", "dasksim: make the store"]


def test_a_repository_made_anew_by_another_run_is_not_written_to(tmp_path: Path) -> None:
    store = repository(tmp_path)
    others = [True]

    def f(rng: np.random.Generator) -> dict[str, Any]:
        if others and len(list(store.ancestry(branch="main"))) > 1:
            others.clear()
            anew = {**OPTIONS, "seed": 2, "overwrite": True}
            generate(made, repository(tmp_path), N, scheduler="synchronous", **anew)
        return {"x": rng.normal()}

    made = make_simulator(f, schema={"x": ((), "float64")})
    wanted = bits(made.sample(N, seed=2, sub_batch_size=4))
    with pytest.raises(StoreMismatchError, match="was removed, made anew or changed by another run"):
        generate(made, store, N, scheduler="synchronous", **OPTIONS)
    assert bits(open_dataset(store)) == wanted


def test_a_repository_in_memory_is_refused() -> None:
    store = icechunk.Repository.create(icechunk.in_memory_storage())
    with pytest.raises(ArgumentError, match="an Icechunk repository in memory cannot take chunks from workers"):
        generate(simulator(), store, N, **OPTIONS)


def test_a_repository_in_a_folder_of_such_a_name_is_none_in_memory(tmp_path: Path) -> None:
    store = repository(tmp_path / "InMemory in-memory")
    assert bits(generate(simulator(), store, N, scheduler="synchronous", **OPTIONS)) == SAMPLED
    assert "\n" not in status(store).path


# The command line


def test_the_command_line_takes_urls_and_paths_with_any_letters(tmp_path: Path) -> None:
    path = tmp_path / "données 数据.zarr"
    command = ["-W", "error", "-m", "dasksim"]
    for store in (str(path), path.as_uri(), path.name):
        run = run_python(*command, "generate", "two_moons", store, "-n", "40", "--seed", "1", cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        found = run_python(*command, "status", store, cwd=tmp_path)
        assert found.stdout.startswith(f"{path}: complete"), found
    run = run_python(*command, "status", "memory://nothing", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (2, "dasksim: there is no store at 'memory://nothing'\n")
    assert sorted(array_bytes(path))

"""Shards on a server and the cache they are fetched into: shared by processes, cut, failing, changed, emptied meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import pickle
import shutil
import tarfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from pretrain.base import http_requests
from pretrain.base.errors import DataError
from pretrain.data import remote
from pretrain.data.default_run import usual_side
from pretrain.data.index import LostSourceError
from pretrain.data.source import open_source
from tests.pretrain.data.conftest import PATTERN, content_of


def test_headers_alone_are_fetched_at_the_start_and_kept(serve, monkeypatch):
    monkeypatch.setattr(remote, "READ_AHEAD", 512)
    server = serve(etag='"1"')
    source = open_source(f"{server.url}/{PATTERN}")
    assert all(wanted for _, wanted in server.requests)  # no shard whole
    parts = [wanted.removeprefix("bytes=").split("-") for _, wanted in server.requests]
    fetched = sum(int(last) - int(first) + 1 for first, last in parts)
    held = sum(container.size for container in source.containers)
    # Not the images, each in whole blocks of 512; what remains is headers, and the zeros at the end of each shard.
    assert fetched < held - 0.8 * sum(int(size) // 512 * 512 for size in source.stats()[0])
    server.requests.clear()
    again = open_source(f"{server.url}/{PATTERN}")
    assert again.names == source.names and [wanted for _, wanted in server.requests] == ["bytes=0-0"] * 5
    server.etag = '"2"'  # the control: other shards by the server's word
    server.requests.clear()
    open_source(f"{server.url}/{PATTERN}")
    assert len(server.requests) > 20


def test_each_shard_is_fetched_once_by_all_processes_and_kept(serve):
    server = serve()
    source = open_source(f"{server.url}/{PATTERN}")
    server.requests.clear()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=content_of, args=(source,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert Counter(path for path, _ in server.requests) == {f"/train-{n:06d}.tar": 1 for n in range(5)}


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_again(serve, folder, ranges):
    server = serve(ranges=ranges)
    source = open_source(f"{server.url}/{PATTERN}") if ranges else None
    server.requests.clear()
    server.cut, server.fail = 2, 2
    source = source or open_source(f"{server.url}/{PATTERN}")
    assert content_of(source) == content_of(open_source(folder))
    assert server.cut == server.fail == 0
    if ranges:  # from where it broke, not from the beginning
        assert any(wanted and not wanted.startswith("bytes=0-") for _, wanted in server.requests)


def test_a_server_that_stays_away_ends_the_run_with_its_address(serve):
    server = serve()
    url = f"{server.url}/{PATTERN}"
    source = open_source(url)
    server.cut, server.share = 1000, 0
    with pytest.raises(
        LostSourceError, match=rf"{server.url}/train-000000\.tar: the connection ended after .* 5 times"
    ):
        source.read(0)
    server.cut, server.fail = 0, 1000
    with pytest.raises(LostSourceError, match=r"the server answered 503 .*, 5 times"):
        source.read(4)
    with pytest.raises(DataError, match=r"train-000005\.tar: the server answered 404 .*; pass the address of a shard"):
        open_source(f"{server.url}/train-{{000005..000006}}.tar")
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(DataError, match=r"refused.*5 times; is the server there\?"):
        open_source(url)


@pytest.mark.parametrize("place", ["in a member", "at a header"])
def test_an_answer_of_unknown_length_that_is_cut_is_asked_for_again_and_never_kept(serve, folder, cache, place):
    server = serve(ranges=False, length=False, etag='"1"')
    url = f"{server.url}/train-000001.tar"
    whole = (folder / "train-000001.tar").read_bytes()
    with tarfile.open(folder / "train-000001.tar") as archive:
        member = archive.getmembers()[7]
    server.replaced["/train-000001.tar"] = whole[: member.offset if place == "at a header" else member.offset_data + 9]
    with pytest.raises(LostSourceError, match=r"000001\.tar: the connection ended after .* end of the tar, 5 times"):
        open_source(url)
    assert not list((cache / "shards").glob("*.tar")) and not list((cache / "indices").glob("*"))
    server.requests.clear()
    server.replaced.clear()
    server.cut = 2
    assert len(open_source(url)) == 5
    assert len(server.requests) == 3 and server.cut == 0
    server.replaced["/train-000001.tar"] = b"<html>" * 500
    server.etag = '"2"'
    with pytest.raises(LostSourceError, match=r"000001\.tar: not a tar archive"):
        open_source(url)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_gives_no_version_is_believed_within_a_run_alone(serve, folder, cache, ranges, monkeypatch):
    ends = []
    monkeypatch.setattr(remote.atexit, "register", ends.append)
    server = serve(ranges=ranges)
    url = f"{server.url}/train-00000{{0,1}}.tar"
    first = open_source(url)
    expected = content_of(first)
    server.requests.clear()
    assert content_of(pickle.loads(pickle.dumps(first))) == expected and server.requests == []  # a worker
    with tarfile.open(folder / "train-000000.tar") as old, tarfile.open(folder / "new", "w") as new:
        for member in old:
            content = old.extractfile(member)
            member.name = member.name.replace(".png", ".PNG")
            new.addfile(member, content)
    server.replaced["/train-000000.tar"] = (folder / "new").read_bytes()  # of the same size
    second = open_source(url)
    assert sum(name.endswith(".PNG") for name in second.names) == 3 and content_of(second) == expected
    assert len(list((cache / "shards").glob("*.tar"))) == 4 and not (cache / "indices").exists()
    for end in ends:
        end()
    assert list((cache / "shards").iterdir()) == []


def test_a_shard_that_changes_during_the_run_is_refused(serve):
    server = serve(etag='"1"')
    source = open_source(f"{server.url}/{PATTERN}")
    server.etag = '"2"'
    with pytest.raises(LostSourceError, match=r"train-000000\.tar: changed on the server since the run began"):
        source.read(0)


def test_the_cache_keeps_to_its_limit_and_a_shard_in_use_stays_readable(serve, cache, monkeypatch):
    source = open_source(f"{serve().url}/{PATTERN}")
    largest = max(container.size for container in source.containers)
    monkeypatch.setenv("INFOMIN_CACHE_GB", str(1.5 * largest / 1e9))
    expected = content_of(source)
    kept = list((cache / "shards").glob("*.tar"))
    assert kept and sum(path.stat().st_size for path in kept) <= 1.5 * largest
    assert [source.read(index) for index in (0, 17, 5)] == [expected[index] for index in (0, 17, 5)]


def test_what_killed_runs_leave_in_the_cache_is_tidied(serve, cache, monkeypatch):
    folder = cache / "shards"
    folder.mkdir(parents=True)
    (folder / "old.lock").touch()
    (folder / "old.part").write_bytes(b"x" * 10_000)
    os.utime(folder / "old.part", (0, 0))
    (folder / "held.part").write_bytes(b"x")
    source = open_source(f"{serve().url}/{PATTERN}")
    with remote._alone(folder / "held.lock"):  # another process fetches this one
        source.read(0)
        left = {path.name for path in folder.iterdir() if path.suffix != ".tar"}
        assert left == {"held.lock", "held.part", "old.part"}  # the part may be taken up again
        monkeypatch.setenv("INFOMIN_CACHE_GB", "0")
        source.read(17)
        assert {path.name for path in folder.iterdir() if path.suffix != ".tar"} == {"held.lock", "held.part"}
    assert [path.suffix for path in folder.iterdir() if path.suffix != ".tar"] == [".part"]


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path):
    """Who waited for the process before must not go on with a file that the next one does not see."""
    path = tmp_path / "one.lock"
    inside = []

    def work(number):
        for _ in range(50):
            with remote._alone(path):
                inside.append(number)
                assert inside == [number]
                inside.clear()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert not path.exists()
    with remote._alone(path), remote._alone(path, wait=False) as held:
        assert not held


def test_a_lock_ends_with_its_holder_though_a_process_was_forked_meanwhile(tmp_path, monkeypatch):
    """A loader's worker has the lock file of the prefetching thread open: who waits for the lock would wait for the worker."""
    path = tmp_path / "one.lock"
    waiting, entered = threading.Event(), threading.Event()

    def flock(file, operation):
        if threading.current_thread() is not threading.main_thread():
            waiting.set()  # it has the file open that the holder is going to remove
        fcntl.flock(file, operation)

    def wait_for_it():
        with remote._alone(path):
            entered.set()

    monkeypatch.setattr(remote, "fcntl", SimpleNamespace(**{**vars(fcntl), "flock": flock}))
    thread = threading.Thread(target=wait_for_it, daemon=True)
    reading, writing = os.pipe()
    with remote._alone(path):
        child = os.fork()
        if child == 0:
            os.read(reading, 1)
            os._exit(0)
        thread.start()
        assert waiting.wait(5)
    try:
        assert entered.wait(5)
    finally:
        os.write(writing, b"x")
        os.waitpid(child, 0)
        thread.join(5)
        os.close(reading), os.close(writing)


def test_a_cache_that_is_emptied_while_a_shard_is_fetched_ends_no_run(serve, folder, cache, monkeypatch):
    source = open_source(f"{serve().url}/{PATTERN}")
    receive, emptied = remote.RemoteFile._receive, []

    def and_empty(self, part):
        receive(self, part)
        shutil.rmtree(cache / "shards")
        emptied.append(self.url)

    monkeypatch.setattr(remote.RemoteFile, "_receive", and_empty)
    assert content_of(source) == content_of(open_source(folder)) and len(emptied) == 5
    assert not (cache / "shards").exists()


def test_a_lock_removed_by_hand_is_not_removed_again_from_its_next_holder(tmp_path):
    path = tmp_path / "one.lock"
    with contextlib.ExitStack() as first:
        first.enter_context(remote._alone(path))
        path.unlink()
        with remote._alone(path):
            first.close()
            assert path.exists()


def test_a_cache_smaller_than_what_two_processes_fetch_at_once_ends_neither(serve, cache, monkeypatch):
    """One drops the other's shard before that is opened by its name."""
    source = open_source(f"{serve().url}/{PATTERN}")
    monkeypatch.setenv("INFOMIN_CACHE_GB", "0")
    replace = Path.replace

    def and_dropped(self, target):
        replace(self, target)
        target.unlink()

    monkeypatch.setattr(Path, "replace", and_dropped)
    assert all(source.read(index) for index in range(18))


def test_a_cache_folder_that_is_deleted_again_and_again_is_told(serve, cache, monkeypatch):
    source = open_source(f"{serve().url}/{PATTERN}")
    asked = []

    def gone(path):
        asked.append(path)
        raise FileNotFoundError(path)

    monkeypatch.setattr(remote, "_alone", gone)
    with pytest.raises(
        LostSourceError, match=r"shards was deleted 5 times .*; end what deletes it, or pass another folder"
    ):
        source.read(0)
    assert len(asked) == 5


def test_a_shard_that_another_run_drops_meanwhile_ends_no_run(serve, cache):
    server = serve(etag='"1"')
    source = open_source(f"{server.url}/{PATTERN}")
    (cache / "shards").mkdir()
    (cache / "shards" / "gone.tar").symlink_to("nowhere")  # listed, and not there
    assert content_of(source)


def test_a_cache_that_cannot_be_written_is_told_with_what_to_pass(serve, cache):
    server = serve(etag='"1"')
    source = open_source(f"{server.url}/{PATTERN}")
    for path in sorted(cache.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    cache.rmdir()
    cache.write_text("a file")
    with pytest.raises(LostSourceError, match=r"cannot be kept in .*; pass another folder: INFOMIN_CACHE=FOLDER"):
        source.read(0)


def test_the_password_of_netrc_goes_to_its_server_and_to_no_other(tmp_path, monkeypatch):
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    for machine, expected in (("127.0.0.1", "Basic bWU6c2VjcmV0"), ("elsewhere.example", None)):
        file.write_text(f"machine {machine} login me password secret\n")
        request = {}
        monkeypatch.setattr(
            http_requests.urllib.request,
            "urlopen",
            lambda asked, timeout, seen=request: seen.update(asked.unredirected_hdrs),
        )
        http_requests.request("http://127.0.0.1/train-000000.tar", {})
        assert request.get("Authorization") == expected


def test_a_cache_size_that_is_no_number_is_refused_before_anything_is_fetched(monkeypatch):
    monkeypatch.setenv("INFOMIN_CACHE_GB", "100GB")
    with pytest.raises(DataError, match="INFOMIN_CACHE_GB=100GB: expected a number of gigabytes"):
        open_source("http://127.0.0.1:9/train-000000.tar")


@pytest.mark.parametrize("path", ["a b-000.tar", "é-000.tar"])
@pytest.mark.parametrize("server", ["http://127.0.0.1:9", "http://127.0.0.1:port", "http://[::1"])
def test_what_is_no_address_is_told_at_once(monkeypatch, server, path):
    monkeypatch.setattr(http_requests.time, "sleep", lambda seconds: pytest.fail("asked again"))
    with pytest.raises(DataError, match=r"000\.tar: not an address \(.*; expected http://SERVER/PATH"):
        open_source(f"{server}/{path}")


def test_a_server_that_fails_at_the_start_is_asked_for_one_image_and_named(serve):
    """The size of the images is looked at to choose a run; each of them was asked for, and none of 128 could be read."""
    server = serve(etag='"1"')
    source = open_source(f"{server.url}/{PATTERN}")
    server.requests.clear()
    server.fail = 1000
    with pytest.raises(LostSourceError, match="the server answered 503"):
        usual_side(source)
    assert len(server.requests) == http_requests.ATTEMPTS

"""WebDataset shards: the same images from a folder, a pattern and a server, also one that has no ranges, cuts, fails or changes."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pretrain.base import http_requests
from pretrain.base.errors import DataError
from pretrain.data import remote, shards
from pretrain.data.index import LostSourceError
from pretrain.data.order import ShardBatches
from pretrain.data.shards import expand_braces
from pretrain.data.source import open_source
from pretrain.data.stream import open_stream
from pretrain.run.ranks import Ranks
from tests.file_server import FileServer
from tests.pretrain.conftest import write_images

SIZES = (3, 5, 1, 6, 3)


@pytest.fixture
def folder(tmp_path):
    """Five shards of 18 images, each with its label and description beside it."""
    images = sorted(write_images(tmp_path / "images").iterdir())
    root = tmp_path / "shards"
    root.mkdir()
    for number, size in enumerate(SIZES):
        with tarfile.open(root / f"train-{number:06d}.tar", "w") as archive:
            for _ in range(size):
                path = images.pop()
                for suffix, content in ((".json", b"{}"), (".png", path.read_bytes()), (".cls", b"7")):
                    entry = tarfile.TarInfo(path.stem + suffix)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return root


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, and no pauses between attempts."""
    monkeypatch.setenv("INFOMIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(http_requests, "FIRST_PAUSE_SECONDS", 0.001)
    return tmp_path / "cache"


@pytest.fixture
def serve(folder, cache):
    """Function: options of `FileServer` -> a server of the five shards."""
    servers = []

    def start(**options):
        servers.append(FileServer(folder, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def content_of(source):
    return [source.read(index) for index in range(len(source))]


PATTERN = "train-{000000..000004}.tar"


def test_braces_stand_for_their_names():
    assert expand_braces("a{08..10}-{x,y}.tar") == [f"a{n}-{s}.tar" for n in ("08", "09", "10") for s in "xy"]
    assert len(expand_braces("{000000..000099}")) == 100 and expand_braces("plain.tar") == ["plain.tar"]
    for bad in ("{1}", "{3..1}", "{a..c}", "{}", "{0..99999999999}", "{0..99999}{0..99999}"):
        with pytest.raises(DataError, match=r"expected \{FIRST|at most"):
            expand_braces(bad)


def test_a_folder_a_pattern_and_a_server_hold_the_same_images(folder, serve):
    local = open_source(folder)
    assert len(local) == 18 and local.shard_ends.tolist() == [0, 3, 8, 9, 15, 18]
    assert local.names[3].startswith("train-000001.tar/") and local.names[3].endswith(".png")
    assert local.where(3) == f"{folder}/{local.names[3]}"
    for root in (
        folder / PATTERN,
        folder / "*.tar",
        f"{serve().url}/{PATTERN}",
        f"{serve(ranges=False).url}/{PATTERN}",
    ):
        source = open_source(root)
        assert source.names == local.names and source.fingerprint() == local.fingerprint()
        assert content_of(pickle.loads(pickle.dumps(source))) == content_of(local)
    assert source.scanned is False and local.scanned


def test_headers_alone_are_fetched_at_the_start_and_kept(serve, monkeypatch):
    monkeypatch.setattr(remote, "READ_AHEAD", 512)
    server = serve(etag='"1"')
    source = open_source(f"{server.url}/{PATTERN}")
    assert all(wanted for _, wanted in server.requests)  # no shard whole
    parts = [wanted.removeprefix("bytes=").split("-") for _, wanted in server.requests]
    fetched = sum(int(last) - int(first) + 1 for first, last in parts)
    held = sum(container.size for container in source.containers)
    assert fetched < 0.6 * held  # three headers beside each image of a few kilobytes
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


def test_a_shard_that_changes_during_the_run_is_refused(serve):
    server = serve(etag='"1"')
    source = open_source(f"{server.url}/{PATTERN}")
    server.etag = '"2"'
    with pytest.raises(LostSourceError, match=r"train-000000\.tar: changed on the server since the run began"):
        source.read(0)


def test_a_shard_that_is_not_a_tar_is_refused(serve, folder):
    (folder / "page.tar").write_bytes(b"<html>" * 500)
    with pytest.raises(DataError, match=r"page\.tar: not a tar archive"):
        open_source(f"{serve().url}/page.tar")
    with pytest.raises(DataError, match=r"page\.tar: not a tar archive"):
        open_source(folder)
    with pytest.raises(DataError, match="a server cannot be asked for all names"):
        open_source("http://127.0.0.1:1/*.tar")


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


def test_a_shard_that_another_run_drops_meanwhile_ends_no_run(serve, cache):
    source = open_source(f"{serve().url}/{PATTERN}")
    (cache / "shards").mkdir()
    (cache / "shards" / "gone.tar").symlink_to("nowhere")  # listed, and not there
    assert content_of(source)


def test_a_cache_that_cannot_be_written_is_told_with_what_to_pass(serve, cache):
    source = open_source(f"{serve().url}/{PATTERN}")
    for path in sorted(cache.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    cache.rmdir()
    cache.write_text("a file")
    with pytest.raises(LostSourceError, match=r"cannot be kept in .*; pass another folder: INFOMIN_CACHE=FOLDER"):
        source.read(0)


def test_shards_that_come_next_are_fetched_meanwhile(serve):
    server = serve()
    source = open_source(f"{server.url}/{PATTERN}")
    order = ShardBatches(source.shard_ends, 2, seed=0, buffer=4)
    fetcher = shards.Fetcher(source, order)
    server.requests.clear()
    fetcher.at(0)
    fetcher._thread.join(30)
    assert {path for path, _ in server.requests} == {f"/train-{shard:06d}.tar" for shard in order.ahead(0)}
    server.requests.clear()
    fetcher.at(0)  # told again
    assert server.requests == []


@pytest.mark.parametrize(
    ("kind", "workers"), [("folder", 0), ("server", 0), pytest.param("server", 2, marks=pytest.mark.slow)]
)
def test_a_run_on_shards_continues_with_the_batches_it_would_have_had(tiny_config, folder, serve, kind, workers):
    root = str(folder) if kind == "folder" else f"{serve().url}/{PATTERN}"
    config = tiny_config(data={"root": root, "num_workers": workers})
    messages: list[str] = []

    def batches(from_step, num_steps):
        stream = open_stream(config, ranks=Ranks(), announce=messages.append)
        return list(stream.batches(from_step=from_step, num_steps=num_steps))

    whole = batches(0, 5)
    assert messages == ["18 images, 2 steps of 8 an epoch"]
    config = tiny_config(data={"root": root})
    for ours, theirs in zip(whole[3:], batches(3, 2), strict=True):
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.index, theirs.index)
    seen = torch.cat([batch.index for batch in whole[:2]]).tolist()
    assert len(set(seen)) == 16 and seen != sorted(seen)


def test_a_lost_server_is_not_replaced_by_another_image(tiny_config, serve, monkeypatch):
    server = serve()
    config = tiny_config(data={"root": f"{server.url}/{PATTERN}", "skip_unreadable": True})
    stream = open_stream(config, ranks=Ranks(), announce=lambda text: None)
    server.fail = 10**6
    with pytest.raises(DataError, match="the server answered 503"):
        next(iter(stream.batches(from_step=0, num_steps=1)))


def test_a_kept_index_that_is_damaged_is_made_anew(folder, cache):
    first = open_source(folder)
    kept = list((cache / "indices").glob("*.npz"))
    assert len(kept) == 5
    for number, path in enumerate(kept):
        content = path.read_bytes()
        path.write_bytes([b"", content[:100], content[:-30], b"x" * 300, json.dumps({}).encode()][number])
    assert open_source(folder).names == first.names
    with np.load(kept[0]) as stored:
        changed = {name: stored[name] for name in stored.files}
    assert {"stamp", "blob", "ends", "offsets", "sizes"} <= set(changed)


def test_a_password_in_an_address_is_refused_without_repeating_it():
    with pytest.raises(DataError, match=r"http://server/train-000000.tar: .*netrc") as refused:
        open_source("http://me:secret@server/train-000000.tar")
    assert "secret" not in str(refused.value)


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

"""One file from a server that cuts, fails, changes, lies or has no ranges: whole and right, or not there."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace

import pytest

from pretrain.base import download as module
from pretrain.base import http_requests
from pretrain.base.download import Fetched, Published, WrongContentError, check_file, download
from pretrain.base.errors import DataError
from tests.file_server import FileServer

CONTENT = random.Random(0).randbytes(100_000)
OTHER = random.Random(1).randbytes(100_000)
PUBLISHED = Published(len(CONTENT), {"md5": hashlib.md5(CONTENT).hexdigest()})
SHA256 = hashlib.sha256(CONTENT).hexdigest()
UNCHECKED = Published()


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Function: options of `FileServer` -> a server that has file.tar, with no pauses between attempts."""
    monkeypatch.setattr(http_requests, "FIRST_PAUSE_SECONDS", 0.001)
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "file.tar").write_bytes(CONTENT)
    servers = []

    def start(**options):
        servers.append(FileServer(folder, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def target(tmp_path):
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "file.tar"


def fetch(server, target, published=PUBLISHED):
    return download([f"{server.url}/file.tar"], target, published).sha256


def stop_halfway(server, target, published=PUBLISHED):
    """As Ctrl-C or a killed process leaves it: half of the file came."""
    server.cut = 10**6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_requests, "ATTEMPTS", 1)
        patch.setattr(module, "with_patience", lambda url, attempt, **options: attempt())
        with pytest.raises(module.CutError):
            fetch(server, target, published)
    server.cut = 0
    assert not target.exists() and target.with_name("file.tar.part").read_bytes() == CONTENT[:50_000]
    server.requests.clear()
    server.sent.clear()


def leftovers(target):
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_comes_whole_and_says_how_much_has_come(serve, target):
    seen = []
    assert (
        download([f"{serve().url}/file.tar"], target, PUBLISHED, watch=lambda *now: seen.append(now)).sha256 == SHA256
    )
    assert target.read_bytes() == CONTENT and leftovers(target) == ["file.tar"]
    assert seen[-1] == (100_000, 100_000) and [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("etag", ['"1"', None])
def test_a_stopped_download_goes_on_at_its_byte_and_fetches_none_twice(serve, target, etag):
    server = serve(etag=etag)
    stop_halfway(server, target)
    assert fetch(server, target) == SHA256
    assert server.requests == [("/file.tar", "bytes=50000-")] and server.sent == {"/file.tar": 50_000}
    assert target.read_bytes() == CONTENT and leftovers(target) == ["file.tar"]


def test_lines_that_are_cut_more_often_than_attempts_are_allowed_still_end(serve, target):
    server = serve(etag='"1"', cut=12)
    server.share = 0.2
    assert fetch(server, target) == SHA256 and len(server.requests) == 13
    assert server.sent == {"/file.tar": len(CONTENT)}


def test_a_server_that_makes_no_progress_is_given_up(serve, target):
    server = serve(ranges=False, cut=10**6)
    with pytest.raises(DataError, match=r"connection ended after 50,000 of 100,000 bytes, 5 times"):
        fetch(server, target)
    assert not target.exists()


def test_a_server_without_ranges_begins_anew(serve, target):
    server = serve(ranges=False, etag='"1"')
    stop_halfway(server, target)
    assert fetch(server, target) == SHA256 and server.sent == {"/file.tar": 100_000}


def test_a_busy_server_is_asked_again(serve, target):
    server = serve(fail=3)
    assert fetch(server, target) == SHA256 and len(server.requests) == 4


def test_a_missing_file_is_asked_for_once(serve, target):
    server = serve()
    with pytest.raises(DataError, match=r"other.tar: the server answered 404"):
        download([f"{server.url}/other.tar"], target, PUBLISHED)
    assert len(server.requests) == 1 and leftovers(target) == []


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("published", [PUBLISHED, UNCHECKED], ids=["checked", "unchecked"])
def test_a_file_that_changed_meanwhile_is_not_mixed_from_two(serve, target, if_range, published):
    server = serve(etag='"1"', if_range=if_range)
    stop_halfway(server, target, published)
    server.etag, server.replaced["/file.tar"] = '"2"', OTHER
    published = (
        replace(published, checksums={"sha256": hashlib.sha256(OTHER).hexdigest()}) if published.size else UNCHECKED
    )
    fetch(server, target, published)
    assert target.read_bytes() == OTHER and len(server.requests) == (1 if if_range else 2)


def test_bytes_of_an_unknown_version_are_dropped_where_no_checksum_could_tell(serve, target):
    server = serve()  # no ETag
    stop_halfway(server, target, UNCHECKED)
    fetch(server, target, UNCHECKED)
    assert server.requests == [("/file.tar", None)]


def test_wrong_first_bytes_of_an_earlier_call_cost_one_more_fetch_not_an_error(serve, target):
    server = serve()
    target.with_name("file.tar.part").write_bytes(OTHER[:30_000])
    assert fetch(server, target) == SHA256
    assert server.requests == [("/file.tar", "bytes=30000-"), ("/file.tar", None)]


def test_wrong_bytes_are_named_and_nothing_is_kept(serve, target):
    server = serve()
    server.replaced["/file.tar"] = OTHER
    with pytest.raises(
        DataError, match=rf"expected md5 {PUBLISHED.digests['md5']}, found {hashlib.md5(OTHER).hexdigest()}"
    ):
        fetch(server, target)
    assert leftovers(target) == [] and len(server.requests) == 1


def test_control_without_its_checksum_the_wrong_file_would_be_taken(serve, target):
    server = serve()
    server.replaced["/file.tar"] = OTHER
    fetch(server, target, Published(len(CONTENT)))
    assert target.read_bytes() == OTHER


def test_a_file_of_another_size_is_refused_before_it_is_fetched(serve, target):
    server = serve()
    server.replaced["/file.tar"] = CONTENT * 3
    seen = []
    with pytest.raises(DataError, match=r"expected 100,000 bytes, and the server has 300,000"):
        download([f"{server.url}/file.tar"], target, PUBLISHED, watch=lambda *now: seen.append(now))
    assert leftovers(target) == [] and not seen


def test_the_next_mirror_goes_on_where_the_first_one_ended(serve, target):
    first, second = serve(cut=10**6, etag='"1"', ranges=False), serve(etag='"other"')
    urls = [f"{server.url}/file.tar" for server in (first, second)]
    assert download(urls, target, PUBLISHED) == Fetched(SHA256, urls[1])
    assert second.requests == [("/file.tar", "bytes=50000-")]
    first.cut, second.cut = 0, 0
    target.unlink()
    first.replaced["/file.tar"] = OTHER
    assert download(urls, target, PUBLISHED) == Fetched(SHA256, urls[1])


def test_what_was_whole_but_not_renamed_is_not_fetched_again(serve, target):
    server = serve()
    target.with_name("file.tar.part").write_bytes(CONTENT)
    assert fetch(server, target) == SHA256 and server.requests == []
    target.rename(target.with_name("file.tar.part"))  # a file whose size nobody published: 416
    assert fetch(server, target, Published(checksums=PUBLISHED.checksums)) == SHA256
    assert server.requests == [("/file.tar", "bytes=100000-")] and server.sent == {}


@pytest.mark.parametrize("extra", [1, 5000])
@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_that_is_longer_than_the_file_is_dropped(serve, target, extra, size):
    server = serve(etag='"1"')
    target.with_name("file.tar.part").write_bytes(CONTENT + bytes(extra))
    state = {"url": f"{server.url}/file.tar", "version": '"1"'}
    target.with_name("file.tar.part.json").write_text(json.dumps(state))
    assert fetch(server, target, replace(PUBLISHED, size=size)) == SHA256


def test_a_stop_keeps_what_has_come(serve, target):
    server = serve(etag='"1"')

    def stop(done, size):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download([f"{server.url}/file.tar"], target, PUBLISHED, watch=stop)
    kept = target.with_name("file.tar.part").read_bytes()
    assert kept and CONTENT.startswith(kept) and not target.exists()
    server.sent.clear()
    assert fetch(server, target) == SHA256 and server.sent.get("/file.tar", 0) == len(CONTENT) - len(kept)


def test_a_file_that_is_there_is_compared(target):
    target.write_bytes(CONTENT)
    assert check_file(target, PUBLISHED) == SHA256
    target.write_bytes(OTHER)
    with pytest.raises(WrongContentError, match=r"file.tar: expected md5"):
        check_file(target, PUBLISHED)
    target.write_bytes(CONTENT[:-1])
    with pytest.raises(WrongContentError, match=r"expected 100,000 bytes, found 99,999"):
        check_file(target, PUBLISHED)


def test_the_proxy_of_the_environment_is_asked(serve, target, monkeypatch):
    proxy = serve()
    asked = []
    proxy.answer = lambda request: (asked.append(request.path), request.send_error(404))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setattr(http_requests.urllib.request, "_opener", None)  # made once a process
    try:
        with pytest.raises(DataError, match="404"):
            download(["http://data.example/file.tar"], target, PUBLISHED)
    finally:
        http_requests.urllib.request._opener = None
    assert asked == ["http://data.example/file.tar"]

"""Five small shards, a cache of the test's own, and a server of the shards."""

from __future__ import annotations

import io
import tarfile

import pytest

from pretrain.base import http_requests
from tests.file_server import FileServer
from tests.pretrain.conftest import write_images

SIZES = (3, 5, 1, 6, 3)
PATTERN = "train-{000000..000004}.tar"


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

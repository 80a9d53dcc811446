"""A server of the miniature archives, and a function that runs the command against it."""

from __future__ import annotations

from unittest import mock

import pytest

from pretrain.base import http_requests
from tests.file_server import FileServer
from tests.tools.in_process import run_tool_here
from tests.transfer.data.public.miniature import MINIATURES
from transfer.data.public.table import DATA_SETS


@pytest.fixture(scope="session")
def miniatures():
    """Name -> miniature, of all data sets."""
    return {name: make() for name, make in MINIATURES.items()}


@pytest.fixture(scope="session")
def archives(miniatures, tmp_path_factory):
    """A folder with the archives of all."""
    folder = tmp_path_factory.mktemp("archives")
    for small in miniatures.values():
        for name, content in small.archives.items():
            (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def server(archives, monkeypatch):
    monkeypatch.setattr(http_requests, "FIRST_PAUSE_SECONDS", 0.001)
    server = FileServer(archives, etag='"1"')
    yield server
    server.close()


@pytest.fixture
def prepare(miniatures, server, tmp_path):
    """Function: words of the command -> what it did, with the table in small, --root ROOT and the server unless given."""
    small = {name: one.dataset for name, one in miniatures.items()}

    def run(*words, root=tmp_path / "root", fetch=True):
        given = {"--root": root, "--base-url": server.url if fetch else None}
        more = [word for option, value in given.items() if value is not None for word in (option, value)]
        with mock.patch.dict(DATA_SETS, small):
            return run_tool_here("prepare_data.py", *words, *more)

    run.root = tmp_path / "root"
    return run

"""WebDataset shards: the same images from a folder, a pattern and a server, a run on them, and one that loses a shard."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from pretrain.base.errors import DataError
from pretrain.data import containers, manifest, shards
from pretrain.data import stream as stream_module
from pretrain.data.index import LostSourceError
from pretrain.data.order import ShardBatches
from pretrain.data.shards import expand_braces
from pretrain.data.source import open_source
from pretrain.data.stream import open_stream
from pretrain.run.ranks import Ranks
from tests.pretrain.data.conftest import PATTERN, content_of


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


def test_a_shard_that_is_not_a_tar_is_refused(serve, folder):
    (folder / "page.tar").write_bytes(b"<html>" * 500)
    with pytest.raises(DataError, match=r"page\.tar: not a tar archive"):
        open_source(f"{serve().url}/page.tar")
    with pytest.raises(DataError, match=r"page\.tar: not a tar archive"):
        open_source(folder)
    with pytest.raises(DataError, match="a server cannot be asked for all names"):
        open_source("http://127.0.0.1:1/*.tar")


def test_no_worker_is_forked_while_a_shard_is_fetched_ahead(tiny_config, serve, monkeypatch):
    told = []
    config = tiny_config(data={"root": f"{serve().url}/{PATTERN}", "num_workers": 0})
    stream = open_stream(config, ranks=Ranks(), announce=lambda text: None)
    build = stream_module.build_loader

    def watched(*arguments, **options):
        loader = build(*arguments, **options)
        told.append("workers start")
        yield from loader

    monkeypatch.setattr(stream_module, "build_loader", watched)
    monkeypatch.setattr(shards.Fetcher, "at", lambda self, step: told.append(f"fetch ahead of {step}"))
    for _ in stream.batches(from_step=0, num_steps=2):
        pass
    assert told == ["workers start", "fetch ahead of 0", "fetch ahead of 1"]


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


def test_a_lost_source_is_not_told_to_be_skipped(tiny_config, folder):
    """skip_unreadable would not help."""
    config = tiny_config(data={"root": str(folder)})
    stream = open_stream(config, ranks=Ranks(), announce=lambda text: None)
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="changed since it was listed") as caught:
        next(stream.batches(from_step=0, num_steps=1))
    assert "skip_unreadable" not in str(caught.value)


def test_a_shard_that_is_lost_after_its_index_was_kept_is_not_left_out_as_unreadable_images(
    tiny_config, folder, cache, monkeypatch
):
    """One that nobody may read any more has its size and time of change, by which its index is found."""
    open_source(folder)
    opened = containers.open_file

    def denied(path):
        if path.name == "train-000003.tar":
            raise DataError(f"{path}: cannot be opened (Permission denied)")
        return opened(path)

    monkeypatch.setattr(containers, "open_file", denied)
    config = tiny_config(data={"root": str(folder), "skip_unreadable": True})
    with pytest.raises(LostSourceError, match=r"train-000003\.tar: cannot be opened"):
        open_stream(config, ranks=Ranks(), announce=lambda text: None)


def test_a_source_that_another_rank_lost_ends_this_one_as_well(folder, monkeypatch):
    """It would wait for what the other one found."""
    source = open_source(folder)
    monkeypatch.setattr(
        manifest, "gather_values", lambda value, ranks: [value, "rank 1: lost" if value is None else value]
    )
    with pytest.raises(LostSourceError, match="rank 1: lost"):
        manifest.look_through(source, *source.stats(), ranks=Ranks(world_size=2))


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

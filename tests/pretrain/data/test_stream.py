"""From a configuration to batches: bad folders end before step one, bad images are replaced or end the run on every rank."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image

from pretrain.base.errors import ConfigError, DataError
from pretrain.config import method_values
from pretrain.data import manifest
from pretrain.data.manifest import read_record
from pretrain.data.stream import open_stream
from pretrain.run.checkpoint import checkpoint_path, read_checkpoint
from pretrain.run.ranks import Ranks, start_ranks, stop_ranks
from pretrain.train import train
from pretrain.views.sheet import CELL, GAP


def test_images_too_small_for_a_distance_are_refused_before_step_one(tiny_config, image_folder):
    """The images are 48 x 40."""

    def opened(distance):
        recipe = {"name": "apart", "ops": [{"op": "PatchDistance", "patch": 32, "distance": distance}]}
        config = tiny_config(views={"recipe": recipe}, method={"jigsaw": False})
        return open_stream(config, ranks=Ranks(), announce=lambda text: None)

    assert len(list(opened(8).batches(from_step=0, num_steps=2))) == 2
    with pytest.raises(DataError, match=r"shorter side has 41 px or more; 18 of 18 are smaller, down to 40 px"):
        opened(9)


def test_pairs_with_a_jigsaw_are_refused_before_an_image_is_read(tiny_config, tmp_path):
    recipe = {"name": "split", "ops": [{"op": "CenterCrop"}, {"op": "FrequencySplit", "sigma": 1.0}]}
    with pytest.raises(ConfigError, match=r"pass method\.jigsaw=false"):
        open_stream(
            tiny_config(views={"recipe": recipe}, data={"root": str(tmp_path / "absent")}),
            ranks=Ranks(),
            announce=print,
        )


def test_unreadable_images_are_counted_before_step_one_or_left_out_when_asked(tiny_config, image_folder, tmp_path):
    root = shutil.copytree(image_folder, tmp_path / "images")
    (root / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        open_stream(tiny_config(data={"root": str(root)}), ranks=Ranks(), announce=print)
    messages: list[str] = []
    stream = open_stream(
        tiny_config(data={"root": str(root), "skip_unreadable": True}), ranks=Ranks(), announce=messages.append
    )
    assert "left out" in messages[0] and "18 images" in messages[1]
    assert len(list(stream.batches(from_step=0, num_steps=1))) == 1


def test_too_few_images_are_refused_with_a_batch_that_divides_over_the_ranks(tiny_config, monkeypatch):
    monkeypatch.setattr(manifest, "gather_values", lambda value, ranks: [value] * ranks.world_size)
    config = tiny_config(optimizer={"batch_size": 20})
    with pytest.raises(
        DataError, match=r"18 images do not fill one batch of 20; pass optimizer\.batch_size=16 or less"
    ):
        open_stream(config, ranks=Ranks(world_size=4), announce=print)


@pytest.fixture
def damaged_folder(image_folder, tmp_path):
    """The 18 images; 005.png has an unreadable middle between a sound header and a sound end."""
    root = shutil.copytree(image_folder, tmp_path / "images")
    content = bytearray((root / "005.png").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    (root / "005.png").write_bytes(bytes(content))
    return root


def test_an_image_that_turns_out_damaged_is_refused_by_name_or_replaced_reported_and_recorded(
    tiny_config, damaged_folder, tmp_path
):
    def opened(skip, announce=print):
        config = tiny_config(data={"root": str(damaged_folder), "skip_unreadable": skip})
        return open_stream(config, ranks=Ranks(), announce=announce, output_dir=tmp_path)

    with pytest.raises(DataError, match=r"005\.png: damaged.*data\.skip_unreadable=true"):
        list(opened(False).batches(from_step=0, num_steps=4))
    assert read_record(tmp_path) is None
    messages: list[str] = []
    stream = opened(True, messages.append)
    assert stream.record.unreadable == () and len(stream.source) == 18  # the header told nothing
    batches = list(stream.batches(from_step=0, num_steps=4))  # two epochs: it is met at least once, most likely twice
    (message,) = messages[1:]
    assert "005.png: damaged" in message and "1 so far" in message
    assert read_record(tmp_path) == replace(stream.record, replaced=("005.png",))
    assert 5 not in {index for batch in batches for index in batch.index.tolist()}
    again = open_stream(
        tiny_config(data={"root": str(damaged_folder), "skip_unreadable": True}),
        ranks=Ranks(),
        announce=messages.append,
        recorded=read_record(tmp_path),
        output_dir=tmp_path,
    )
    for batch, before in zip(again.batches(from_step=0, num_steps=4), batches, strict=True):
        assert torch.equal(batch.images, before.images)
    assert len(messages) == 3 and read_record(tmp_path).replaced == ("005.png",)  # known: not reported again
    stream.draw_sheet(tmp_path / "views.png")


@pytest.mark.parametrize("kind", ["zip", "tar", "shards", "list"])
def test_a_damaged_image_of_any_source_is_refused_by_name_or_replaced(tiny_config, damaged_folder, tmp_path, kind):
    if kind == "list":
        root = damaged_folder / "some.txt"
        root.write_text("".join(f"{number:03d}.png\n" for number in range(18)))
    else:
        root = Path(shutil.make_archive(str(tmp_path / "shard"), "zip" if kind == "zip" else "tar", damaged_folder))
    if kind == "shards":
        root = tmp_path / "shar{d,D}.tar"
        shutil.copy(tmp_path / "shard.tar", tmp_path / "sharD.tar")

    def opened(skip):
        config = tiny_config(data={"root": str(root), "skip_unreadable": skip})
        return open_stream(config, ranks=Ranks(), announce=print, output_dir=tmp_path)

    with pytest.raises(DataError, match=r"005\.png: damaged.*data\.skip_unreadable=true"):
        list(opened(False).batches(from_step=0, num_steps=6))
    batches = list(opened(True).batches(from_step=0, num_steps=6))
    found = {name.rpartition("/")[2] for name in read_record(tmp_path).replaced}
    assert len(batches) == 6 and found == {"005.png"}


@pytest.mark.slow
def test_a_run_that_refused_a_damaged_image_continues_bit_exactly_when_it_may_skip_it(
    tiny_config, damaged_folder, tmp_path
):
    """Nothing of the refused step is saved, and what was computed before it does not depend on the switch."""

    def config(skip):
        data = {"root": str(damaged_folder), "skip_unreadable": skip}
        small = {"encoder": {"arch": "resnet18_half"}, "optimizer": {"epochs": 2}}
        return tiny_config(data=data, runtime={"checkpoint_every_steps": 1}, **small)

    def weights(directory):
        return read_checkpoint(checkpoint_path(directory / "checkpoints", 4))["model"]

    train(config(True), output_dir=tmp_path / "whole", resume=False, ranks=Ranks())
    with pytest.raises(DataError, match=r"005\.png"):
        train(config(False), output_dir=tmp_path / "cut", resume=False, ranks=Ranks())
    train(config(True), output_dir=tmp_path / "cut", resume=True, ranks=Ranks())
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())


def meet_damage(rank, config, port, queue):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    ranks = start_ranks("cpu", timeout_s=60)
    messages: list[str] = []
    stream = open_stream(config, ranks=ranks, announce=messages.append)
    steps = 0
    try:
        for _ in stream.batches(from_step=0, num_steps=4):
            steps += 1
    except DataError as error:
        messages.append(str(error))
    queue.put((rank, steps, messages[1:]))
    stop_ranks(ranks)


@pytest.mark.slow
def test_every_rank_refuses_the_image_that_one_of_them_met(tiny_config, damaged_folder, free_port):
    context = mp.get_context("spawn")
    queue = context.Queue()
    config = tiny_config(data={"root": str(damaged_folder)})
    processes = [context.Process(target=meet_damage, args=(rank, config, free_port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    (_, steps, messages), (_, other_steps, other_messages) = (queue.get(timeout=120) for _ in range(2))
    for process in processes:
        process.join(timeout=60)
    assert steps == other_steps < 4
    assert messages == other_messages and "005.png: damaged" in messages[0]


def test_the_sheet_of_cmc_shows_what_its_towers_see(tiny_config, tmp_path):
    stream = open_stream(tiny_config(**method_values("cmc")), ranks=Ranks(), announce=lambda text: None)
    stream.draw_sheet(tmp_path / "views.png")
    with Image.open(tmp_path / "views.png") as picture:
        assert picture.width == GAP + 5 * (CELL + GAP)  # original, the one view, Y, Db, Dr

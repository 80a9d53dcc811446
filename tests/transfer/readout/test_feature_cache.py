"""Features on disk: encoded once, and used only where they are what was asked for."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError, DataError
from pretrain.data.source import ImageSource
from pretrain.run.precision import Precision
from transfer.readout import feature_cache
from transfer.readout.config import LinearConfig
from transfer.readout.feature_cache import CENTRE, FeatureCache, View, difference_to_float32
from transfer.readout.features import FrozenEncoder, encode_table, load_splits, state_hash, training_recipe

SETTINGS = LinearConfig(batch_size=8, image_size=32, device="cpu", precision="fp32", num_workers=0)
AUGMENTED = View("augmented", training_recipe(SETTINGS), 1)


class Counting(nn.Module):
    """A convolution that counts the images it has seen."""

    arch, feature_dim, scale = "counting", 4, 1.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 4, 4, stride=4)
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return self.scale * self.convolution(images).relu().mean((2, 3))


@pytest.fixture
def folders(class_folders, tmp_path):
    """Images that a test may replace."""
    return shutil.copytree(class_folders, tmp_path / "data")


@pytest.fixture
def cache(tmp_path):
    messages = []
    module = Counting().eval()
    encoder = FrozenEncoder(module, InputContract(), Precision(torch.device("cpu"), None), None)
    made = FeatureCache(tmp_path / "features", encoder, state_hash(module), SETTINGS, messages.append)
    object.__setattr__(made, "messages", messages)
    return made


def get(cache, folders, view=CENTRE):
    """(features, images that were encoded for them)."""
    before = cache.encoder.module.seen
    features = cache.features(ImageSource(folders / "train"), view, title="training images")
    return features.clone(), cache.encoder.module.seen - before


@pytest.mark.parametrize("view", [CENTRE, AUGMENTED], ids=str)
def test_features_are_encoded_once_and_are_those_of_the_table_in_memory_in_half_precision(cache, folders, view):
    first, encoded = get(cache, folders, view)
    again, encoded_again = get(cache, folders, view)
    assert (encoded, encoded_again) == (21, 0) and torch.equal(first, again) and first.dtype == torch.float16
    train, _ = load_splits(folders)
    views = view.number + 1
    table = encode_table(cache.encoder, train, view.recipe, SETTINGS, num_views=views, title="")[view.number]
    torch.testing.assert_close(first.float(), table, rtol=1e-3, atol=1e-6)


def test_of_two_that_want_the_same_features_one_encodes_and_the_other_waits(cache, folders):
    entered, go_on = threading.Event(), threading.Event()
    honest = cache.encoder.module.forward

    def slow(images):
        entered.set()
        assert go_on.wait(30)
        return honest(images)

    cache.encoder.module.forward = slow
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(get, cache, folders)
        assert entered.wait(30)
        second = pool.submit(get, cache, folders)
        while not any("another process encodes them" in message for message in cache.messages):
            assert not second.done()
            time.sleep(0.01)
        go_on.set()
        assert torch.equal(first.result()[0], second.result()[0])
    assert cache.encoder.module.seen == 21 and {path.suffix for path in cache.folder.iterdir()} == {".npy", ".json"}


def test_what_lies_on_the_disk_is_two_bytes_a_feature_and_is_mapped_not_read(cache, folders):
    features = cache.features(ImageSource(folders / "train"), CENTRE, title="")
    (path,) = cache.folder.glob("*.npy")
    assert path.stat().st_size - 21 * 4 * 2 in range(64, 257)  # numpy's header
    assert str(path) in Path("/proc/self/maps").read_text() and len(features) == 21


def changed(cache, folders, what):
    """The cache and view after a change of one thing that decides features."""
    view = AUGMENTED
    if what == "weights":
        return replace(cache, state_sha256="other"), view
    if what == "contract":
        return replace(cache, encoder=replace(cache.encoder, contract=InputContract(mean=(0, 0, 0)))), view
    if what == "precision":
        half = Precision(torch.device("cpu"), torch.bfloat16)
        return replace(cache, encoder=replace(cache.encoder, precision=half)), view
    if what == "view number":
        return cache, replace(view, number=2)
    if what == "crop":
        return cache, replace(view, recipe=training_recipe(replace(SETTINGS, crop_scale=(0.5, 1.0))))
    if what == "an image of the same name and size in bytes":
        path = folders / "train" / "red" / "0.png"
        status = path.stat()
        path.write_bytes(path.read_bytes())
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    if what == "an image more":
        shutil.copy(folders / "train" / "red" / "0.png", folders / "train" / "red" / "new.png")
    over = {"seed": {"seed": 1}, "image size": {"image_size": 64}}.get(what, {})
    return replace(cache, settings=replace(SETTINGS, **over)), view


@pytest.mark.parametrize(
    "what",
    ["weights", "contract", "precision", "view number", "crop", "seed", "image size", "an image more",
     "an image of the same name and size in bytes", "nothing"],
)  # fmt: skip
def test_a_stale_cache_is_not_used(cache, folders, what):
    get(cache, folders, AUGMENTED)
    other, view = changed(cache, folders, what)
    _, encoded = get(other, folders, view)
    assert encoded == (0 if what == "nothing" else 22 if what == "an image more" else 21)


def test_a_centre_crop_draws_nothing_and_serves_every_seed(cache, folders):
    get(cache, folders)
    assert get(replace(cache, settings=replace(SETTINGS, seed=5)), folders)[1] == 0


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit": lambda array, described: flip(array),
    "cut short": lambda array, described: array.write_bytes(array.read_bytes()[:-2]),
    "empty": lambda array, described: array.write_bytes(b""),
    "no description": lambda array, described: described.unlink(),
    "half a description": lambda array, described: described.write_text(described.read_text()[:40]),
    "another description": lambda array, described: described.write_text("[]"),
    "of another file": lambda array, described: described.write_text(
        json.dumps({**json.loads(described.read_text()), "made_of": {}})
    ),
    "none": lambda array, described: None,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_encoded_again(cache, folders, damage):
    first, _ = get(cache, folders)
    (array,) = cache.folder.glob("*.npy")
    DAMAGE[damage](array, array.with_suffix(".json"))
    cache.messages.clear()
    again, encoded = get(cache, folders)
    assert encoded == (0 if damage == "none" else 21) and torch.equal(first, again)
    assert any("is damaged; encoded again" in text for text in cache.messages) == (
        damage not in ("none", "no description")
    )


def test_an_encoding_that_is_interrupted_leaves_nothing(cache, folders, monkeypatch):
    honest = FrozenEncoder.features

    def second_batch_fails(self, images):
        if self.module.seen >= 8:
            raise KeyboardInterrupt
        return honest(self, images)

    monkeypatch.setattr(FrozenEncoder, "features", second_batch_fails)
    with pytest.raises(KeyboardInterrupt):
        get(cache, folders)
    assert list(cache.folder.iterdir()) == []


def test_what_a_killed_run_left_a_day_ago_is_removed_and_what_another_run_writes_stays(cache, folders):
    cache.folder.mkdir()
    old, new = (cache.folder / f".{name}.npy.77.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    get(cache, folders)
    assert new.exists() and not old.exists()


def test_features_that_half_precision_cannot_hold_are_refused(cache, folders):
    cache.encoder.module.scale = 1e6
    with pytest.raises(ConfigError, match=r"float16 holds .* relative error .*linear_eval"):
        get(cache, folders)
    assert list(cache.folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_or_is_full_is_named_with_the_switch(cache, folders, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="--features FOLDER"):
        get(replace(cache, folder=tmp_path / "file" / "features"), folders)
    usage = shutil._ntuple_diskusage(10, 10, 0)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=r"need .* GB, found 0\.00 GB free.*--features FOLDER"):
        get(cache, folders)


def test_a_bf16_trunk_differs_measurably_from_float32_and_a_float32_one_does_not(cache):
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    half = replace(cache.encoder, precision=Precision(torch.device("cpu"), torch.bfloat16))
    assert difference_to_float32(cache.encoder, images) == 0 < difference_to_float32(half, images) < 0.02

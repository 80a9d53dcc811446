"""Digits and backgrounds from disk: what is read, what is held out, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torchvision
from PIL import Image

from pretrain.base.errors import DataError
from pretrain.good_views.moving_mnist.config import SceneConfig
from pretrain.good_views.moving_mnist.pools import load_backgrounds, load_digits, load_worlds, split_by_class
from tests.cases import each


def rows(images):
    return {image.tobytes() for image in images}


def test_digits_are_split_by_class_into_pools_that_share_no_image(sources):
    train, held_out = load_digits(str(sources[0]), held_out_share=0.34)
    with np.load(sources[0]) as file:
        assert rows(train.images) | rows(held_out.images) == rows(file["images"])
    assert not rows(train.images) & rows(held_out.images)
    assert np.bincount(train.labels).tolist() == [4] * 10
    assert np.bincount(held_out.labels).tolist() == [2] * 10


def test_backgrounds_keep_the_split_of_their_folders(sources):
    train, held_out = load_backgrounds(str(sources[1]), size=64, held_out_share=0.5)
    assert train.images.shape == (16, 3, 64, 64) and held_out.images.shape == (8, 3, 64, 64)
    assert train.classes == held_out.classes == ("meadow", "night", "sea", "town")
    assert not rows(train.images) & rows(held_out.images)


def test_backgrounds_without_a_split_are_split_by_class(sources):
    train, held_out = load_backgrounds(str(sources[1] / "train"), size=40, held_out_share=0.25)
    assert np.bincount(train.labels).tolist() == [3] * 4
    assert np.bincount(held_out.labels).tolist() == [1] * 4
    assert not rows(train.images) & rows(held_out.images)


def test_a_background_is_the_middle_square_scaled(tmp_path):
    wide = np.zeros((20, 40, 3), dtype=np.uint8)
    wide[:, 10:30] = (200, 100, 50)
    for name in ("a", "b"):
        for number in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(wide).save(tmp_path / name / f"{number}.png")
    train, _ = load_backgrounds(str(tmp_path), size=50, held_out_share=0.5)
    assert (train.images == np.array([200, 100, 50])[None, :, None, None]).all()


def test_at_least_one_and_never_all_images_of_a_class_are_held_out():
    images, labels = np.arange(24)[:, None], np.repeat(np.arange(2), 12)
    for share, expected in ((0.001, 1), (0.5, 6), (0.999, 11)):
        train, held_out = split_by_class(images, labels, ("a", "b"), share)
        assert np.bincount(held_out.labels).tolist() == [expected] * 2
        assert sorted(np.concatenate((train.images, held_out.images)).ravel()) == list(range(24))


def test_brightness_multiplies_backgrounds_and_leaves_digits_alone(sources):
    digits, backgrounds = map(str, sources)
    full, half = (
        load_worlds(digits, backgrounds, scene=SceneConfig(background_brightness=brightness), held_out_share=0.2)
        for brightness in (1.0, 0.5)
    )
    assert np.array_equal(half.train.digits.images, full.train.digits.images)
    assert np.abs(half.train.backgrounds.images - full.train.backgrounds.images / 2).max() <= 0.5


def test_a_fingerprint_tells_pixels_and_labels(sources):
    train, held_out = load_digits(str(sources[0]), held_out_share=0.2)
    again, _ = load_digits(str(sources[0]), held_out_share=0.2)
    assert train.fingerprint() == again.fingerprint() != held_out.fingerprint()
    again.labels[:2] = again.labels[:2][::-1] + 1
    assert train.fingerprint() != again.fingerprint()


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


IMAGES, LABELS = np.zeros((20, 28, 28), np.uint8), np.repeat(np.arange(10), 2)


@each(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "found images"),
        ({"x": IMAGES, "y": LABELS}, "found x, y"),
        ({"images": IMAGES[:, :27], "labels": LABELS}, r"\(20, 27, 28\)"),
        ({"images": IMAGES / 255, "labels": LABELS}, "float64"),
        ({"images": IMAGES, "labels": LABELS[:5]}, r"\(5,\)"),
        ({"images": IMAGES, "labels": LABELS * 0.5}, "labels float64"),
        ({"images": IMAGES, "labels": LABELS + 1}, "2 other labels"),
        ({"images": IMAGES, "labels": np.minimum(LABELS, 8)}, "two images of each"),
        ({"images": np.array([object()] * 20), "labels": LABELS}, "cannot be read"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, arrays, message):
    path = save(tmp_path / "digits.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_digits(str(path), held_out_share=0.2)


def test_a_missing_or_broken_file_is_refused_with_what_to_pass(tmp_path):
    with pytest.raises(DataError, match="torchvision:DIR"):
        load_digits(str(tmp_path / "none.npz"), held_out_share=0.2)
    for content in (b"no zip", b"PK\x03\x04 cut short", b""):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            load_digits(str(tmp_path / "bad.npz"), held_out_share=0.2)
    np.save(tmp_path / "array.npy", IMAGES)
    with pytest.raises(DataError, match="cannot be read"):
        load_digits(str(tmp_path / "array.npy"), held_out_share=0.2)


def test_too_few_backgrounds_are_refused_with_the_counts(sources, tmp_path):
    folder = sources[1] / "train"
    for path in sorted((folder / "sea").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match="sea 1"):
        load_backgrounds(str(folder), size=64, held_out_share=0.2)
    shutil.rmtree(sources[1] / "test" / "sea")
    with pytest.raises(DataError, match="same class folders"):
        load_backgrounds(str(sources[1]), size=64, held_out_share=0.2)
    with pytest.raises(DataError, match="found nothing"):
        load_backgrounds(str(tmp_path / "none"), size=64, held_out_share=0.2)


def test_a_download_that_fails_says_what_to_give_instead(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets, "MNIST", type("MNIST", (), {"__new__": refuse}))
    with pytest.raises(DataError, match="of your own"):
        load_digits(f"torchvision:{tmp_path}", held_out_share=0.2)


def test_torchvisions_sources_keep_their_split(tmp_path, monkeypatch):
    import torch

    class Mnist:
        def __init__(self, root, *, train, download):
            assert root == tmp_path / "sets" and download
            num = 20 if train else 10
            self.data = torch.full((num, 28, 28), num, dtype=torch.uint8)
            self.targets = torch.arange(num) % 10

    class Stl10:
        def __init__(self, root, *, split, download):
            num = {"train": 6, "test": 4}[split]
            self.data = np.full((num, 3, 96, 96), num, dtype=np.uint8)
            self.labels = np.arange(num, dtype=np.uint8) % 2
            self.classes = ["airplane", "bird"]

    monkeypatch.setattr(torchvision.datasets, "MNIST", Mnist)
    monkeypatch.setattr(torchvision.datasets, "STL10", Stl10)
    monkeypatch.setenv("HOME", str(tmp_path))
    source = "torchvision:~/sets"
    worlds = load_worlds(source, source, scene=SceneConfig(background_size=80), held_out_share=0.2)
    assert len(worlds.train.digits) == 20 and len(worlds.held_out.digits) == 10
    assert worlds.train.backgrounds.images.shape == (6, 3, 80, 80)
    assert (worlds.held_out.backgrounds.images == 4).all()


@pytest.mark.realdata
def test_ten_thousand_real_digits(shared_data):
    train, held_out = load_digits(str(shared_data / "mnist10k.npz"), held_out_share=0.2)
    assert (len(train), len(held_out)) == (8000, 2000)
    assert not rows(train.images) & rows(held_out.images)

"""Images in memory and crops in batches: exact where they can be, near Pillow's elsewhere, and bad files by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.base.errors import DataError
from pretrain.good_views.view_learning.pixels import (
    Boxes,
    PixelSet,
    central_boxes,
    cut,
    draw_boxes,
    load_classes,
    load_images,
)
from pretrain.views.operations import Crop, resized_crop
from tests.pretrain.good_views.view_learning.tiny_game import CLASSES, write_classes


def boxes(top: float, left: float, height: float, width: float, mirrored: bool = False, count: int = 1) -> Boxes:
    return Boxes(*(np.full(count, value) for value in (top, left, height, width)), np.full(count, mirrored))


def noise(count: int = 2, height: int = 24, width: int = 20) -> torch.Tensor:
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_whole_image_at_its_own_size_is_the_image_and_its_mirror() -> None:
    images = noise(1, 16, 16)
    assert torch.allclose(cut(images, boxes(0, 0, 16, 16), size=16), images / 255, atol=1e-5)
    assert torch.allclose(cut(images, boxes(0, 0, 16, 16, True), size=16), images.flip(3) / 255, atol=1e-5)


def test_a_box_of_whole_pixels_is_cut_out_and_enlarged_as_pillow_does() -> None:
    images = noise(1)
    ours = cut(images, boxes(3, 5, 8, 8), size=8)
    assert torch.allclose(ours, images[:, :, 3:11, 5:13] / 255, atol=1e-5)
    smooth = torch.from_numpy(np.linspace(0, 255, 24 * 20 * 3).reshape(1, 24, 20, 3).astype(np.uint8)).permute(
        0, 3, 1, 2
    )
    theirs = resized_crop(Crop(4, 2, 12, 15, 30), smooth[0].permute(1, 2, 0).numpy())
    difference = cut(smooth, boxes(4, 2, 12, 15), size=30)[0] * 255 - torch.from_numpy(theirs.copy()).permute(2, 0, 1)
    assert difference[:, 2:-2, 2:-2].abs().max() < 1.5  # within the box; at its border Pillow sees nothing outside


def test_drawn_boxes_have_the_areas_ratios_and_places_asked_for() -> None:
    drawn = draw_boxes(np.random.default_rng(0), 4000, height=40, width=40, scale=(0.2, 1.0))
    area, ratio = drawn.height * drawn.width / 1600, drawn.width / drawn.height
    assert 0.2 <= area.min() < 0.22 and 0.95 < area.max() <= 1 + 1e-9
    assert ratio.min() >= 0.75 - 1e-9 and ratio.max() <= 4 / 3 + 1e-9
    for start, extent in ((drawn.top, drawn.height), (drawn.left, drawn.width)):
        assert start.min() >= 0 and (start + extent).max() <= 40 + 1e-9
    assert drawn.mirrored.mean() == pytest.approx(0.5, abs=0.03)


def test_where_no_box_fits_the_central_one_is_taken() -> None:
    drawn = draw_boxes(np.random.default_rng(0), 5, height=10, width=100, scale=(1.0, 1.0))
    assert drawn.height.tolist() == [10] * 5 and np.allclose(drawn.width, 10 * 4 / 3)
    assert np.allclose(drawn.left + drawn.width / 2, 50)


def test_central_boxes_are_sixty_four_seventieths() -> None:
    box = central_boxes(3, height=70, width=90)
    assert box.height[0] == pytest.approx(64) and box.top[0] == pytest.approx(3) and box.left[2] == pytest.approx(13)


def test_folders_are_decoded_once_in_order_with_their_labels(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data", per_class=3)
    (root / ".hidden").mkdir()
    pixels = load_classes(root, side=None, announce=print)
    assert pixels.classes == CLASSES and pixels.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert pixels.images.shape == (9, 3, 20, 20) and pixels.images.dtype == torch.uint8
    with Image.open(root / "stripes" / "01.png") as image:
        assert np.array_equal(pixels.images[4].permute(1, 2, 0).numpy(), np.asarray(image))
    unlabelled, fingerprint = load_images(root, side=None, skip_unreadable=False, announce=print)
    assert torch.equal(unlabelled.images, pixels.images) and len(fingerprint) == 64
    assert pixels.take([8, 0]).labels.tolist() == [2, 0] and len(PixelSet(pixels.images, pixels.labels)) == 9


def test_unreadable_images_are_named_and_left_out_only_when_asked(tmp_path: Path) -> None:
    root = write_classes(tmp_path, per_class=2)
    (root / "cross" / "00.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1 of 6 images cannot be read:\n.*cross/00\.png.*\n.*skip_unreadable=true"):
        load_classes(root, side=None, skip_unreadable=False, announce=print)
    messages: list[str] = []
    pixels = load_classes(root, side=None, skip_unreadable=True, announce=messages.append)
    assert pixels.labels.tolist() == [0, 1, 1, 2, 2] and "left out" in messages[0]


def test_a_jpeg_without_its_last_bytes_is_used_and_announced(tmp_path: Path) -> None:
    root = write_classes(tmp_path, per_class=2)
    path = root / "cross" / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(512, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    messages: list[str] = []
    images, _ = load_images(root, side=16, skip_unreadable=False, announce=messages.append)
    assert len(images) == 7 and len(messages) == 1 and "1 of 7 JPEGs lack their last bytes" in messages[0]


def test_sizes_that_differ_are_refused_unless_a_side_is_given(tmp_path: Path) -> None:
    root = write_classes(tmp_path, per_class=1)
    Image.new("RGB", (30, 24)).save(root / "tiles" / "large.png")
    with pytest.raises(DataError, match=r"large\.png: 24 x 30 px, the first image has 20 x 20.*data\.side=20"):
        load_images(root, side=None, skip_unreadable=False, announce=print)
    assert load_images(root, side=16, skip_unreadable=False, announce=print)[0].images.shape == (4, 3, 16, 16)


def test_a_folder_of_train_and_val_is_refused(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_classes(tmp_path / part, per_class=1)
    with pytest.raises(DataError, match=r"holds train/ and val/.*name .*train"):
        load_images(tmp_path, side=None, skip_unreadable=False, announce=print)

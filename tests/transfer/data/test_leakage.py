"""Test images in the pool or in training: copies are found whatever was done to them, other pictures of the same kind are not."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from transfer.data.leakage import find_leakage, leakage_findings
from transfer.data.picture_hashes import DIHEDRAL, perceptual_hashes, variant


def picture(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Blobs of all sizes, in colour."""
    rng = np.random.default_rng(seed)
    layers = [np.asarray(Image.fromarray(rng.integers(256, size=(n, n, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC), float) for n in (3, 6, 12, 24)]  # fmt: skip
    return Image.fromarray(np.clip(sum(layers) / 4 * 2 - 128, 0, 255).astype(np.uint8))


def cropped(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    x, y = round(width * share / 2), round(height * share / 2)
    return image.crop((x, y, width - x, height - y))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "halved": lambda image: image.resize((80, 60)),
    "stretched to a square": lambda image: image.resize((128, 128)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "quarter turn": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "half turn": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "three quarter turns": lambda image: image.transpose(Image.Transpose.ROTATE_270),
    "transposed": lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    "transversed": lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    "turned by 12 degrees": lambda image: image.rotate(12, Image.Resampling.BICUBIC),
    "cropped to 0.85": lambda image: cropped(image, 0.15),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
}


def write_folder(folder: Path, images: dict[str, Image.Image], kind: str = "jpg", **how: int) -> Path:
    folder.mkdir()
    for name, image in images.items():
        image.save(folder / f"{name}.{kind}", **how)
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(tmp_path: Path, change: str) -> None:
    test = write_folder(tmp_path / "test", {str(seed): picture(seed) for seed in range(6)}, "png")
    others = {f"other{seed}": picture(seed) for seed in range(100, 112)}
    pool = write_folder(tmp_path / "pool", {**others, "copy": CHANGES[change](picture(3))}, quality=75)
    (leak,) = find_leakage(pool, None, test)
    assert (Path(leak.test).stem, Path(leak.other).stem, leak.kind, leak.split) == ("3", "copy", "near", "pool")
    assert 0 < leak.distance <= 0.2
    if change == "turned by 12 degrees":
        assert leak.transformation == "turned by 12 degrees"
    if change == "quarter turn":
        assert leak.transformation == "turned by 90 degrees"


def test_the_same_file_and_the_same_pixels_are_exact(tmp_path: Path) -> None:
    test = write_folder(tmp_path / "test", {"a": picture(1), "b": picture(2), "c": picture(3)}, "png")
    train = write_folder(tmp_path / "train", {"b": picture(2)}, "bmp")
    (train / "renamed.png").write_bytes((test / "a.png").read_bytes())
    leaks = find_leakage(None, train, test)
    assert [(Path(leak.test).stem, leak.kind, leak.distance) for leak in leaks] == [("a", "file", 0.0), ("b", "pixels", 0.0)]  # fmt: skip
    assert [finding.id for finding in leakage_findings(leaks)] == ["leakage/exact"] * 2


def test_hashes_of_the_eight_variants_are_those_of_the_changed_pictures() -> None:
    pictures = np.random.default_rng(0).integers(256, size=(5, 64, 64), dtype=np.uint8)
    hashes = perceptual_hashes(pictures)
    for number, (mirrored, turns) in enumerate(DIHEDRAL):
        assert (perceptual_hashes(variant(pictures, mirrored, turns))[:, 0] == hashes[:, number]).all()


def test_a_test_image_in_a_pool_of_any_kind_is_an_error_or_a_warning_where_it_is_allowed(tmp_path: Path) -> None:
    test = write_folder(tmp_path / "test", {"a": picture(1)}, "png")
    pool = write_folder(tmp_path / "pool", {"x": picture(1), "y": picture(2)}, quality=90)
    archive = tmp_path / "pool.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(pool.iterdir()):
            file.write(path, path.name)
    for source in (pool, archive):
        leaks = find_leakage(source, None, test)
        refused, allowed = leakage_findings(leaks), leakage_findings(leaks, allow_pool=True)
        assert [(one.severity, other.severity) for one, other in zip(refused, allowed, strict=True)] == [
            ("error", "warning")
        ]
        assert "x.jpg" in refused[0].message and "--allow-leaks" in refused[0].change


def test_images_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    test = write_folder(tmp_path / "test", {"a": picture(1)}, "png")
    (test / "torn.png").write_bytes((test / "a.png").read_bytes()[:100])
    named: list[str] = []
    assert find_leakage(None, None, test, on_unreadable=lambda name, reason: named.append(Path(name).name)) == []
    assert named == ["torn.png"]


@pytest.mark.realdata
@pytest.mark.slow
def test_real_photos_are_told_apart_and_their_turned_copies_found(shared_data: Path, tmp_path: Path) -> None:
    """COCO's training photos hold none of its validation photos; once 20 turned by 15 degrees are among them, those are found."""
    train, test = shared_data / "coco" / "train2017", shared_data / "coco" / "val2017"
    assert find_leakage(None, train, test) == []
    chosen = sorted(test.glob("*.jpg"))[::5]
    copies = {
        f"copy_{path.stem}": Image.open(path).convert("RGB").rotate(15, Image.Resampling.BICUBIC) for path in chosen
    }
    leaks = find_leakage(write_folder(tmp_path / "pool", copies, quality=75), None, test)
    assert {Path(leak.test).stem for leak in leaks} == {path.stem for path in chosen}
    assert all(Path(leak.other).stem == f"copy_{Path(leak.test).stem}" for leak in leaks)

"""Image files compared with their annotations: what is refused, what is left out and what is used with a note."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from pretrain.base import image_files
from pretrain.base.errors import DataError
from transfer.data.image_checks import check_images
from transfer.data.problems import ReadOptions, read_strictly
from transfer.data.records import DetectionData


def photo(height: int = 64, width: int = 96) -> Image.Image:
    """Detail everywhere, so that every row takes its share of the bytes."""
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8))


def data_of(*paths: Path, size: tuple[int, int] = (64, 96)) -> DetectionData:
    """One record an image, as if annotated with `size` (height, width)."""
    records = tuple(
        {"file_name": str(path), "image_id": i, "height": size[0], "width": size[1], "annotations": []}
        for i, path in enumerate(paths)
    )
    return DetectionData(records, ("thing",), complete_coco=(Path("a.json"), (1,)))


def check(data: DetectionData, **options: bool) -> tuple[DetectionData, tuple[str, ...]]:
    return read_strictly(check_images(data, "train", ReadOptions(**options)), "train")


@pytest.fixture
def image(tmp_path: Path):
    """Function: file name, save options -> path of a 96 x 64 photograph."""

    def write(name: str, picture: Image.Image | None = None, **options) -> Path:
        (picture or photo()).save(tmp_path / name, **options)
        return tmp_path / name

    return write


@pytest.fixture
def truncated(image) -> Path:
    path = image("truncated.jpg", photo(512, 96), quality=90)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def test_sound_images_pass_without_a_word_and_undecoded(image, monkeypatch) -> None:
    data = data_of(image("a.jpg"), image("b.png"), image("c.webp"), image("d.bmp"))

    def decode(file: BinaryIO, name: str, max_pixels: int) -> None:
        raise AssertionError(f"{name} was decoded")

    monkeypatch.setattr(image_files, "_decode", decode)
    assert check(data) == (data, ())
    with pytest.raises(AssertionError, match="was decoded"):  # the control: where images may be left out, all are
        check(data, skip_unreadable=True)


def test_missing_images_are_refused_whatever_is_allowed(image, tmp_path) -> None:
    data = data_of(image("here.png"), tmp_path / "gone.png", tmp_path / "lost.png")
    with pytest.raises(DataError, match="images are missing: 2") as caught:
        check(data, skip_unreadable=True, large_images=True)
    assert all(f"{tmp_path}/{name}: no such file" in str(caught.value) for name in ("gone.png", "lost.png"))


@pytest.mark.parametrize(
    ("there", "named"),
    [("sub/a.png", "sub/a.png"), ("a.jpg", "a.jpg"), ("../beside/a.png", "../beside/a.png"), ("b.png", "")],
)
def test_a_missing_image_that_lies_near_is_found_for_the_user(image, tmp_path, there: str, named: str) -> None:
    folder = tmp_path / "images"
    place = Path(os.path.normpath(folder / there))
    for path in (folder, place.parent):
        path.mkdir(exist_ok=True)
    image("one.png").rename(place)
    with pytest.raises(DataError, match="images are missing: 1") as caught:
        check(data_of(folder / "a.png"))
    assert str(caught.value).endswith(f"(there is {place})" if named else "or remove their entries")


def test_what_cannot_be_read_is_refused_by_name_with_the_switch_or_left_out_with_its_count(image, tmp_path) -> None:
    good, empty, page, half = image("good.png"), tmp_path / "empty.jpg", tmp_path / "page.jpg", image("half.png")
    empty.write_bytes(b"")
    page.write_text("<html>404</html>")
    half.write_bytes(half.read_bytes()[:9000])
    data = data_of(good, empty, page, half)
    with pytest.raises(DataError, match="images cannot be read: 3") as caught:
        check(data)
    text = str(caught.value)
    assert f"{empty}: the file is empty" in text and f"{page}: a page of HTML" in text and f"{half}: damaged" in text
    assert "repair or remove them, or pass --skip-unreadable to leave them out" in text
    kept, notes = check(data, skip_unreadable=True)
    assert [record["file_name"] for record in kept.records] == [str(good)]
    assert len(notes) == 1 and "images cannot be read: 3 (left out (--skip-unreadable))" in notes[0]
    assert kept.complete_coco is None  # the user's own file names images that are not evaluated any more


def test_damage_between_sound_ends_is_left_out_too(image) -> None:
    good, damaged = image("good.png"), image("damaged.png")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    damaged.write_bytes(bytes(content))
    kept, notes = check(data_of(good, damaged), skip_unreadable=True)
    assert len(kept.records) == 1 and "damaged.png: damaged" in notes[0]


def test_data_of_which_no_image_is_left_are_refused(tmp_path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="no image is left"):
        check(data_of(tmp_path / "a.jpg"), skip_unreadable=True)


def test_a_jpeg_without_its_last_bytes_is_used_and_noted_once(truncated) -> None:
    data = data_of(truncated, size=(512, 96))
    kept, notes = check(data)
    assert kept is data and len(notes) == 1
    assert "JPEGs lack their last bytes: 1 (used as they are" in notes[0] and "truncated.jpg: " in notes[0]
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    with pytest.raises(DataError, match=r"truncated: \d+ of its 512 rows are incomplete, at most 32 may be"):
        check(data)


def test_exchanged_width_and_height_are_called_so(image) -> None:
    with pytest.raises(DataError, match="width and height are exchanged in the annotations: 1") as caught:
        check(data_of(image("a.png"), size=(96, 64)))
    assert "is 96 x 64 when upright, its annotation says 64 x 96" in str(caught.value)
    with pytest.raises(DataError, match="another size than their annotation says: 1"):  # the control
        check(data_of(image("a.png"), size=(96, 65)))


def test_annotations_that_ignore_the_orientation_are_called_so(image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.tif"):
        path = image(name, exif=exif)
        with pytest.raises(DataError, match=r"exchanged: the annotations ignore the EXIF orientation(.|\n)*exiftool"):
            check(data_of(path))
        check(data_of(path, size=(96, 64)))  # the control: annotated as it is shown


def test_large_images_need_their_switch(tmp_path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (10_001, 5000)).save(path)
    data = data_of(path, size=(5000, 10_001))
    with pytest.raises(DataError, match=r"more than 50 megapixels: 1(.|\n)*pass --large-images"):
        check(data, skip_unreadable=True)  # large is not unreadable
    assert check(data, large_images=True) == (data, ())


def test_many_offenders_are_counted(image) -> None:
    paths = [image(f"{i:02}.png") for i in range(25)]
    data = data_of(*paths, size=(10, 10))
    with pytest.raises(DataError, match="says: 25(.|\n)*and 5 more"):
        check(replace(data, complete_coco=None))
